//! The rings between workers and verify threads: groups to check, and answers.
//!
//! A worker never waits for a verify thread. It gives a piece away only where a ring has room, keeps the piece itself, and checks it when its answer
//! is late. An answer names its check by a number that is never used again: one that nothing waits for any more changes nothing.

use super::{ConnectionId, Sleeper, Waker};
use crate::counters::{Counter, Counters};
use crate::limits::{GROUP_CHECK_LATE_MS, GROUP_CHECKS_BYTES_MAX, GROUP_CHECKS_LEN_MAX};
use crate::token::{UncheckedPiece, VerifyError};
use crossbeam_queue::ArrayQueue;
use quinn_proto::StreamId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LATE: Duration = Duration::from_millis(GROUP_CHECK_LATE_MS);

/// A worker's end: the checks that it has given to verify threads.
#[derive(Debug)]
pub struct GroupChecks {
    threads: Vec<CheckThread>,
    /// The thread that gets the next piece, if it has room.
    next: usize,
    answers: Arc<ArrayQueue<GroupAnswer>>,
    /// The checks without an answer, by their numbers; `None` where the answer is here.
    open: VecDeque<Option<OpenCheck>>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    /// Answers that nothing waits for any more.
    overdue: usize,
    /// Whether the log says that answers are late.
    has_warned: bool,
}

/// A verify thread, as a worker sees it.
#[derive(Debug)]
struct CheckThread {
    shared: Arc<CheckRing>,
    waker: Waker,
    /// Pieces of this worker that it has for too long. It gets no others meanwhile.
    overdue: usize,
}

#[derive(Debug)]
struct CheckRing {
    jobs: ArrayQueue<GroupCheck>,
    is_alive: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct OpenCheck {
    thread: usize,
    connection: ConnectionId,
    stream: StreamId,
    bytes: usize,
    since: Instant,
}

/// A verify thread's end.
#[derive(Debug)]
pub struct GroupCheckQueue {
    shared: Arc<CheckRing>,
    sleeper: Sleeper,
}

/// A piece to check. Where it is dropped unchecked, its worker learns of that.
#[derive(Debug)]
pub struct GroupCheck {
    number: u64,
    thread: usize,
    piece: Option<Arc<UncheckedPiece>>,
    found: Option<Result<(), VerifyError>>,
    answers: Arc<ArrayQueue<GroupAnswer>>,
}

#[derive(Clone, Copy, Debug)]
struct GroupAnswer {
    number: u64,
    thread: usize,
    found: Option<Result<(), VerifyError>>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupsFound {
    pub(crate) connection: ConnectionId,
    pub(crate) stream: StreamId,
    pub(crate) number: u64,
    /// `None`: the worker is to check the piece itself.
    pub(crate) found: Option<Result<(), VerifyError>>,
}

/// Makes the rings between workers and verify threads: an end for each.
pub fn check_rings(workers: usize, threads: usize) -> (Vec<GroupChecks>, Vec<GroupCheckQueue>) {
    let ring = || CheckRing { jobs: ArrayQueue::new(GROUP_CHECKS_LEN_MAX), is_alive: AtomicBool::new(true) };
    let queue = |_| GroupCheckQueue { shared: Arc::new(ring()), sleeper: Sleeper::default() };
    let queues: Vec<_> = (0..threads).map(queue).collect();
    let thread = |queue: &GroupCheckQueue| CheckThread {
        shared: queue.shared.clone(),
        waker: queue.sleeper.waker(),
        overdue: 0,
    };
    let checks = |worker| GroupChecks {
        threads: queues.iter().map(thread).collect(),
        next: worker % threads.max(1),
        // Those that are waited for, and the overdue ones of each thread.
        answers: Arc::new(ArrayQueue::new(GROUP_CHECKS_LEN_MAX * (threads + 1))),
        open: VecDeque::new(),
        first: 0,
        bytes: 0,
        overdue: 0,
        has_warned: false,
    };
    ((0..workers).map(checks).collect(), queues)
}

impl GroupChecks {
    /// Gives a piece of this stream to a verify thread. Returns the number of the check; `None` where no thread has room.
    pub(crate) fn submit(
        &mut self,
        now: Instant,
        (connection, stream): (ConnectionId, StreamId),
        piece: &Arc<UncheckedPiece>,
        counters: &Counters,
    ) -> Option<u64> {
        let bytes = piece.len_bytes();
        let number = self.first + self.open.len() as u64;
        let has_room = self.open.len() < GROUP_CHECKS_LEN_MAX && self.bytes + bytes <= GROUP_CHECKS_BYTES_MAX;
        let threads = self.threads.len();
        let mut candidates = (self.next..self.next + threads).map(|at| at % threads).filter(|_| has_room);
        let taken = candidates.find(|&at| {
            let CheckThread { shared, overdue, .. } = &self.threads[at];
            let answers = self.answers.clone();
            let job = || GroupCheck { number, thread: at, piece: Some(piece.clone()), found: None, answers };
            *overdue == 0 && shared.is_alive.load(Ordering::Acquire) && shared.push(job)
        });
        let Some(thread) = taken else {
            counters.add(Counter::GroupChecksFull, 1);
            return None;
        };
        self.next = (thread + 1) % threads;
        self.open.push_back(Some(OpenCheck { thread, connection, stream, bytes, since: now }));
        self.bytes += bytes;
        self.threads[thread].waker.wake();
        Some(number)
    }

