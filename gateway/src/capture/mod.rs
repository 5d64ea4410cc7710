//! Captures the frames of a DPDK port, which the kernel's tools do not see, by way of a Unix socket that only its owner may open.
//!
//! A recorder sends one line of JSON ([`Wanted`]) and gets a pcapng file until it closes its sending side: frames of the tap that match the
//! filter and, only where the configuration allows it, the TLS secrets of connections that begin meanwhile. One capture at a time.

pub mod filter;
pub mod pcapng;

use crate::faults::started;
use anyhow::{Context, anyhow, bail, ensure};
use filter::Filter;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stoq::nic::tap::Tap;

/// How long frames gather in the ring before they are written.
const GATHER: Duration = Duration::from_millis(5);
/// How long a line or a block may take to pass the socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a client that connects during another's capture.
const TURN_AWAY: Duration = Duration::from_millis(100);
/// The longest request.
const WANTED_BYTES_MAX: u64 = 4096;
/// Frames written between two looks at the socket.
const BATCH_LEN: usize = 1024;

/// A recorder's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// See [`Filter`].
    pub filter: String,
    /// Take every `sample`-th frame of each queue, before the filter; at least 1.
    pub sample: u32,
}

/// The gateway's server of captures. Dropping it ends it.
pub struct CaptureServer {
    path: PathBuf,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CaptureServer {
    /// Serves the frames of `tap`, the tap of the ports of these devices, at `path`.
    ///
    /// # Errors
    /// The socket cannot be made. The error names its path.
    pub fn start(path: &Path, devices: Vec<String>, tap: Arc<Tap>) -> anyhow::Result<Self> {
        let listener = listen(path).with_context(|| format!("capture.socket: {}", path.display()))?;
        let ending = Arc::new(AtomicBool::new(false));
        let ended = ending.clone();
        let thread = std::thread::Builder::new().name("stoq-capture".into());
        let thread = thread.spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Err(error) = serve(stream, &listener, &devices, &tap, &ended) {
                    tracing::warn!(error = format!("{error:#}"), "a capture ended early");
                }
                tap.set_sample(0);
                discard(&tap);
            }
        });
        let thread = Some(started("serves captures", thread)?);
        Ok(Self { path: path.to_owned(), ending, thread })
    }
}

impl Drop for CaptureServer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // A connection ends the server's wait for a client.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Checks that a socket can be served at `path`, and leaves none there.
///
/// # Errors
/// Those of [`CaptureServer::start`], without the path.
pub fn can_listen(path: &Path) -> anyhow::Result<()> {
    drop(listen(path)?);
    std::fs::remove_file(path).map_err(|error| anyhow!("cannot be removed again: {error}"))
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            bail!("exists already and is no socket; name another path")
        }
        Ok(_) => match UnixStream::connect(path) {
            // A killed gateway left its socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another gateway serves captures there; name another path",
                )
                .into());
            }
            Err(error) => bail!("is a socket of another program ({error}); name another path"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        anyhow!("cannot be made ({error}); does its directory exist, and may this user write there?")
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn serve(
    mut stream: UnixStream,
    listener: &UnixListener,
    devices: &[String],
    tap: &Tap,
    ending: &AtomicBool,
) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let filter = match read_wanted(&stream) {
        Ok((filter, wanted)) => {
            discard(tap);
            tap.set_sample(wanted.sample);
            tracing::info!(filter = wanted.filter, sample = wanted.sample, "capture begins");
            filter
        }
        Err(error) => {
            // `stoq-gateway check` connects, sends nothing and closes: the answer is lost.
            let _ = stream.write_all(format!("{error:#}\n").as_bytes());
            return Ok(());
        }
    };
    let dropped_before = tap.dropped();
    stream.set_read_timeout(Some(GATHER))?;
    listener.set_nonblocking(true)?;
    let _blocking = Blocking(listener);
    let mut recording = Recording::new(filter, devices);
    loop {
        recording.add(tap);
        recording.pass(&mut stream)?;
        if let Ok((other, _)) = listener.accept() {
            // A client that does not read the answer loses it.
            let _ = turn_away(other);
        }
        if has_closed(&stream)? || ending.load(Ordering::Relaxed) {
            break;
        }
    }
    // The ring still holds frames that passed before the end, and gets no more.
    tap.set_sample(0);
    while recording.add(tap) > 0 {
        recording.pass(&mut stream)?;
    }
    let dropped = tap.dropped() - dropped_before;
    recording.end(dropped);
    recording.pass(&mut stream)?;
    tracing::info!(frames = recording.frames, dropped, "capture ended");
    Ok(())
}

