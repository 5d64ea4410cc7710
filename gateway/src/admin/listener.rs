//! The listener: TCP or TLS connections, a bounded number at once, each with deadlines for silence, for a request's head and for its age.

use super::hosts;
use super::places::{AdminPlace, AdminPlaces};
use crate::config::AdminConfig;
use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use stoq::limits::{ADMIN_AGE_S, ADMIN_HANDSHAKE_S, ADMIN_HEAD_S, ADMIN_IDLE_S};
use stoq::tls::{read_any_key, read_certificates};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const IDLE: Duration = Duration::from_secs(ADMIN_IDLE_S);

/// The TLS configuration and the token of the endpoint. A reload reads both again.
pub struct Access {
    /// None: no TLS.
    tls: Option<TlsAcceptor>,
    /// The hash of the token: the time of comparing hashes reveals nothing of the token.
    token: Option<blake3::Hash>,
    /// Names under which it answers without a token, besides addresses and `localhost`.
    hosts: Vec<String>,
}

/// Why a request may not read guarded paths.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdminRefusal {
    /// It lacks the token.
    Token,
    /// There is no token, and its Host is not known here.
    Host,
}

/// The [`Access`] in effect.
pub(super) type Current = Arc<RwLock<Access>>;

impl Access {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// A file that is missing or wrong, with its name.
    pub fn read(config: &AdminConfig) -> anyhow::Result<Self> {
        let token = config.token_file.as_deref();
        let token = token.map(|file| super::token::read(file, "admin.token_file")).transpose()?;
        let token = token.map(|token| blake3::hash(token.as_bytes()));
        Ok(Self { tls: tls(config)?, token, hosts: config.hosts.clone() })
    }

    /// Whether connections are encrypted.
    pub(super) fn encrypts(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a token is required.
    pub(super) fn asks(&self) -> bool {
        self.token.is_some()
    }

    /// Whether a request with these headers may read guarded paths.
    pub(super) fn admits(&self, headers: &HeaderMap) -> Result<(), AdminRefusal> {
        let Some(token) = self.token else {
            return if hosts::admits(&self.hosts, headers) { Ok(()) } else { Err(AdminRefusal::Host) };
        };
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
        let is_token = shown.is_some_and(|shown| blake3::hash(shown.as_bytes()) == token);
        if is_token { Ok(()) } else { Err(AdminRefusal::Token) }
    }
}

fn tls(config: &AdminConfig) -> anyhow::Result<Option<TlsAcceptor>> {
    let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
    let chain = read_certificates(certificate).context("admin.certificate")?;
    let key = read_any_key(key).context("admin.key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("admin: the versions of TLS are refused")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => anyhow!("admin.key does not belong to admin.certificate; give that certificate's own key"),
            _ => anyhow!("admin.key is no RSA, ECDSA or Ed25519 key; make one for this endpoint, since browsers take no Falcon"),
        })?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

/// Accepts connections from `listener`, and serves each by `router` in a task of its own.
pub(super) async fn serve(listener: TcpListener, access: Current, router: Router) {
    let places = Arc::new(AdminPlaces::default());
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // The process may be out of file descriptors: an immediate retry would fail as well.
                tracing::warn!(%error, "the admin endpoint cannot take a connection");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Some(place) = places.take(remote.ip()) else {
            tracing::debug!(%remote, "the admin endpoint has no place for a connection");
            continue;
        };
        let tls = access.read().unwrap_or_else(PoisonError::into_inner).tls.clone();
        tokio::spawn(attend(stream, tls, place, router.clone()));
    }
}

/// Serves one connection until it ends, its time is over, or another connection gets its place.
async fn attend(stream: TcpStream, tls: Option<TlsAcceptor>, mut place: AdminPlace, router: Router) {
    let is_busy = place.is_busy();
    let served = async {
        let io = match tls {
            None => Io::Plain(stream),
            Some(tls) => {
                let limit = Duration::from_secs(ADMIN_HANDSHAKE_S);
                let Ok(Ok(stream)) = timeout(limit, tls.accept(stream)).await else { return };
                Io::Tls(Box::new(stream))
            }
        };
        let guest = TokioIo::new(Guest { io, idle: Box::pin(sleep(IDLE)) });
        let router = TowerToHyperService::new(router);
        let service = service_fn(|request| {
            is_busy.store(true, Ordering::Relaxed);
            let answer = router.call(request);
            let is_busy = &is_busy;
            async move {
                let answer = answer.await;
                is_busy.store(false, Ordering::Relaxed);
                answer
            }
        });
        let head = Duration::from_secs(ADMIN_HEAD_S);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(head);
        let mut connection = pin!(http.serve_connection(guest, service));
        // How a connection ends is of no account: it only reads.
        if timeout(Duration::from_secs(ADMIN_AGE_S), &mut connection).await.is_err() {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(IDLE, connection).await;
        }
    };
    tokio::select! {
        () = served => {}
        _ = &mut place.ended => {}
    }
}

/// One connection. It ends after [`ADMIN_IDLE_S`] without progress.
struct Guest {
    io: Io,
    idle: Pin<Box<Sleep>>,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Guest {
    /// Polls the stream. Its progress restarts the idle timeout; a stream without progress fails at the end of it.
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut dyn ByteStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let stream: Pin<&mut dyn ByteStream> = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream),
            Io::Tls(stream) => Pin::new(stream),
        };
        if let Poll::Ready(result) = poll(stream, cx) {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return Poll::Ready(result);
        }
        ready!(self.idle.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.timed(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.timed(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.timed(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.timed(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