    /// Whether answers are waited for.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// When the first check without an answer is late.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.open.front().copied().flatten().map(|check| check.since + LATE)
    }

    /// The next check that has an answer, or whose answer is late.
    pub(crate) fn poll(&mut self, now: Instant, counters: &Counters) -> Option<GroupsFound> {
        if self.open.is_empty() && self.overdue == 0 {
            return None;
        }
        for thread in &self.threads {
            if !thread.shared.is_alive.load(Ordering::Acquire) {
                thread.shared.clear();
            }
        }
        while let Some(GroupAnswer { number, thread, found }) = self.answers.pop() {
            let Some(check) = self.close(number) else {
                self.overdue -= 1;
                self.threads[thread].overdue -= 1;
                continue;
            };
            match found {
                Some(_) => counters.add(Counter::GroupChecksBytes, check.bytes as u64),
                None => self.late(counters),
            }
            return Some(check.found(number, found));
        }
        let (number, check) = (self.first, self.open.front().copied().flatten()?);
        if now < check.since + LATE {
            return None;
        }
        self.close(number);
        self.overdue += 1;
        self.threads[check.thread].overdue += 1;
        self.late(counters);
        Some(check.found(number, None))
    }

    /// Takes a check that is waited for off the list.
    fn close(&mut self, number: u64) -> Option<OpenCheck> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let check = self.open.get_mut(at)?.take()?;
        self.bytes -= check.bytes;
        while let Some(None) = self.open.front() {
            self.open.pop_front();
            self.first += 1;
        }
        Some(check)
    }

    #[cold]
    fn late(&mut self, counters: &Counters) {
        counters.add(Counter::GroupChecksLate, 1);
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "a verify thread is late or has ended: its worker checks in its place; see verify_late, and give each verify \
                 thread a core of its own, or set workers.verify_threads = 0"
            );
        }
    }
}

impl Drop for GroupChecks {
    /// Threads without workers end.
    fn drop(&mut self) {
        for CheckThread { shared, waker, .. } in self.threads.drain(..) {
            drop(shared);
            waker.wake();
        }
    }
}

impl OpenCheck {
    fn found(self, number: u64, found: Option<Result<(), VerifyError>>) -> GroupsFound {
        GroupsFound { connection: self.connection, stream: self.stream, number, found }
    }
}

