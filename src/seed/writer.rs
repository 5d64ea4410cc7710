//! The thread that begins and writes what PUTs and MIRRORs bring: the thread that serves makes no call that may wait for the disk.
//!
//! The steps of one request are taken in their order. What is written then goes to the thread that makes it durable.

use super::committer::Committer;
use super::short::is_short;
use super::writing::Writing;
use super::written::{Later, Teller, WriteOutcome, WriteResult};
use super::{Lease, Store, StoreError, checking};
use crate::limits::{LEASE_MARGIN_S, WRITE_STEPS_LEN};
use crate::queue::{Charge, PeerRequest, RequestId, Waker};
use crate::record::{Coverage, Mirror, Put, Request};
use crate::shard::{Blob, Coding, Descriptor, Lanes};
use crate::token::{AnyToken, VerifiedPiece};
use rustc_hash::FxHashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// The writing thread of one seed instance, and its committing thread. Both end after their last jobs when this is dropped.
pub(super) struct Writer {
    store: Arc<Store>,
    jobs: Sender<WriteJob>,
    results: Receiver<WriteResult>,
}

/// A step of a request.
pub(super) enum WriteStep {
    /// A PUT begins, with this lease, at this time of the worker's loop.
    Put(Box<PeerRequest>, Lease, Instant, OverTime),
    /// The payload or set of a MIRROR begins.
    Mirror(Box<MirrorBegun>),
    /// A holding that exists already: only its lease is extended.
    Extend(AnyToken, Lease, OverTime),
    /// The next bytes.
    Bytes(NewBytes, Charge),
    /// Every byte is there: it is to be made durable.
    Commit(OverTime),
    /// It is given up. Its files go.
    Abandon,
}

/// Bytes of a request, or what tells of them.
pub(super) enum NewBytes {
    Piece(VerifiedPiece),
    Shard(Blob, VerifiedPiece),
    /// These lanes of these stripes are complete: the first one, and how many.
    Stripes(u64, u64, Lanes),
}

/// What a MIRROR was described as.
pub(super) struct MirrorBegun {
    pub(super) mirror: Mirror,
    pub(super) lease: Lease,
    pub(super) length: u64,
    /// Of a set.
    pub(super) descriptor: Option<Box<Descriptor>>,
    pub(super) over_s: OverTime,
}

/// The store's time, seconds since the Unix epoch; 0 while the clock is in doubt.
pub(super) type OverTime = u64;

struct WriteJob {
    request: RequestId,
    step: WriteStep,
    /// Counts the request while it waits.
    waits: Arc<()>,
}

impl Writer {
    /// Starts the threads `stoq-write` and `stoq-commit`. They wake `waker` with each result.
    pub(super) fn start(store: Arc<Store>, waker: Waker) -> io::Result<Self> {
        let (jobs, incoming) = channel();
        let (done, results) = channel();
        let committer = Committer::start(store.clone(), done.clone(), waker.clone())?;
        let thread = WriteThread {
            store: store.clone(),
            committer,
            teller: Teller { done, waker },
            writings: FxHashMap::default(),
            unflushed: Vec::new(),
            has_results: false,
        };
        std::thread::Builder::new().name("stoq-write".into()).spawn(move || thread.run(&incoming))?;
        Ok(Self { store, jobs, results })
    }

    /// Has a step of a request taken. False if the thread has ended.
    pub(super) fn take(&self, request: RequestId, step: WriteStep) -> bool {
        self.jobs.send(WriteJob { request, step, waits: self.store.wait() }).is_ok()
    }

    /// The next result.
    pub(super) fn poll(&self) -> Option<(RequestId, WriteOutcome)> {
        self.results.try_recv().ok().map(|(request, written, _waits)| (request, written))
    }
}

