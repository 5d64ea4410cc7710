//! Payload bytes on their way to standard output, a pipe or a character device.

use crate::output::ReaderGone;
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use stoq::client::ClientError;
use stoq::limits::STREAM_PIECES_LEN;
use stoq_gateway::faults::started;
use tokio::sync::{mpsc, oneshot};

/// Paths of standard output.
const STANDARD_OUTPUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

pub(crate) fn is_standard_output(output: &Path) -> bool {
    STANDARD_OUTPUT.iter().any(|name| output.as_os_str() == *name)
}

/// Opens an output that takes bytes in order and has no length: standard output, a pipe, a character device.
/// None for other files. Opening a pipe waits for its reader.
pub(crate) fn open(output: &Path) -> anyhow::Result<Option<File>> {
    if is_standard_output(output) {
        // A file of its own: the standard library's handle would search every byte for line ends.
        return Ok(Some(File::from(io::stdout().as_fd().try_clone_to_owned()?)));
    }
    let streams = std::fs::metadata(output).map(|there| there.file_type());
    if !streams.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device()) {
        return Ok(None);
    }
    let opened = OpenOptions::new().write(true).open(output);
    let opened = opened.map_err(|source| ClientError::File { path: output.display().to_string(), source })?;
    Ok(Some(opened))
}

/// A thread that writes the output: a slow reader then blocks neither signals nor the connection.
pub(crate) struct OutputStream {
    pieces: mpsc::Sender<Bytes>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl OutputStream {
    pub(crate) fn start(out: File) -> anyhow::Result<Self> {
        let (pieces, mut waiting) = mpsc::channel::<Bytes>(STREAM_PIECES_LEN);
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("stoq-stream".into()).spawn(move || {
            let mut written = Ok(());
            while written.is_ok()
                && let Some(piece) = waiting.blocking_recv()
            {
                written = write_all(&out, &piece);
            }
            let _ = end.send(written);
        });
        started("writes the output", thread)?;
        Ok(Self { pieces, ended })
    }

    /// Hands a piece to the thread, when it has room for it. False once the thread failed: [`Self::finish`]
    /// tells why.
    pub(crate) async fn write(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        let Self { pieces, ended } = self;
        drop(pieces);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
            Ok(Err(error)) => Err(ClientError::Sink(error).into()),
            Err(_) => Err(ClientError::Stopped.into()),
        }
    }
}

/// Writes all bytes. Another process may have made a pipe non-blocking.
fn write_all(mut out: &File, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match out.write(data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(&out, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
