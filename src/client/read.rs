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

/// What to fetch of a payload; the default is all of it, from the peer itself.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// Which 16 KiB groups: what is read is the bytes of these groups, one after the other. [`Ranges::covering`] makes them of bytes.
    pub ranges: Ranges,
    /// Refuse an answer of more payload bytes than this; 0 for no bound.
    pub bytes_max: u64,
    /// By which gateways.
    pub route: Option<Route>,
}

/// A payload on its way, in rising order: [`Peer::fetch`](super::Peer::fetch). Dropping it ends the request.
///
/// It is a reader ([`AsyncRead`] and [`AsyncBufRead`] of tokio, which need none of its runtime; `tokio_util::compat` makes those of
/// `futures` of them), and gives no byte that was not checked against the token. What is not read waits, up to 8 MiB; then the peer is
/// stopped by flow control, and no other request with it.
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
/// the reader is the end of the payload: where the payload ends early, reading fails, and fails again when it is tried again.
#[derive(Debug)]
pub struct FetchReader {
    pieces: Pieces,
    /// Of the piece that is being read.
    rest: Bytes,
    failed: bool,
}

impl FetchReader {
    pub(super) async fn start(
        link: &Arc<PeerLink>,
        token: AnyToken,
        options: FetchOptions,
    ) -> Result<Self, ClientError> {
        let FetchOptions { ranges, bytes_max, route } = options;
        let options = PieceOptions { ranges, lanes: None, bytes_max, route };
        let pieces = Pieces::start(link, token, options, false).await?;
        Ok(Self { pieces, rest: Bytes::new(), failed: false })
    }

    /// The whole payload's length, bytes, as the peer says. Bytes that do not fit it are an error.
    pub fn length(&self) -> u64 {
        self.pieces.length()
    }

    /// What the set is, where a set was asked for. It matches the set token.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.pieces.descriptor()
    }

    /// The next bytes, as many as came together; none when all have been given. They are not copied. May be dropped and called again: no
    /// byte is lost.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for what the peer gives up and for bytes that do not match the token, [`ClientError::Lost`] for a lost
    /// connection, [`ClientError::Failed`] when it failed before.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, ClientError>> {
        match poll_fn(|cx| self.poll_rest(cx)).await {
            Ok(()) => Some(std::mem::take(&mut self.rest)).filter(|chunk| !chunk.is_empty()).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// Everything that still comes, in one piece.
    ///
    /// # Errors
    /// Those of [`FetchReader::chunk`], and [`ClientError::TooLong`] as soon as more than `bytes_max` have come.
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

    /// Waits until there is something to read, or nothing more comes.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        // The one piece of an empty payload is empty.
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
