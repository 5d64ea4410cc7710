//! The thread that follows a fleet's directory, and what it tells.

use super::exchange::MemberStatus;
use super::table::FleetTable;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// What the thread tells of the directory.
pub trait FleetWatcher: Send {
    /// Takes a new table of this cluster. Returns the revision of the rotations that the gateway goes by.
    fn table(&mut self, cluster: u64, table: &Arc<FleetTable>) -> u64;
    /// Tries again what was refused, at each turn. Returns the revision of the rotations that the gateway goes by, if it tried.
    fn again(&mut self) -> Option<u64>;
    /// Whether the gateway is ready, which its lease tells. It is asked at each turn.
    fn is_ready(&mut self) -> bool;
    /// Takes the state. Returns whether the cluster that answers is to be adopted.
    fn status(&mut self, status: &MemberStatus) -> bool;
}

/// Whether the thread is to end.
#[derive(Default)]
pub(super) struct DirectoryEnd {
    is_over: AtomicBool,
    told: Notify,
}

impl DirectoryEnd {
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits for the end.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

/// The thread. Dropping it ends the gateway's lease, as far as the directory answers.
pub(super) struct DirectoryThread {
    end: Arc<DirectoryEnd>,
    thread: Option<JoinHandle<()>>,
}

impl DirectoryThread {
    /// Has a thread follow the directory.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start<F: Future<Output = ()>>(
        follow: impl FnOnce(Arc<DirectoryEnd>) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let end = Arc::<DirectoryEnd>::default();
        let ended = end.clone();
        let thread = std::thread::Builder::new().name("stoq-fleet".into()).spawn(move || {
            runtime.block_on(follow(ended));
            runtime.shutdown_background();
        })?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for DirectoryThread {
    fn drop(&mut self) {
        self.end.is_over.store(true, Ordering::Relaxed);
        self.end.told.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the fleet's directory panicked");
        }
    }
}
