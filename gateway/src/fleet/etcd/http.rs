//! One connection to a member of etcd: HTTP/1.1, with TLS or without.

use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use stoq::limits::{FLEET_ANSWER_BYTES_MAX, FLEET_LINE_BYTES_MAX};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection without traffic is probed after this time, so often, and is lost when no probe is answered.
const PROBED_AFTER: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// An endpoint of etcd.
#[derive(Clone, Debug)]
pub(super) struct EtcdEndpoint {
    /// Host and port, as the configuration has them.
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// A connection.
pub(super) struct EtcdConnection {
    sender: SendRequest<String>,
    authority: String,
    /// The certificate that etcd showed.
    pub(super) certificate: Option<CertificateDer<'static>>,
    /// The time of day that the last answer named.
    pub(super) date: Option<SystemTime>,
}

impl EtcdEndpoint {
    /// Connects.
    pub(super) async fn connect(&self) -> Result<EtcdConnection, String> {
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
        Ok(EtcdConnection { sender, authority: self.authority.clone(), certificate, date: None })
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

impl EtcdConnection {
    /// Asks, and returns the status and the body that begins.
    async fn post(
        &mut self,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<(u16, Incoming), String> {
        let mut request = Request::post(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header("Grpc-Metadata-hasleader", "true")
            .body(body.to_string())
            .map_err(|error| error.to_string())?;
        if let Some(token) = token {
            let token = HeaderValue::from_str(token).map_err(|error| error.to_string())?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let response = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        self.date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// Asks for one answer.
    pub(super) async fn ask(
        &mut self,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<(u16, Vec<u8>), String> {
        let (status, mut incoming) = self.post(path, body, token).await?;
        let mut whole = Vec::new();
        while let Some(part) = next(&mut incoming).await? {
            if whole.len() + part.len() > FLEET_ANSWER_BYTES_MAX {
                return Err(format!("an answer of more than {FLEET_ANSWER_BYTES_MAX} bytes"));
            }
            whole.extend_from_slice(&part);
        }
        Ok((status, whole))
    }

    /// Asks for a stream of lines, and hands each to `take` until that says no, or the stream ends.
    pub(super) async fn lines(
        mut self,
        path: &str,
        body: &Value,
        token: Option<&str>,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), String> {
        let (_, mut incoming) = self.post(path, body, token).await?;
        // The octets before `searched` have no end of a line.
        let (mut buffer, mut searched) = (Vec::new(), 0);
        while let Some(part) = next(&mut incoming).await? {
            buffer.extend_from_slice(&part);
            while let Some(at) = buffer[searched..].iter().position(|octet| *octet == b'\n') {
                let line: Vec<_> = buffer.drain(..=searched + at).collect();
                searched = 0;
                if line.len() > 1 && !take(&line) {
                    return Ok(());
                }
            }
            searched = buffer.len();
            if searched > FLEET_LINE_BYTES_MAX {
                return Err(format!("a change of more than {FLEET_LINE_BYTES_MAX} bytes"));
            }
        }
        Err("the watch has ended".into())
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
