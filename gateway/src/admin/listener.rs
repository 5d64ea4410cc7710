//! The listener: TCP or TLS connections, a bounded number at once, each with an idle timeout.

use crate::config::AdminConfig;
use anyhow::{Context as _, anyhow};
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use stoq::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HANDSHAKE_S, ADMIN_IDLE_S};
use stoq::tls::{read_any_key, read_certificates};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
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
        Ok(Self { tls: tls(config)?, token: token.map(|token| blake3::hash(token.as_bytes())) })
    }

    /// Whether connections are encrypted.
    pub(super) fn encrypts(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a token is required.
    pub(super) fn asks(&self) -> bool {
        self.token.is_some()
    }

    /// Whether a request with this bearer token, or none, may read guarded paths.
    pub(super) fn admits(&self, shown: Option<&str>) -> bool {
        self.token.is_none_or(|token| shown.is_some_and(|shown| blake3::hash(shown.as_bytes()) == token))
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

/// Connections that are ready to be served.
pub(super) struct Door {
    local: SocketAddr,
    ready: mpsc::Receiver<(Guest, SocketAddr)>,
}

impl Door {
    /// Accepts connections from `listener`, in a task of the current runtime.
    pub(super) fn open(listener: TcpListener, access: Current) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (send, ready) = mpsc::channel(ADMIN_CONNECTIONS_MAX);
        tokio::spawn(accept(listener, access, send));
        Ok(Self { local, ready })
    }
}

impl axum::serve::Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        match self.ready.recv().await {
            Some(guest) => guest,
            // The accepting task ends with the runtime only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

async fn accept(listener: TcpListener, access: Current, ready: mpsc::Sender<(Guest, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // The process may be out of file descriptors: an immediate retry would fail as well.
                tracing::warn!(%error, "the admin endpoint cannot take a connection");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let tls = access.read().unwrap_or_else(PoisonError::into_inner).tls.clone();
        let ready = ready.clone();
        // A slow handshake does not delay other connections.
        tokio::spawn(async move {
            let io = match tls {
                None => Io::Plain(stream),
                Some(tls) => {
                    let limit = Duration::from_secs(ADMIN_HANDSHAKE_S);
                    let Ok(Ok(stream)) = timeout(limit, tls.accept(stream)).await else { return };
                    Io::Tls(Box::new(stream))
                }
            };
            let guest = Guest { io, idle: Box::pin(sleep(IDLE)), _place: place };
            let _ = ready.send((guest, remote)).await;
        });
    }
}

/// One connection. It ends after [`ADMIN_IDLE_S`] without progress.
pub(super) struct Guest {
    io: Io,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
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
