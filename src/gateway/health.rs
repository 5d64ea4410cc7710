//! `stoq-gateway health`: asks a running gateway whether it is ready, over plain HTTP. For containers, which need no other
//! program for it then.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Bytes of an answer that are looked at: the status and a few reasons.
const ANSWER_LEN_MAX: usize = 4096;

/// Why a gateway is not known to be well.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No address that could be asked.
    #[error("{0}: give an address such as http://127.0.0.1:9464/readyz")]
    Url(String),
    /// Nobody answered in time.
    #[error("{authority}: {source}; does the gateway run, and is this its `[admin] listen`?")]
    Unreachable {
        /// Who was asked.
        authority: String,
        /// Why there was no answer.
        source: io::Error,
    },
    /// What answered speaks no HTTP/1.
    #[error("{0}: the answer is no HTTP")]
    NotHttp(String),
    /// It answered with another status than 200.
    #[error("{status}{reasons}")]
    Unwell {
        /// The status line.
        status: String,
        /// The rest of the answer, in one line with a colon before it; empty if there is none.
        reasons: String,
    },
}

/// A plain HTTP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `host:port`.
    authority: String,
    /// The path, with its slash.
    path: String,
}

impl FromStr for Url {
    type Err = HealthError;

    fn from_str(text: &str) -> Result<Self, HealthError> {
        let error = || HealthError::Url(text.into());
        let rest = text.strip_prefix("http://").ok_or_else(error)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // Neither may break out of the request's lines.
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        if host.is_empty() || port.parse::<u16>().is_err() || !plain(authority) || !plain(path) {
            return Err(error());
        }
        Ok(Self { authority: format!("{host}:{port}"), path: format!("/{path}") })
    }
}

/// Asks, and waits for `timeout` altogether. Good is status 200 and nothing else.
///
/// # Errors
/// [`HealthError`]: what is not well.
pub fn ask(url: &Url, timeout: Duration) -> Result<(), HealthError> {
    let unreachable = |source| HealthError::Unreachable { authority: url.authority.clone(), source };
    let text = answer(url, Instant::now() + timeout).map_err(unreachable)?;
    let status = text.lines().next().unwrap_or_default();
    match status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)) {
        None => Err(HealthError::NotHttp(url.authority.clone())),
        Some("200") => Ok(()),
        Some(_) => {
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let reasons: Vec<_> = body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let reasons =
                if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
            Err(HealthError::Unwell { status: status.to_owned(), reasons })
        }
    }
}

fn answer(url: &Url, until: Instant) -> io::Result<String> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in url.authority.to_socket_addrs()? {
        match answer_from(url, address, until) {
            Ok(text) => return Ok(text),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn answer_from(url: &Url, address: SocketAddr, until: Instant) -> io::Result<String> {
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    let Url { authority, path } = url;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = vec![0; ANSWER_LEN_MAX];
    let mut len = 0;
    // The answer ends with the connection.
    while len < bytes.len() {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut bytes[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that answers once, and gives back what it was asked.
    fn server(answer: &'static [u8]) -> (Url, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap()).parse().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            let mut bytes = [0; 512];
            while !asked.ends_with("\r\n\r\n") {
                let read = stream.read(&mut bytes).unwrap();
                asked.push_str(str::from_utf8(&bytes[..read]).unwrap());
            }
            stream.write_all(answer).unwrap();
            asked
        });
        (url, thread)
    }

    #[test]
    fn a_gateway_that_is_ready_is_well() {
        let (url, thread) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        ask(&url, PATIENCE).unwrap();
        let asked = thread.join().unwrap();
        assert!(asked.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
    }

    #[test]
    fn any_other_answer_is_unwell() {
        let (url, thread) = server(b"HTTP/1.1 503 Service Unavailable\r\n\r\nlink down\ndraining\n");
        let error = ask(&url, PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "HTTP/1.1 503 Service Unavailable: link down; draining");
        thread.join().unwrap();
        for answer in [&b""[..], b"SSH-2.0-x\r\n", b"\xff\xfe\n", b"HTTP/1.1"] {
            let (url, thread) = server(answer);
            assert!(matches!(ask(&url, PATIENCE), Err(HealthError::NotHttp(_))));
            thread.join().unwrap();
        }
    }

    #[test]
    fn an_answer_without_end_is_read_no_further_than_needed() {
        let (url, thread) = server(&[b'x'; 100_000]);
        assert!(matches!(
            ask(&url, PATIENCE),
            Err(HealthError::NotHttp(_) | HealthError::Unreachable { .. })
        ));
        drop(thread);
    }

    #[test]
    fn nobody_there_and_nobody_answering_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        // The kernel accepts, and nobody answers.
        let error = ask(&url, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, HealthError::Unreachable { .. }), "{error}");
        drop(listener);
        let error = ask(&url, PATIENCE).unwrap_err();
        assert!(error.to_string().contains("does the gateway run"), "{error}");
    }

    #[test]
    fn only_plain_http_addresses_are_taken() {
        let url: Url = "http://[::1]:9464/livez".parse().unwrap();
        assert_eq!(url, Url { authority: "[::1]:9464".into(), path: "/livez".into() });
        assert_eq!("http://localhost".parse::<Url>().unwrap().authority, "localhost:80");
        for wrong in
            ["https://a:1/", "127.0.0.1:9464", "http://", "http://:80/", "http://a:b/", "http://a:1/x\r\ny"]
        {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
    }
}
