//! The kernel's end of the exception path: one thread moves packets between the interface and the workers' rings.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};
use stoq::datagram::exception_path::ExceptionPath;
use stoq::limits::EXCEPTIONS_BURST;
use tun_rs::SyncDevice;

/// The largest IP packet, bytes.
const PACKET_BYTES_MAX: usize = 65_535;

/// The running thread. Dropping it ends it.
pub(super) struct ExceptionThread {
    path: Arc<ExceptionPath>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ExceptionThread {
    /// Moves packets between this interface and these rings from now on.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(device: Arc<SyncDevice>, path: Arc<ExceptionPath>) -> io::Result<Self> {
        device.set_nonblocking(true)?;
        let ended = Arc::<AtomicBool>::default();
        let (of_thread, rings) = (ended.clone(), path.clone());
        let run = move || {
            if let Err(error) = move_packets(&device, &rings, &of_thread) {
                tracing::error!(
                    %error,
                    "the interface of [anycast] carries no packets any more: routing daemons lose their neighbors; restart the gateway"
                );
            }
        };
        let thread = Builder::new().name("stoq-exceptions".into()).spawn(run)?;
        Ok(Self { path, ended, thread: Some(thread) })
    }
}

impl Drop for ExceptionThread {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        self.path.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the exception path panicked");
        }
    }
}

fn move_packets(device: &SyncDevice, path: &ExceptionPath, ended: &AtomicBool) -> io::Result<()> {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    while !ended.load(Relaxed) {
        let mut waits =
            [PollFd::new(device, PollFlags::IN), PollFd::from_borrowed_fd(path.event(), PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        path.clear();
        while let Some(packet) = path.receive() {
            // Such as one that the kernel finds malformed, or while an administrator has set the interface down.
            if device.send(&packet).is_err() {
                path.count_refused();
            }
        }
        for _ in 0..EXCEPTIONS_BURST {
            match device.recv(&mut packet) {
                Ok(len) => path.send(&packet[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
