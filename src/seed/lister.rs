//! LIST, STAT, REMOVE and RENEW, on a thread of their own: a long list stops no other request, and a slow commit none but these.

use super::app::Seed;
use super::lease::Lease;
use super::listing::GivenUp;
use super::refusals::StoreBound;
use super::store::Store;
use super::{Moment, StoreError};
use crate::limits::{LEASE_REQUESTS_LEN_MAX, LIST_WEIGHT_LEN, NODE_LEASE_REQUESTS_LEN_MAX, STORE_BATCH_LEN};
use crate::queue::{Answer, AppPort, Command, ConnectionId, RequestId, Waker};
use crate::record::{
    ErrorCode, ErrorRecord, LeaseHolder, LeaseScope, List, Listed, ListedEntry, Remove, Renew, Request, Stat,
};
use crate::rights::StoreTerms;
use crate::tls::NodeId;
use crate::token::AnyToken;
use rustc_hash::FxHashSet;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// A request about leases.
#[derive(Debug)]
enum LeaseWork {
    List(List),
    Stat(Stat),
    Remove(AnyToken),
    Renew(AnyToken, Lease),
}

impl LeaseWork {
    const fn weight(&self) -> usize {
        match self {
            Self::List(_) => LIST_WEIGHT_LEN,
            Self::Stat(_) | Self::Remove(_) | Self::Renew(..) => 1,
        }
    }
}

struct LeaseJob {
    request: RequestId,
    node: NodeId,
    work: LeaseWork,
    /// The store's time, seconds since the Unix epoch.
    now_s: u64,
    /// Counts the request while it waits.
    waits: Arc<()>,
}

struct LeaseResult {
    request: RequestId,
    node: NodeId,
    weight: usize,
    answer: Result<Listed, LeaseFailure>,
    /// Tokens that are gone by it.
    gone: Vec<AnyToken>,
    _waits: Arc<()>,
}

enum LeaseFailure {
    Store(Arc<StoreError>),
    /// The asker has no lease of it.
    NoLease,
}

impl LeaseFailure {
    fn store(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// The requests about leases of one seed instance, and the thread that carries them out.
#[derive(Default)]
pub(super) struct Lister {
    /// Those whose peers still want an answer.
    waiting: FxHashSet<RequestId>,
    /// The weight of what each node has on the thread, also of requests that were given up. By a keyed hash: peers choose their node IDs.
    loads: HashMap<NodeId, usize>,
    load: usize,
    /// Started with the first request.
    thread: Option<ListerThread>,
}

struct ListerThread {
    jobs: Sender<LeaseJob>,
    results: Receiver<LeaseResult>,
}

impl Lister {
    /// Ends a request that its peer has given up. Its work is done nevertheless.
    pub(super) fn abandon(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.waiting.retain(|request| request.connection != connection);
    }

    /// The requests that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.iter().copied()
    }

    /// Whether a node may have more work done.
    fn has_room(&self, node: &NodeId, weight: usize) -> bool {
        let of_node = self.loads.get(node).copied().unwrap_or_default();
        of_node + weight <= NODE_LEASE_REQUESTS_LEN_MAX && self.load + weight <= LEASE_REQUESTS_LEN_MAX
    }

    fn add(&mut self, request: RequestId, node: NodeId, weight: usize) {
        self.waiting.insert(request);
        *self.loads.entry(node).or_default() += weight;
        self.load += weight;
    }

    /// Takes a request off the load. Returns whether its peer still wants the answer.
    fn take_off(&mut self, request: RequestId, node: NodeId, weight: usize) -> bool {
        self.load = self.load.saturating_sub(weight);
        if let Some(load) = self.loads.get_mut(&node) {
            *load = load.saturating_sub(weight);
            if *load == 0 {
                self.loads.remove(&node);
            }
        }
        self.waiting.remove(&request)
    }

    fn thread(&mut self, store: &Arc<Store>, waker: &Waker) -> io::Result<&ListerThread> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => ListerThread::start(store.clone(), waker.clone())?,
        };
        Ok(self.thread.insert(thread))
    }
}

impl ListerThread {
    /// Starts the thread `stoq-list`. It wakes `waker` after each job.
    fn start(store: Arc<Store>, waker: Waker) -> io::Result<Self> {
        let (jobs, incoming) = channel::<LeaseJob>();
        let (done, results) = channel();
        let run = move || {
            while let Ok(first) = incoming.recv() {
                let others = std::iter::from_fn(|| incoming.try_recv().ok());
                let all: Vec<_> = std::iter::once(first).chain(others).take(STORE_BATCH_LEN).collect();
                let (changes, looks): (Vec<_>, Vec<_>) = all
                    .into_iter()
                    .partition(|job| matches!(job.work, LeaseWork::Remove(_) | LeaseWork::Renew(..)));
                // What waits becomes durable together, and before the lists that may be long.
                let looked = looks.into_iter().map(|job| look(&store, job));
                for result in change(&store, changes).into_iter().chain(looked) {
                    if done.send(result).is_err() {
                        return;
                    }
                    waker.wake();
                }
            }
        };
        std::thread::Builder::new().name("stoq-list".into()).spawn(run)?;
        Ok(Self { jobs, results })
    }
}

