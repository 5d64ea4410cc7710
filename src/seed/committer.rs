//! The thread that makes written files durable. One slow fsync then stops neither other PUTs nor any FETCH.

use super::Store;
use super::writing::{Committed, Writing};
use crate::limits::STORE_BATCH_LEN;
use crate::queue::{RequestId, Waker};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The committing thread of one seed instance. It ends after its last job when this is dropped.
pub(super) struct Committer {
    store: Arc<Store>,
    jobs: Sender<Job>,
    results: Receiver<JobResult>,
}

/// The request, what came of it, and what counts it while it waits.
type JobResult = (RequestId, Committed, Arc<()>);

struct Job {
    request: RequestId,
    writing: Writing,
    /// The store's time, seconds since the Unix epoch; 0 while the clock is in doubt.
    now_s: u64,
    /// Counts the request while it waits.
    waits: Arc<()>,
}

impl Committer {
    /// Starts the thread `stoq-commit`. It wakes `waker` after each job.
    pub(super) fn start(store: Arc<Store>, waker: Waker) -> io::Result<Self> {
        let (jobs, incoming) = channel::<Job>();
        let (done, results) = channel();
        let shared = store.clone();
        let run = move || {
            while let Ok(job) = incoming.recv() {
                // All that wait become durable together.
                let place =
                    |Job { request, writing, now_s, waits }| (request, writing.place(&shared, now_s), waits);
                let others = std::iter::from_fn(|| incoming.try_recv().ok());
                let placed: Vec<_> =
                    std::iter::once(job).chain(others).take(STORE_BATCH_LEN).map(place).collect();
                for (request, placed, waits) in placed {
                    if done.send((request, placed.finish(), waits)).is_err() {
                        return;
                    }
                }
                waker.wake();
            }
        };
        std::thread::Builder::new().name("stoq-commit".into()).spawn(run)?;
        Ok(Self { store, jobs, results })
    }

    /// Has the thread make this durable for a request. False if the thread has ended: it is then not durable.
    pub(super) fn commit(&self, request: RequestId, writing: Writing, now_s: u64) -> bool {
        self.jobs.send(Job { request, writing, now_s, waits: self.store.wait() }).is_ok()
    }

    /// The next request whose job has ended, and the result.
    pub(super) fn poll(&self) -> Option<(RequestId, Committed)> {
        self.results.try_recv().ok().map(|(request, committed, _waits)| (request, committed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{ConnectionId, Sleeper};
    use crate::seed::{Lease, StoreConfig, StoreError};
    use crate::token::Token;
    use std::time::Duration;

    #[test]
    fn each_request_gets_the_result_of_its_own_job_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path(), StoreConfig::default()).unwrap());
        let sleeper = Sleeper::default();
        let committer = Committer::start(store.clone(), sleeper.waker()).unwrap();
        let request = |number| RequestId::peer(ConnectionId { worker: 0, slot: 1, generation: 1 }, number);
        let missing = Token::of(b"not kept");
        let empty = store.begin(Token::of(b""), 0, Lease::default(), 0).unwrap();
        assert!(committer.commit(request(0), Writing::Held(missing.into(), 0, None, Lease::default()), 0));
        assert!(committer.commit(request(4), Writing::Payload(empty), 0));
        assert_eq!(store.requests_waiting(), 2, "no result is taken yet");
        let next = || {
            let mut result = None;
            while result.is_none() {
                sleeper.sleep(Duration::from_secs(60), || {
                    result = committer.poll();
                    result.is_some()
                });
            }
            result.unwrap()
        };
        assert!(matches!(next(), (of, Err(StoreError::Went(_))) if of == request(0)));
        assert!(matches!(next(), (of, Ok((_, 0))) if of == request(4)));
        assert_eq!(store.requests_waiting(), 0);
        assert!(store.get(&Token::of(b"")).unwrap().is_some());
    }
}
