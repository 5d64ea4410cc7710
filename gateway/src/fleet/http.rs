//! One connection to a server that has a directory: HTTP/1.1, with TLS or without.

use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{DATE, HOST, HeaderValue, RETRY_AFTER};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use stoq::limits::{FLEET_ANSWER_BYTES_MAX, FLEET_LINE_BYTES_MAX};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection without traffic is probed after this time, so often, and is lost when no probe is answered.
const PROBED_AFTER: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// A server.
#[derive(Clone, Debug)]
pub(super) struct HttpEndpoint {
    /// Host and port, as the configuration has them.
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// A connection.
pub(super) struct HttpConnection {
    sender: SendRequest<String>,
    authority: String,
    /// The certificate that the server showed.
    pub(super) certificate: Option<CertificateDer<'static>>,
    /// The time of day that the last answer named.
    pub(super) date: Option<SystemTime>,
}

impl HttpEndpoint {
    /// Connects.
    pub(super) async fn connect(&self) -> Result<HttpConnection, String> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
        // A watch may be silent for days: the kernel finds out whether the other end is there.
        let alive = || {
            rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
            rustix::net::sockopt::set_tcp_keepidle(&stream, PROBED_AFTER)?;
            rustix::net::sockopt::set_tcp_keepintvl(&stream, PROBED_AFTER)?;
            rustix::net::sockopt::set_tcp_keepcnt(&stream, PROBES)
        };
        alive().map_err(|error| error.to_string())?;
        let mut certificate = None;
        let sender = match &self.tls {
            None => started(TokioIo::new(stream)).await?,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
                let stream = stream.map_err(|error| error.to_string())?;
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                certificate = shown.map(|shown| shown.clone().into_owned());
                started(TokioIo::new(stream)).await?
            }
        };
        Ok(HttpConnection { sender, authority: self.authority.clone(), certificate, date: None })
    }
}

async fn started<S>(stream: S) -> Result<SendRequest<String>, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// An answer whose body begins.
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    /// After how many seconds the server wants to be asked again, where it says so.
    pub(super) retry_after_s: Option<u64>,
    body: Incoming,
}

impl HttpConnection {
    /// Whether the server has not ended it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks.
    pub(super) async fn begin(&mut self, mut request: Request<String>) -> Result<HttpAnswer, String> {
        let host = HeaderValue::from_str(&self.authority).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, host);
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let response = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        self.date = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        let retry_after_s = text(RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
        let status = response.status().as_u16();
        Ok(HttpAnswer { status, retry_after_s, body: response.into_body() })
    }

    /// Asks for one answer, and returns its status and body.
    pub(super) async fn ask(&mut self, request: Request<String>) -> Result<(u16, Vec<u8>), String> {
        let answer = self.begin(request).await?;
        Ok((answer.status, answer.whole().await?))
    }
}

impl HttpAnswer {
    /// The body.
    pub(super) async fn whole(mut self) -> Result<Vec<u8>, String> {
        let mut whole = Vec::new();
        while let Some(part) = next(&mut self.body).await? {
            if whole.len() + part.len() > FLEET_ANSWER_BYTES_MAX {
                return Err(format!("an answer of more than {FLEET_ANSWER_BYTES_MAX} bytes"));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }

    /// Hands each line of the body to `take` until that says no, which is true, or the body ends, which is false.
    pub(super) async fn lines(mut self, mut take: impl FnMut(&[u8]) -> bool) -> Result<bool, String> {
        // The octets before `searched` have no end of a line.
        let (mut buffer, mut searched) = (Vec::new(), 0);
        while let Some(part) = next(&mut self.body).await? {
            buffer.extend_from_slice(&part);
            while let Some(at) = buffer[searched..].iter().position(|octet| *octet == b'\n') {
                let line: Vec<_> = buffer.drain(..=searched + at).collect();
                searched = 0;
                if line.len() > 1 && !take(&line) {
                    return Ok(true);
                }
            }
            searched = buffer.len();
            if searched > FLEET_LINE_BYTES_MAX {
                return Err(format!("a change of more than {FLEET_LINE_BYTES_MAX} bytes"));
            }
        }
        Ok(false)
    }
}

/// The next part of a body.
async fn next(incoming: &mut Incoming) -> Result<Option<Bytes>, String> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *incoming).poll_frame(context)).await;
        match frame.transpose().map_err(|error| error.to_string())? {
            None => return Ok(None),
            // Trailers are none of the body.
            Some(frame) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(_) => continue,
            },
        }
    }
}
