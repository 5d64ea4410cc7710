//! The thread that follows a fleet's directory, and what it tells.

use super::exchange::MemberStatus;
use super::member::FleetMember;
use super::table::FleetTable;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stoq::limits::{FLEET_LEAVE_MS_MAX, FLEET_READY_MS};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

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

/// What drives the member of a directory of one kind over its connections.
pub(super) trait DirectoryDriver {
    /// What the connections tell.
    type Event;

    /// The member.
    fn member(&mut self) -> &mut FleetMember;
    /// Gives the member an event of this session.
    fn handle(&mut self, now: Instant, session: u64, event: Self::Event);
    /// Does what the member asks, until it asks nothing more.
    fn ask(&mut self);
    /// When to ask again, if no event comes before.
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// Has the member take the directory that answers, whatever was known of it.
    fn adopt(&mut self, now: Instant);
}

/// Drives a member until `end`, and has the watcher told of what it learns.
pub(super) async fn drive<D: DirectoryDriver>(
    mut driver: D,
    mut events: UnboundedReceiver<(u64, D::Event)>,
    mut watcher: impl FleetWatcher,
    end: &DirectoryEnd,
) {
    let mut leave_by: Option<Instant> = None;
    loop {
        turn(&mut driver, &mut watcher);
        let is_over = end.is_over();
        if is_over && leave_by.is_none() {
            leave_by = Some(Instant::now() + Duration::from_millis(FLEET_LEAVE_MS_MAX));
            driver.member().leave();
            continue;
        }
        if leave_by.is_some_and(|by| driver.member().has_left() || by <= Instant::now()) {
            return;
        }
        // Nothing tells of readiness.
        let look = Instant::now() + Duration::from_millis(FLEET_READY_MS);
        let wake = driver.poll_timeout().into_iter().chain(leave_by).fold(look, Instant::min);
        tokio::select! {
            event = events.recv() => if let Some((session, event)) = event {
                driver.handle(Instant::now(), session, event);
            },
            () = tokio::time::sleep_until(wake.into()) => {}
            () = end.told(), if !is_over => {}
        }
    }
}

fn turn(driver: &mut impl DirectoryDriver, watcher: &mut impl FleetWatcher) {
    driver.member().set_ready(Instant::now(), watcher.is_ready());
    driver.ask();
    let member = driver.member();
    if let Some((cluster, table)) = member.take_table() {
        let keys = watcher.table(cluster, &table);
        member.set_keys(Instant::now(), keys);
    }
    if let Some(keys) = watcher.again() {
        member.set_keys(Instant::now(), keys);
    }
    if watcher.status(&member.status()) {
        driver.adopt(Instant::now());
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
