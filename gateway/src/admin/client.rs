//! A client of the endpoint: one request at a time over HTTP or HTTPS, for `top`, `health`, `store` and tests.

use anyhow::{Context, anyhow, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stoq::tls::read_certificates;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer, bytes: far above the answer of a gateway with the most workers.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The default port of `[admin] listen`.
const PORT_DEFAULT: u16 = 9464;
/// The error for a URL without host and port.
const EXAMPLE: &str =
    "no host and port; give one such as http://127.0.0.1:9464, gateway.example:9464 or [::1]:9464";

/// A gateway's admin endpoint.
#[derive(Clone)]
pub struct Remote {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    token: Option<String>,
}

/// Without the token.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Remote {
    /// The endpoint at `url`, such as `http://127.0.0.1:9464` or `127.0.0.1:9464`. A path in `url` is not used here. Without a scheme it is
    /// HTTPS where there is a `ca`, and HTTP otherwise. HTTPS needs the certificates in `ca`; `token_file` holds the bearer token, where
    /// the endpoint requires one.
    ///
    /// # Errors
    /// A URL that is no such address, or a file that cannot be read.
    pub fn new(url: &str, ca: Option<&Path>, token_file: Option<&Path>) -> anyhow::Result<Self> {
        let (scheme, authority, _) = parts(url);
        let scheme = scheme.map(str::to_ascii_lowercase);
        let tls = match (scheme.as_deref(), ca) {
            (Some("http"), _) | (None, None) => None,
            (Some("https") | None, Some(ca)) => Some(trusting(ca)?),
            (Some("https"), None) => bail!("{url}: give the authority's certificates with --ca"),
            (Some(other), _) => bail!("{url}: the scheme `{other}` is not supported; give http or https"),
        };
        let (host, port) = host_and_port(authority).with_context(|| format!("{url}: {EXAMPLE}"))?;
        let token = token_file.map(|file| super::token::read(file, "--token-file")).transpose()?;
        ensure!(
            token.as_deref().is_none_or(is_visible),
            "--token-file: the token has blanks, or bytes that HTTP does not carry; give the gateway's"
        );
        Ok(Self { host, port, tls, token })
    }

    /// Requests `path`. Returns the status code and the body.
    ///
    /// # Errors
    /// The program at that address does not answer, or not in HTTP.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask("GET", path)
    }

    /// Has `path` done. Returns the status code and the body.
    ///
    /// # Errors
    /// Those of [`Remote::get`].
    pub fn post(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let (status, body) = self.exchanged(method, path).map_err(|error| {
            let (host, port) = (&self.host, self.port);
            anyhow!("{host}:{port}: {error:#}; does the gateway run, and is this its `[admin] listen`?")
        })?;
        Ok((status, body))
    }

    /// Whether it shows a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    fn exchanged(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let stream = self.connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answer = match &self.tls {
            None => self.exchange(stream, method, path),
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                let client = ClientConnection::new(tls.clone(), name)?;
                self.exchange(StreamOwned::new(client, stream), method, path)
            }
        };
        let answer = answer?;
        let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
            let code = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
            Some((code, body.to_owned()))
        });
        parsed.context("the answer is not HTTP")
    }

    /// Connects to the first of the host's addresses that answers.
    fn connect(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn exchange(&self, mut stream: impl Read + Write, method: &str, path: &str) -> anyhow::Result<String> {
        // HTTP/1.0: the answer ends with the connection, and is not in chunks.
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n{length}", self.host);
        if let Some(token) = &self.token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The path of a URL, without its query, its fragment and a slash at its end; empty where there is none.
pub(super) fn path_of(url: &str) -> &str {
    let path = parts(url).2;
    path.split(['?', '#']).next().unwrap_or(path).trim_end_matches('/')
}

/// Scheme, authority and the rest of a URL.
fn parts(url: &str) -> (Option<&str>, &str, &str) {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (scheme, authority, path)
}

fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port {
        "" => PORT_DEFAULT,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "@/[]".contains(c));
    plain.then(|| (host.to_owned(), port))
}

fn trusting(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(ca).context("--ca")? {
        roots
            .add(certificate)
            .with_context(|| format!("{} has a certificate that is no authority's", ca.display()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_from_a_url_or_from_a_host_and_port() {
        for (url, host, port, path) in [
            ("http://127.0.0.1:1234", "127.0.0.1", 1234, ""),
            ("http://127.0.0.1:1234/", "127.0.0.1", 1234, ""),
            ("127.0.0.1:1234", "127.0.0.1", 1234, ""),
            ("localhost", "localhost", 9464, ""),
            (" HTTP://gateway.example:80/readyz/?verbose ", "gateway.example", 80, "/readyz"),
            ("[::1]:1234/livez", "::1", 1234, "/livez"),
            ("http://[fd00::1]", "fd00::1", 9464, ""),
        ] {
            let remote = Remote::new(url, None, None).unwrap();
            assert_eq!((remote.host.as_str(), remote.port, path_of(url)), (host, port, path), "{url}");
            assert!(remote.tls.is_none());
        }
        for url in [
            "",
            "http://",
            ":1234",
            "::1:1234",
            "host:",
            "host:0",
            "host:70000",
            "me@host:1",
            "[::1",
            "a b:1",
        ] {
            assert!(Remote::new(url, None, None).is_err(), "{url}");
        }
        let error = |url| format!("{:#}", Remote::new(url, None, None).unwrap_err());
        assert!(error("https://host:1").contains("--ca"));
        assert!(error("ftp://host:1").contains("give http or https"));
    }
}