/// Whether a recorder has closed its sending side; waits [`GATHER`] for it.
fn has_closed(mut stream: &UnixStream) -> io::Result<bool> {
    match stream.read(&mut [0]) {
        Ok(count) => Ok(count == 0),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A pcapng file in the making.
struct Recording {
    filter: Filter,
    /// The same moment by both clocks.
    start: (Instant, Duration),
    /// Blocks that are not written to the socket yet.
    out: Vec<u8>,
    /// Frames that matched the filter.
    frames: u64,
}

impl Recording {
    fn new(filter: Filter, devices: &[String]) -> Self {
        let mut out = Vec::new();
        pcapng::section(&mut out);
        devices.iter().for_each(|device| pcapng::interface(&mut out, device));
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { filter, start: (Instant::now(), clock), out, frames: 0 }
    }

    /// Adds at most [`BATCH_LEN`] frames of the ring and their secrets. Returns the number of frames taken from the ring.
    fn add(&mut self, tap: &Tap) -> usize {
        // The tap gets a secret before the frames that it decrypts. Frames are taken first and secrets second, so the secrets of all
        // these frames are there. They are written in front of the frames.
        let copied: Vec<_> = std::iter::from_fn(|| tap.take()).take(BATCH_LEN).collect();
        let secrets: String = std::iter::from_fn(|| tap.take_secret()).collect();
        if !secrets.is_empty() {
            pcapng::secrets(&mut self.out, &secrets);
        }
        let (start, clock) = self.start;
        for copied in &copied {
            if self.filter.takes(&copied.frame) {
                // Frames of the turn in which the capture began are a little older than the capture.
                let at = match copied.at.checked_duration_since(start) {
                    Some(since) => clock + since,
                    None => clock.saturating_sub(start.saturating_duration_since(copied.at)),
                };
                pcapng::packet(&mut self.out, copied.port.into(), at, copied.sent, &copied.frame);
                self.frames += 1;
            }
        }
        copied.len()
    }

    /// Adds the block that ends a file; `dropped` is the number of frames that found the ring full.
    fn end(&mut self, dropped: u64) {
        let (start, clock) = self.start;
        pcapng::statistics(&mut self.out, 0, clock + start.elapsed(), dropped);
    }

    /// Writes the added blocks to the socket.
    fn pass(&mut self, stream: &mut UnixStream) -> anyhow::Result<()> {
        stream.write_all(&self.out).context("the recorder is slow or gone")?;
        self.out.clear();
        Ok(())
    }
}

/// Tells a client that only one may capture, after reading its request: closing a socket with unread bytes drops the answer.
fn turn_away(mut other: UnixStream) -> io::Result<()> {
    other.set_read_timeout(Some(TURN_AWAY))?;
    other.set_write_timeout(Some(TURN_AWAY))?;
    let _ = read_wanted(&other);
    other.write_all(b"another capture is running; wait until it ends\n")
}

/// Empties the tap: the next capture must not get frames and secrets of the last one.
fn discard(tap: &Tap) {
    while tap.take().is_some() || tap.take_secret().is_some() {}
}

/// Makes a listener block again when dropped.
struct Blocking<'a>(&'a UnixListener);

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        let _ = self.0.set_nonblocking(false);
    }
}

fn read_wanted(stream: &UnixStream) -> anyhow::Result<(Filter, Wanted)> {
    let mut line = String::new();
    BufReader::new(stream.take(WANTED_BYTES_MAX))
        .read_line(&mut line)
        .context("the recorder sent no request")?;
    let wanted: Wanted = serde_json::from_str(&line).context("the recorder's request cannot be read")?;
    ensure!(wanted.sample > 0, "sample takes every N-th frame; give at least 1");
    Ok((wanted.filter.parse()?, wanted))
}

/// The end of a recording: the first of these conditions that is met.
#[derive(Clone, Debug, Default)]
pub struct Until {
    /// After this number of frames.
    pub frames: Option<u64>,
    /// At this time.
    pub deadline: Option<Instant>,
    /// Once this is set.
    pub stopped: Arc<AtomicBool>,
}

/// Records a capture of the gateway at `socket` into `out`, whole blocks only. Returns the number of frames. Calls `begun` once, when the
/// gateway's first block has arrived: frames that pass from then on are in the capture.
///
/// # Errors
/// The gateway refuses, no gateway serves the socket, `out` cannot be written, or `begun` fails.
pub fn record(
    socket: &Path,
    wanted: &Wanted,
    until: &Until,
    mut out: impl Write,
    mut begun: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    wanted.filter.parse::<Filter>()?;
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        anyhow!("{}: no gateway serves captures there ({error}); see [capture] socket", socket.display())
    })?;
    let mut line = serde_json::to_vec(wanted)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut buffer, mut chunk, mut frames, mut ending) = (Vec::new(), vec![0; 64 * 1024], 0, false);
    loop {
        let enough = until.frames.is_some_and(|max| frames >= max)
            || until.deadline.is_some_and(|at| Instant::now() >= at)
            || until.stopped.load(Ordering::Relaxed);
        if enough && !std::mem::replace(&mut ending, true) {
            stream.shutdown(Shutdown::Write)?;
        }
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => buffer.extend(&chunk[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error).context("the capture broke off"),
        }
        let mut at = 0;
        while let Some((kind, len)) = next_block(&buffer[at..])? {
            let is_frame = kind == pcapng::PACKET;
            if !is_frame || until.frames.is_none_or(|max| frames < max) {
                out.write_all(&buffer[at..at + len])?;
                frames += u64::from(is_frame);
            }
            at += len;
            if kind == pcapng::SECTION {
                begun()?;
            }
        }
        buffer.drain(..at);
    }
    out.flush()?;
    ensure!(buffer.is_empty(), "{}", String::from_utf8_lossy(&buffer).trim_end());
    Ok(frames)
}

/// The type and the length of the first block, once it is complete. A gateway that refuses sends a line of text instead.
fn next_block(bytes: &[u8]) -> anyhow::Result<Option<(u32, usize)>> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (Some(kind), Some(len)) = (word(0), word(4)) else { return Ok(None) };
    // Block types are small numbers; the first bytes of a text are not.
    let is_block = kind == pcapng::SECTION || kind < 256;
    let len = len as usize;
    Ok((is_block && len >= pcapng::FRAME_LEN && bytes.len() >= len).then_some((kind, len)))
}

/// Gives a tap the TLS secrets of connections that begin during a capture.
#[derive(Debug)]
pub struct Secrets(pub Arc<Tap>);

impl rustls::KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        self.0.add_secret(|| format!("{label} {} {}\n", hex(client_random), hex(secret)));
    }
}

#[cfg(test)]
mod tests;
