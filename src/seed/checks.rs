//! A store's checks: on a thread of its own, several in turn, and at a bounded rate if no request waits.

use super::check::{Check, OnChecked};
use super::inner::Inner;
use super::scrub::{ScrubTick, Scrubbing};
use crate::limits::{CHECK_BYTES_PER_S, CHECK_FRESH_S, CHECKS_FRESH_LEN_MAX, CHECKS_LEN_MAX};
use crate::token::AnyToken;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Checks that a store made since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckState {
    /// Checks that found the bytes correct.
    pub whole: u64,
    /// Checks that found damage.
    pub damaged: u64,
    /// Checks that could not read.
    pub unreadable: u64,
    /// Checks that were skipped because too many were due.
    pub skipped: u64,
    /// Bytes that checks have read.
    pub bytes: u64,
}

enum Job {
    Check { token: AnyToken, now: Instant, urgent: bool, done: OnChecked },
    Save,
    SyncRemovals,
    Scrub(ScrubTick),
}

/// The channel of the thread's jobs, and the thread, if it could be started.
type Started = (Sender<Job>, Option<JoinHandle<()>>);

/// A store's checks.
#[derive(Debug, Default)]
pub(super) struct Checks {
    jobs: Mutex<Option<Started>>,
    /// The number of checks that are due and not urgent.
    pub(super) due: Arc<AtomicUsize>,
    state: Mutex<CheckState>,
    fresh: Mutex<Fresh>,
}

/// The tokens that a check found correct lately, and the time at which each check was asked for.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) at: HashMap<AnyToken, Instant>,
    order: VecDeque<(AnyToken, Instant)>,
}

impl Checks {
    pub(super) fn state(&self) -> MutexGuard<'_, CheckState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a check found it correct within [`CHECK_FRESH_S`] before `now`.
    pub(super) fn is_fresh(&self, token: &AnyToken, now: Instant) -> bool {
        let at = self.fresh().at.get(token).copied();
        at.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(CHECK_FRESH_S))
    }

    pub(super) fn note_whole(&self, token: AnyToken, now: Instant) {
        let mut fresh = self.fresh();
        fresh.at.insert(token, now);
        fresh.order.push_back((token, now));
        if fresh.order.len() > CHECKS_FRESH_LEN_MAX
            && let Some((oldest, at)) = fresh.order.pop_front()
            && fresh.at.get(&oldest) == Some(&at)
        {
            fresh.at.remove(&oldest);
        }
    }
}

/// The urgency of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A request waits for the check: it reads as fast as the disk allows.
    RequestWaits,
    /// No request waits for the check.
    Background,
}

impl Inner {
    /// Has `token` checked; `done` gets the result. Urgent checks, for which a request waits, are read as fast as the disk
    /// allows. False if too many others are due.
    pub(super) fn check(
        self: &Arc<Self>,
        token: AnyToken,
        now: Instant,
        urgency: Urgency,
        done: OnChecked,
    ) -> bool {
        let urgent = urgency == Urgency::RequestWaits;
        if !urgent && self.checks.due.fetch_add(1, Relaxed) >= CHECKS_LEN_MAX {
            self.checks.due.fetch_sub(1, Relaxed);
            self.checks.state().skipped += 1;
            return false;
        }
        self.give_job(Job::Check { token, now, urgent, done });
        true
    }

    /// Has the store's time written to its file on the thread.
    pub(super) fn save_later(self: &Arc<Self>) {
        self.give_job(Job::Save);
    }

    /// Has removals made durable on the thread.
    pub(super) fn sync_removals_later(self: &Arc<Self>) {
        self.give_job(Job::SyncRemovals);
    }

    /// Lets the scrub read on the thread what is due.
    pub(super) fn scrub_later(self: &Arc<Self>, tick: ScrubTick) {
        self.give_job(Job::Scrub(tick));
    }