impl CheckRing {
    /// Makes a job and pushes it, if there is room. Jobs of other workers may take the room meanwhile.
    fn push(&self, job: impl FnOnce() -> GroupCheck) -> bool {
        if self.jobs.is_full() {
            return false;
        }
        match self.jobs.push(job()) {
            Ok(()) => true,
            Err(job) => {
                job.withdraw();
                false
            }
        }
    }

    /// Drops the jobs that wait: their workers learn of it.
    fn clear(&self) {
        while self.jobs.pop().is_some() {}
    }
}

impl GroupCheckQueue {
    /// The next piece to check.
    pub fn take(&self) -> Option<GroupCheck> {
        // A check is cheaper than an attempt, which has a fence, and most checks find the ring empty.
        if self.shared.jobs.is_empty() { None } else { self.shared.jobs.pop() }
    }

    /// Whether every worker has ended.
    pub fn is_over(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// Sleeps until a piece is here, at most for `limit`.
    pub fn wait(&self, limit: Duration) {
        self.sleeper.sleep(limit, || !self.shared.jobs.is_empty());
    }
}

impl Drop for GroupCheckQueue {
    /// Workers wait for no thread that has ended, even by a panic.
    fn drop(&mut self) {
        self.shared.is_alive.store(false, Ordering::Release);
        self.shared.clear();
    }
}

impl GroupCheck {
    /// Checks the piece and answers.
    pub fn run(mut self) {
        self.found = self.piece.as_ref().map(|piece| piece.check());
    }