struct WriteThread {
    store: Arc<Store>,
    committer: Committer,
    teller: Teller,
    /// What is being written. A dropped writer removes its files.
    writings: FxHashMap<RequestId, Writing>,
    /// Those with pieces that wait for others, to be written at once.
    unflushed: Vec<RequestId>,
    /// Whether results were sent since the last wake.
    has_results: bool,
}

impl WriteThread {
    fn run(mut self, incoming: &Receiver<WriteJob>) {
        while let Ok(first) = incoming.recv() {
            // One wake for the results of all short steps that waited: a wake takes longer than such a step.
            let others = std::iter::from_fn(|| incoming.try_recv().ok());
            for job in std::iter::once(first).chain(others).take(WRITE_STEPS_LEN) {
                if !self.is_short(&job) {
                    self.wake();
                }
                self.step(job.request, job.step, job.waits);
            }
            for request in self.unflushed.drain(..) {
                if let Some(writing) = self.writings.get_mut(&request) {
                    writing.flush();
                }
            }
            self.wake();
        }
    }

    /// Whether a step changes no file, so that the results before it need not be told first.
    fn is_short(&self, job: &WriteJob) -> bool {
        match &job.step {
            WriteStep::Put(asked, ..) => match &asked.request {
                Request::Put(put) => put.lanes.is_none() && is_short(put.descriptor.length_bytes()),
                _ => false,
            },
            WriteStep::Bytes(..) => self.writings.get(&job.request).is_some_and(Writing::is_row),
            WriteStep::Extend(..) | WriteStep::Commit(_) => true,
            WriteStep::Mirror(_) | WriteStep::Abandon => false,
        }
    }

    /// Has the results taken that were sent since the last wake.
    fn wake(&mut self) {
        if std::mem::take(&mut self.has_results) {
            self.teller.waker.wake();
        }
    }

    fn step(&mut self, request: RequestId, step: WriteStep, waits: Arc<()>) {
        match step {
            WriteStep::Put(asked, lease, now, over_s) => {
                match begin_put(&self.store, asked, lease, (now, over_s)) {
                    Begun::Writing(writing) => self.begun(request, writing, waits),
                    Begun::Whole(writing) => self.committer.commit(request, writing, over_s, waits),
                    Begun::Unchecked(token, asked) => {
                        self.tell(request, WriteOutcome::Unchecked(token, asked), waits)
                    }
                    Begun::Failed(error) => self.tell(request, WriteOutcome::Ended(Err(error)), waits),
                }
            }
            WriteStep::Mirror(begun) => match begin_mirror(&self.store, *begun) {
                Ok(writing) => self.begun(request, writing, waits),
                Err(error) => self.tell(request, WriteOutcome::Ended(Err(error)), waits),
            },
            WriteStep::Extend(token, lease, over_s) => {
                let held = Writing::Held(token, 0, None, lease);
                self.committer.commit(request, held, over_s, waits);
            }
            WriteStep::Bytes(bytes, charge) => {
                let result = Some((request, WriteOutcome::Bytes(charge), waits.clone()));
                let mut later = Later { teller: &self.teller, result };
                let written =
                    self.writings.get_mut(&request).map(|writing| write(writing, &bytes, &mut later));
                let result = later.result;
                drop(bytes);
                if let Some(Err(error)) = written {
                    self.writings.remove(&request);
                    self.tell(request, WriteOutcome::Ended(Err(error)), waits);
                }
                match result {
                    Some((request, written, waits)) => self.tell(request, written, waits),
                    None if self.unflushed.last() != Some(&request) => self.unflushed.push(request),
                    None => {}
                }
            }
            WriteStep::Commit(over_s) => {
                // One that has failed has its result already.
                if let Some(writing) = self.writings.remove(&request) {
                    self.committer.commit(request, writing, over_s, waits);
                }
            }
            WriteStep::Abandon => drop(self.writings.remove(&request)),
        }
    }

    fn begun(&mut self, request: RequestId, writing: Writing, waits: Arc<()>) {
        self.writings.insert(request, writing);
        self.tell(request, WriteOutcome::Begun, waits);
    }

