//! The thread that makes written files durable. One slow fsync then stops neither other PUTs nor any FETCH.

use super::writing::Writing;
use super::written::{WriteOutcome, WriteResult};
use super::{Store, StoreError};
use crate::limits::STORE_BATCH_LEN;
use crate::queue::{RequestId, Waker};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// The committing thread of one seed instance. It ends after its last job when this is dropped.
pub(super) struct Committer {
    jobs: Sender<Job>,
    done: Sender<WriteResult>,
}

struct Job {
    request: RequestId,
    writing: Writing,
    /// The store's time, seconds since the Unix epoch; 0 while the clock is in doubt.
    now_s: u64,
    /// Counts the request while it waits.
    waits: Arc<()>,
}

impl Committer {
    /// Starts the thread `stoq-commit`. It tells `done` of each job, and wakes `waker` after some.
    pub(super) fn start(shared: Arc<Store>, done: Sender<WriteResult>, waker: Waker) -> io::Result<Self> {
        let (jobs, incoming) = channel::<Job>();
        let told = done.clone();
        let run = move || {
            while let Ok(job) = incoming.recv() {
                // All that wait become durable together.
                let place =
                    |Job { request, writing, now_s, waits }| (request, writing.place(&shared, now_s), waits);
                let others = std::iter::from_fn(|| incoming.try_recv().ok());
                let placed: Vec<_> =
                    std::iter::once(job).chain(others).take(STORE_BATCH_LEN).map(place).collect();
                for (request, placed, waits) in placed {
                    if told.send((request, WriteOutcome::Ended(placed.finish()), waits)).is_err() {
                        return;
                    }
                }
                waker.wake();
            }
        };
        std::thread::Builder::new().name("stoq-commit".into()).spawn(run)?;
        Ok(Self { jobs, done })
    }

    /// Has the thread make this durable for a request.
    pub(super) fn commit(&self, request: RequestId, writing: Writing, now_s: u64, waits: Arc<()>) {
        if let Err(job) = self.jobs.send(Job { request, writing, now_s, waits }) {
            // It ended by a panic, and the process ends soon.
            let error = io::Error::other("the thread that makes payloads durable has ended");
            let error = StoreError::io("commit", Path::new("a payload"), error);
            let _ = self.done.send((job.0.request, WriteOutcome::Ended(Err(error)), job.0.waits));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{ConnectionId, Sleeper};
    use crate::seed::{Lease, StoreConfig};
    use crate::token::Token;
    use std::time::Duration;

    #[test]
    fn each_request_gets_the_result_of_its_own_job_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path(), StoreConfig::default()).unwrap());
        let sleeper = Sleeper::default();
        let (done, results) = channel();
        let committer = Committer::start(store.clone(), done, sleeper.waker()).unwrap();
        let request = |number| RequestId::peer(ConnectionId { worker: 0, slot: 1, generation: 1 }, number);
        let missing = Token::of(b"not kept");
        let empty = store.begin(Token::of(b""), 0, Lease::default(), 0).unwrap();
        let held = Writing::Held(missing.into(), 0, None, Lease::default());
        committer.commit(request(0), held, 0, store.wait());
        committer.commit(request(4), Writing::Payload(empty), 0, store.wait());
        assert_eq!(store.requests_waiting(), 2, "no result is taken yet");
        let next = || results.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(next(), (of, WriteOutcome::Ended(Err(StoreError::Went(_))), _) if of == request(0)));
        assert!(matches!(next(), (of, WriteOutcome::Ended(Ok((_, 0))), _) if of == request(4)));
        assert_eq!(store.requests_waiting(), 0);
        assert!(store.get(&Token::of(b"")).unwrap().is_some());
    }
}