    /// It was not given away: no answer is due.
    fn withdraw(mut self) {
        self.piece = None;
    }
}

impl Drop for GroupCheck {
    fn drop(&mut self) {
        // First, so that the worker has the piece alone once the answer is here.
        if self.piece.take().is_some() {
            let answer = GroupAnswer { number: self.number, thread: self.thread, found: self.found };
            let pushed = self.answers.push(answer);
            debug_assert!(pushed.is_ok(), "each check has a place for its answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::GROUP_BYTES;
    use crate::token::{EncodedPiece, Outboard, Ranges, VerifiedDecoder, VerifiedEncoder};
    use quinn_proto::{Dir, Side};

    const CONNECTION: ConnectionId = ConnectionId { worker: 0, slot: 0, generation: 1 };

    fn stream() -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, 0)
    }

    /// The unchecked pieces of a payload, a group each.
    fn pieces(groups: usize) -> Vec<Arc<UncheckedPiece>> {
        let data = vec![7; groups * GROUP_BYTES];
        let length = data.len() as u64;
        let (token, outboard) = Outboard::build(&data[..], length).unwrap();
        let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
        let mut decoder = VerifiedDecoder::new(token, length, Ranges::all()).unwrap().deferring(true);
        let (mut batch, mut found) = (Vec::new(), Vec::new());
        while encoder.next_batch(1, &mut batch).unwrap() > 0 {
            for piece in batch.drain(..) {
                match piece {
                    EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                    EncodedPiece::Data { offset, len } => {
                        for group in data[offset as usize..][..len].chunks(GROUP_BYTES) {
                            decoder.push(group).unwrap();
                            found.extend(std::iter::from_fn(|| decoder.poll_unchecked()).map(Arc::new));
                        }
                    }
                }
            }
        }
        assert_eq!(found.len(), groups);
        found
    }

    /// The numbers of the checks that have ended, and whether a verify thread found anything.
    fn polled(checks: &mut GroupChecks, now: Instant, counters: &Counters) -> Vec<(u64, bool)> {
        let next = || checks.poll(now, counters);
        std::iter::from_fn(next).map(|found| (found.number, found.found.is_some())).collect()
    }

    #[test]
    fn each_check_has_one_answer_and_a_late_one_names_nothing() {
        let (mut ends, mut queues) = check_rings(1, 1);
        let (mut checks, queue) = (ends.remove(0), queues.remove(0));
        let (now, counters, pieces) = (Instant::now(), Counters::default(), pieces(4));
        let submit = |checks: &mut GroupChecks, at: usize| {
            checks.submit(now, (CONNECTION, stream()), &pieces[at], &counters)
        };
        assert_eq!([0, 1, 2].map(|at| submit(&mut checks, at)), [Some(0), Some(1), Some(2)]);
        let jobs: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        let [first, second, third] = jobs.try_into().unwrap();
        third.run();
        assert_eq!(polled(&mut checks, now, &counters), [(2, true)]);
        assert_eq!(checks.poll_timeout(), Some(now + LATE));
        // The first one's thread is late; the second is dropped by it.
        drop(second);
        assert_eq!(polled(&mut checks, now, &counters), [(1, false)]);
        assert_eq!(polled(&mut checks, now + LATE, &counters), [(0, false)]);
        assert!(!checks.waits() && checks.poll_timeout().is_none());
        assert_eq!(submit(&mut checks, 3), None, "the thread is late");
        first.run();
        assert_eq!(polled(&mut checks, now + LATE, &counters), []);
        assert_eq!(submit(&mut checks, 3), Some(3), "no number is used again");
        drop(queue);
        assert_eq!(polled(&mut checks, now, &counters), [(3, false)]);
        assert_eq!(submit(&mut checks, 3), None, "the thread has ended");
        let counted = [Counter::GroupChecksBytes, Counter::GroupChecksLate, Counter::GroupChecksFull];
        assert_eq!(counted.map(|counter| counters.get(counter)), [GROUP_BYTES as u64, 3, 2]);
    }

    #[test]
    fn the_pieces_that_threads_have_are_bounded_and_so_are_their_answers() {
        let (mut ends, queues) = check_rings(1, 2);
        let mut checks = ends.remove(0);
        let (mut now, counters, pieces) = (Instant::now(), Counters::default(), pieces(2));
        let mut held = Vec::new();
        // Both threads take all that they get, and are late with it.
        for round in 1..=2 {
            let submitted = (0..1000)
                .filter_map(|_| checks.submit(now, (CONNECTION, stream()), &pieces[0], &counters))
                .count();
            assert_eq!(submitted, if round == 1 { GROUP_CHECKS_LEN_MAX } else { 0 });
            held.extend(queues.iter().flat_map(|queue| std::iter::from_fn(|| queue.take())));
            now += LATE;
            polled(&mut checks, now, &counters);
        }
        held.into_iter().for_each(GroupCheck::run);
        assert_eq!(polled(&mut checks, now, &counters), []);
        assert_eq!((checks.overdue, checks.bytes), (0, 0));
        assert!(checks.submit(now, (CONNECTION, stream()), &pieces[1], &counters).is_some());
    }

    #[test]
    fn threads_check_at_once_what_workers_give_them_and_end_with_them() {
        let (ends, queues) = check_rings(2, 2);
        let threads: Vec<_> = queues
            .into_iter()
            .map(|queue| {
                std::thread::spawn(move || {
                    let mut count = 0;
                    while !queue.is_over() {
                        match queue.take() {
                            Some(check) => {
                                check.run();
                                count += 1;
                            }
                            None => queue.wait(Duration::from_secs(60)),
                        }
                    }
                    count
                })
            })
            .collect();
        let all = pieces(8);
        let workers: Vec<_> = ends
            .into_iter()
            .map(|mut checks| {
                let all = all.clone();
                std::thread::spawn(move || {
                    let counters = Counters::default();
                    // A time that stands still: no answer is late.
                    let (now, mut submitted, mut answered) = (Instant::now(), 0, 0);
                    while answered < 2000 {
                        if submitted < 2000 {
                            let piece = &all[submitted % all.len()];
                            let number = checks.submit(now, (CONNECTION, stream()), piece, &counters);
                            submitted += usize::from(number.is_some());
                        }
                        while let Some(found) = checks.poll(now, &counters) {
                            assert!(matches!(found.found, Some(Ok(()))));
                            answered += 1;
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 4000);
    }
}