    fn tell(&mut self, request: RequestId, written: WriteOutcome, waits: Arc<()>) {
        // Sending fails only if this instance has ended.
        let _ = self.teller.done.send((request, written, waits));
        self.has_results = true;
    }
}

/// How a PUT begins.
enum Begun {
    Writing(Writing),
    /// All of it is held.
    Whole(Writing),
    Unchecked(AnyToken, Box<PeerRequest>),
    Failed(StoreError),
}

fn begin_put(
    store: &Store,
    asked: Box<PeerRequest>,
    lease: Lease,
    (now, over_s): (Instant, OverTime),
) -> Begun {
    if let Some(token) = checking::unchecked(store, now, &asked.request) {
        return Begun::Unchecked(token, asked);
    }
    let Request::Put(Put { descriptor, lanes, .. }) = asked.request else {
        return Begun::Failed(StoreError::Foreign { offset: 0, length: 0 });
    };
    let begun = match lanes {
        Some(lanes) => store.begin_set(descriptor, lanes, lease, over_s).map(|writer| {
            let is_whole = writer.parts().next().is_none();
            (is_whole, Writing::set(writer))
        }),
        None => begin_payload(store, Box::new(descriptor), lease, over_s),
    };
    match begun {
        Ok((true, writing)) => Begun::Whole(writing),
        Ok((false, writing)) => Begun::Writing(writing),
        Err(error) => Begun::Failed(error),
    }
}

fn begin_payload(
    store: &Store,
    descriptor: Box<Descriptor>,
    lease: Lease,
    over_s: u64,
) -> Result<(bool, Writing), StoreError> {
    let (token, length) = (descriptor.content(), descriptor.length_bytes());
    if holding(store, &token.into(), over_s).is_some() {
        // It is durable, and a check has just confirmed it: no bytes need to be sent again.
        return Ok((true, Writing::Held(token.into(), length, Some(descriptor), lease)));
    }
    let writer = store.begin(token, length, lease, over_s)?;
    let is_plain = descriptor.coding() == Coding::None;
    let writing = if is_plain { Writing::Payload(writer) } else { Writing::Coded(writer, descriptor, lease) };
    Ok((false, writing))
}

/// The store's holding of `token`. `None` also if its lease may end before it can be extended.
pub(super) fn holding(store: &Store, token: &AnyToken, over_s: u64) -> Option<Coverage> {
    let holding = store.holding(token)?;
    let lasts = holding.expires_s.is_none_or(|at| at > over_s.saturating_add(LEASE_MARGIN_S));
    lasts.then_some(holding.coverage)
}

/// Begins to write the described payload or set.
fn begin_mirror(store: &Store, begun: MirrorBegun) -> Result<Writing, StoreError> {
    let MirrorBegun { mirror, lease, length, descriptor, over_s } = begun;
    match (mirror.token, descriptor) {
        (AnyToken::Content(token), _) => Ok(Writing::Payload(store.begin(token, length, lease, over_s)?)),
        (AnyToken::Set(_), Some(set)) if mirror.lanes.is_empty() => {
            Writing::assembled(store, *set, lease, over_s)
        }
        (AnyToken::Set(_), Some(set)) => {
            Ok(Writing::set(store.begin_set(*set, mirror.lanes, lease, over_s)?))
        }
        // The gathering fails: no set was described.
        (AnyToken::Set(token), None) => Err(StoreError::Went(token.into())),
    }
}

fn write(writing: &mut Writing, bytes: &NewBytes, later: &mut Later<'_>) -> Result<(), StoreError> {
    match bytes {
        NewBytes::Piece(piece) => writing.piece(piece, later),
        NewBytes::Shard(blob, piece) => writing.shard(*blob, piece),
        NewBytes::Stripes(start, count, lanes) => writing.stripes(*start, *count, *lanes),
    }
}