fn look(store: &Store, job: LeaseJob) -> LeaseResult {
    let own = LeaseHolder::Node(job.node);
    let weight = job.work.weight();
    let listed = match &job.work {
        LeaseWork::List(list) => store.list_page(list, own, job.now_s),
        LeaseWork::Stat(Stat { scope, token }) => one(store.stat(*token, *scope, own, job.now_s)),
        LeaseWork::Remove(_) | LeaseWork::Renew(..) => Listed::default(),
    };
    let LeaseJob { request, node, waits, .. } = job;
    LeaseResult { request, node, weight, answer: Ok(listed), gone: Vec::new(), _waits: waits }
}

/// Makes changes of leases, all of them durable together.
fn change(store: &Store, jobs: Vec<LeaseJob>) -> Vec<LeaseResult> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let changed = |job: LeaseJob| {
        let LeaseJob { request, node, work, now_s, waits } = job;
        let own = LeaseHolder::Node(node);
        let mut gone = Vec::new();
        let answer = match work {
            LeaseWork::Remove(token) => store.end_lease_of(token, own).map_err(LeaseFailure::store).and_then(
                |given_up| match given_up {
                    GivenUp::NoLease => Err(LeaseFailure::NoLease),
                    GivenUp::Kept => {
                        // Whose the other leases are is not the asker's to know.
                        let kept = store.stat(token, LeaseScope::All, own, now_s);
                        Ok(one(kept.map(|kept| ListedEntry { leases: 0, shown: Vec::new(), ..kept })))
                    }
                    GivenUp::Gone(tokens) => {
                        gone = tokens;
                        Ok(Listed::default())
                    }
                },
            ),
            LeaseWork::Renew(token, lease) => match store.renew(token, lease) {
                Ok(true) => Ok(one(store.stat(token, LeaseScope::Own, own, now_s))),
                Ok(false) => Err(LeaseFailure::NoLease),
                Err(error) => Err(LeaseFailure::store(error)),
            },
            LeaseWork::List(_) | LeaseWork::Stat(_) => Ok(Listed::default()),
        };
        LeaseResult { request, node, weight: 1, answer, gone, _waits: waits }
    };
    let mut results: Vec<_> = jobs.into_iter().map(changed).collect();
    let durable = if store.is_read_only() { Ok(()) } else { store.sync_removals() };
    if let Err(error) = durable.map_err(Arc::new) {
        // The changes are seen, and durable with the next commit; their askers must not rely on it.
        for result in &mut results {
            if result.answer.is_ok() {
                result.answer = Err(LeaseFailure::Store(error.clone()));
            }
        }
    }
    results
}

fn one(entry: Option<ListedEntry>) -> Listed {
    Listed { next: None, entries: entry.into_iter().collect() }
}

impl Seed {
    /// Takes a LIST, STAT, REMOVE or RENEW.
    pub(super) fn about_leases(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        (node, terms): (Option<NodeId>, StoreTerms),
        what: Request,
    ) {
        let Some(node) = node else {
            let reason =
                "LIST, STAT, REMOVE and RENEW are about the asker's own leases; connect with an identity";
            return self.refuse(port, request, ErrorCode::NotAuthorized, reason);
        };
        let work = match what {
            Request::List(list) => LeaseWork::List(list),
            Request::Stat(stat) => LeaseWork::Stat(stat),
            Request::Remove(Remove { token }) => LeaseWork::Remove(token),
            Request::Renew(Renew { token, lease_s }) => {
                LeaseWork::Renew(token, self.lease(now, (Some(node), terms), lease_s))
            }
            Request::Put(_) | Request::Fetch(_) | Request::Locate(_) | Request::Mirror(_) => return,
        };
        let weight = work.weight();
        if !self.lister.has_room(&node, weight) {
            self.parts.store.note_refused(StoreBound::Leases);
            let reason = "too many lists and changes of leases wait; ask again when some have ended";
            return self.refuse(port, request, ErrorCode::Busy, reason);
        }
        let Moment { now_s, .. } = self.moment(now);
        let waits = self.parts.store.wait();
        let job = LeaseJob { request, node, work, now_s, waits };
        let waker = port.waker();
        let sent = self.lister.thread(&self.parts.store, &waker).map(|thread| thread.jobs.send(job).is_ok());
        match sent {
            Ok(true) => self.lister.add(request, node, weight),
            Ok(false) => self.refuse(port, request, ErrorCode::Internal, "the store's list thread ended"),
            Err(error) => {
                tracing::error!(%error, "the list thread of the store cannot be started; allow this process more threads");
                self.refuse(port, request, ErrorCode::Internal, "the store's list thread cannot be started");
            }
        }
    }

    /// Answers the requests about leases that are done.
    pub(super) fn take_listed(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(result) = self.lister.thread.as_ref().and_then(|thread| thread.results.try_recv().ok())
        {
            worked = true;
            let LeaseResult { request, node, weight, answer, gone, _waits } = result;
            for token in gone {
                if let AnyToken::Content(token) = token {
                    self.parts.memory.forget(&token);
                }
            }
            if !self.lister.take_off(request, node, weight) {
                continue;
            }
            match answer {
                Ok(listed) => self.send(port, Command::answer(request, Answer::Listed(listed))),
                Err(LeaseFailure::Store(error)) => self.refuse_store(port, request, &error),
                Err(LeaseFailure::NoLease) => {
                    let reason = "this node has no lease of it here";
                    self.send(
                        port,
                        Command::refuse(request, ErrorRecord::new(ErrorCode::NotFound, 0, reason)),
                    );
                }
            }
        }
        worked
    }
}
