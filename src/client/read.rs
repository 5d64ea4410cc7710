//! A payload as it is fetched, in order: as a reader, as chunks, as bytes.

use super::fetch::{PieceOptions, Pieces};
use super::peer::PeerLink;
use super::{ClientError, Route};
use crate::shard::Descriptor;
use crate::token::{AnyToken, Ranges};
use bytes::{Buf, Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

/// Which parts of a payload to fetch; the default is all of it, from the peer itself.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// Which 16 KiB groups. The reader gives the bytes of these groups, one group after the other. [`Ranges::covering`] makes ranges of
    /// groups from ranges of bytes.
    pub ranges: Ranges,
    /// Refuse an answer of more payload bytes than this; 0 for no bound.
    pub bytes_max: u64,
    /// The gateways on the way, the last of which answers; `None`: the peer itself.
    pub route: Option<Route>,
}

impl From<FetchOptions> for PieceOptions {
    fn from(options: FetchOptions) -> Self {
        let FetchOptions { ranges, bytes_max, route } = options;
        Self { ranges, lanes: None, bytes_max, route }
    }
}

/// A payload on its way, in rising order: [`Peer::fetch`](super::Peer::fetch). Dropping it ends the request.
///
/// It is a reader ([`AsyncRead`] and [`AsyncBufRead`] of tokio, which need no tokio runtime; `tokio_util::compat` converts it to a reader
/// of `futures`), and gives no byte that was not checked against the token. Unread bytes wait, up to 8 MiB. Then flow control stops this
/// request at the peer, and no other.
///
/// ```
/// # mod loopback { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loopback/mod.rs")); }
/// # let gateway = loopback::Gateway::start();
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let client = gateway.client_builder().start()?;
/// # let gateway = client.connect(gateway.address()).await?;
/// # let payload = stoq::client::Prepared::bytes(vec![7; 100_000]);
/// # gateway.put(&payload).await?;
/// # let (token, mut file) = (payload.token, Vec::new());
/// let mut payload = gateway.fetch(token).await?;
/// let copied = tokio::io::copy_buf(&mut payload, &mut file).await?;
/// assert_eq!(copied, payload.length());
/// # assert_eq!(file, [7; 100_000]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A reader's errors are [`io::Error`]s with a [`ClientError`] inside, which `error.downcast::<ClientError>()` gives back. The end of
/// the reader is the end of the payload: if the payload ends early, reading fails, and a further read fails again.
#[derive(Debug)]
pub struct FetchReader {
    pieces: Pieces,
    /// The unread rest of the current piece.
    rest: Bytes,
    failed: bool,
}

impl FetchReader {
    pub(super) async fn start(
        link: &Arc<PeerLink>,
        token: AnyToken,
        options: FetchOptions,
    ) -> Result<Self, ClientError> {
        let pieces = Pieces::start(link, token, options.into(), false).await?;
        Ok(Self { pieces, rest: Bytes::new(), failed: false })
    }

    /// The whole payload's length, bytes, as the peer claims it. An answer that does not fit this length fails.
    pub fn length(&self) -> u64 {
        self.pieces.length()
    }

    /// The set's descriptor, if a set token was fetched. It matches that token.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.pieces.descriptor()
    }

    /// The next bytes, as many as arrived together; `None` after the last. They are not copied. The future may be dropped and called again:
    /// no byte is lost.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a request that the peer gives up and for bytes that do not match the token; [`ClientError::Lost`] or
    /// [`ClientError::Stopped`] for a lost connection; [`ClientError::Failed`] if the fetch failed before.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, ClientError>> {
        match poll_fn(|cx| self.poll_rest(cx)).await {
            Ok(()) => Some(std::mem::take(&mut self.rest)).filter(|chunk| !chunk.is_empty()).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// All remaining bytes at once.
    ///
    /// # Errors
    /// Those of [`FetchReader::chunk`], and [`ClientError::TooLong`] as soon as there are more than `bytes_max`.
    pub async fn bytes(mut self, bytes_max: u64) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        let mut only = Bytes::new();
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if (only.len() + whole.len() + chunk.len()) as u64 > bytes_max {
                return Err(ClientError::TooLong(bytes_max));
            }
            if only.is_empty() && whole.is_empty() {
                only = chunk;
                continue;
            }
            whole.extend_from_slice(&std::mem::take(&mut only));
            whole.extend_from_slice(&chunk);
        }
        Ok(if whole.is_empty() { only } else { whole.freeze() })
    }

    /// Waits until there are bytes to read, or the payload ends.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        // An empty payload has one piece, which is empty.
        while self.rest.is_empty() {
            if self.failed {
                return Poll::Ready(Err(ClientError::Failed));
            }
            match ready!(self.pieces.poll_next(cx)) {
                Some(Ok(piece)) => self.rest = piece.data,
                Some(Err(error)) => {
                    self.failed = true;
                    return Poll::Ready(Err(error));
                }
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for FetchReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        let len = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for FetchReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_rest(cx))?;
        Poll::Ready(Ok(&this.rest))
    }

    fn consume(mut self: Pin<&mut Self>, len: usize) {
        self.rest.advance(len);
    }
}