    fn give_job(self: &Arc<Self>, job: Job) {
        let mut jobs = self.checks.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, _) = jobs.get_or_insert_with(|| {
            let (sender, incoming) = channel();
            let thread = Thread {
                store: Arc::downgrade(self),
                running: VecDeque::new(),
                free_at: None,
                scrub: Scrubbing::default(),
            };
            let started =
                std::thread::Builder::new().name("stoq-check".into()).spawn(move || thread.run(&incoming));
            let started = started.inspect_err(
                |error| tracing::error!(%error, "the thread that checks the store cannot be started"),
            );
            (sender, started.ok())
        });
        if sender.send(job).is_err() {
            // The next job starts another thread.
            *jobs = None;
            tracing::error!("the thread that checks the store ended");
        }
    }

    /// Ends the thread. Jobs that it has not done are dropped.
    pub(super) fn end_checks(&self) {
        let jobs = self.checks.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, Some(thread))) = jobs {
            drop(sender);
            // The thread itself may drop the last reference to the store.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the thread that checks the store panicked");
            }
        }
    }
}

/// The thread's state. It does not keep the store open.
struct Thread {
    store: Weak<Inner>,
    running: VecDeque<Check>,
    /// When non-urgent checks may read again.
    free_at: Option<Instant>,
    scrub: Scrubbing,
}

impl Thread {
    fn run(mut self, incoming: &Receiver<Job>) {
        loop {
            let job = match self.wait() {
                None => incoming.recv().map_err(|_| TryRecvError::Disconnected),
                Some(Duration::ZERO) => incoming.try_recv(),
                Some(wait) => incoming.recv_timeout(wait).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                }),
            };
            match job {
                Ok(job) => self.take(job),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            if self.wait() == Some(Duration::ZERO) {
                self.turn();
            }
        }
    }

    /// How long to wait before the next read; `None`: until there is a job.
    fn wait(&self) -> Option<Duration> {
        self.wait_for_checks().into_iter().chain(self.scrub.wait()).min()
    }

    /// The same for the checks that were asked for.
    fn wait_for_checks(&self) -> Option<Duration> {
        if self.running.is_empty() {
            return None;
        }
        if self.running.iter().any(|check| check.urgent) {
            return Some(Duration::ZERO);
        }
        Some(self.free_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now())))
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Check { token, now, urgent, done } => {
                match self.running.iter_mut().find(|check| check.token == token) {
                    Some(check) => check.join(now, urgent, done, &self.store),
                    None => self.running.push_back(Check::new(token, now, urgent, done)),
                }
            }
            Job::Scrub(tick) => {
                if let Some(store) = self.store.upgrade() {
                    self.scrub.take(&store, tick);
                }
            }
            Job::Save => {
                if let Some(store) = self.store.upgrade() {
                    store.save_clock();
                }
            }
            Job::SyncRemovals => {
                let synced = self.store.upgrade().map_or(Ok(()), |store| store.sync_removals());
                if let Err(error) = synced {
                    tracing::warn!(%error, "a crash may bring payloads back that were removed");
                }
            }
        }
    }

    /// Reads a piece of one check. Urgent checks go first, and the scrub last.
    fn turn(&mut self) {
        let Some(store) = self.store.upgrade() else {
            (self.running, self.scrub) = (VecDeque::new(), Scrubbing::default());
            return;
        };
        if self.wait_for_checks() != Some(Duration::ZERO) {
            return self.scrub.turn(&store);
        }
        let at = self.running.iter().position(|check| check.urgent).unwrap_or(0);
        let Some(mut check) = self.running.remove(at) else { return };
        let before = check.bytes;
        let found = check.turn(&store);
        let read = check.bytes - before;
        store.checks.state().bytes += read;
        if !check.urgent {
            let now = Instant::now();
            let span = Duration::from_nanos(read.saturating_mul(1_000_000_000) / CHECK_BYTES_PER_S);
            self.free_at = Some(self.free_at.map_or(now, |at| at.max(now)) + span);
        }
        match found {
            None => self.running.push_back(check),
            Some(found) => {
                let (token, told) = (check.token, check.end(&store, found));
                // A callback may close the store.
                drop(store);
                told.into_iter().for_each(|done| done(token, found));
            }
        }
    }
}
