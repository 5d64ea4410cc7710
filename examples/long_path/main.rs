//! A long path in real time, between two Ethernet devices: a bottleneck with a drop-tail buffer, delay, loss and reordering.
//!
//! `long_path JSON`, where JSON has the fields of [`Settings`]. Standard input is a packet socket (AF_PACKET) that is bound to the one device,
//! standard output is one of the other device; `scripts/bench/wan_path.py` makes both. The path is the simulated link of the tests, which
//! `cargo bench --bench wan` has as well: the same model under another clock. Standard error gets a line of JSON ten times a second: what
//! passed until then, and how late it was. It ends when standard error is closed.

mod path;

use path::{LongPath, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Frames that are taken from a socket before others are released.
const BURST_LEN: usize = 32;
/// The largest frame that a socket can hand over: larger ones are cut, and counted as too large.
const FRAME_BYTES_MAX: usize = 65_536;
const REPORT_EVERY: Duration = Duration::from_millis(100);

fn main() -> anyhow::Result<()> {
    let Some(text) = std::env::args().nth(1) else {
        anyhow::bail!("give the path as JSON, such as {}", serde_json::to_string(&Settings::default())?);
    };
    let settings: Settings = serde_json::from_str(&text)?;
    settings.check()?;
    // The standard library's datagram socket sends and receives on a bound packet socket as well: neither call has an address.
    let ends = [
        UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?),
        UnixDatagram::from(io::stdout().as_fd().try_clone_to_owned()?),
    ];
    for end in &ends {
        end.set_nonblocking(true)?;
    }
    carry(LongPath::new(&settings), &ends)
}

/// Takes frames from both ends and releases them when they are due, until standard error is closed.
fn carry(mut path: LongPath, ends: &[UnixDatagram; 2]) -> anyhow::Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let (started, mut reported) = (Instant::now(), Instant::now());
    loop {
        let mut more = false;
        for (from, end) in ends.iter().enumerate() {
            let mut taken = 0;
            while taken < BURST_LEN {
                match end.recv(&mut buffer) {
                    Ok(len) => path.take(Instant::now(), from, &buffer[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
                taken += 1;
            }
            more |= taken == BURST_LEN;
        }
        path.release(Instant::now(), |to, frame| ends[to].send(frame).is_ok_and(|sent| sent == frame.len()));
        let now = Instant::now();
        if now - reported >= REPORT_EVERY {
            reported = now;
            let line = serde_json::to_string(&path.report(now - started))?;
            if writeln!(io::stderr(), "{line}").is_err() {
                return Ok(());
            }
        }
        if !more {
            let until = (reported + REPORT_EVERY).min(path.next_release().unwrap_or(now + REPORT_EVERY));
            wait(ends, until.saturating_duration_since(Instant::now()))?;
        }
    }
}

/// Sleeps until a frame can be taken, or for this time.
fn wait(ends: &[UnixDatagram; 2], time: Duration) -> io::Result<()> {
    let mut sockets = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut sockets, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
