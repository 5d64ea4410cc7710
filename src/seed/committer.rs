//! The thread on which what was written is made durable.

use super::Store;
use super::writing::{Committed, Writing};
use crate::queue::{RequestId, Waker};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The thread that syncs.
pub(super) struct Committer {
    pub(super) jobs: Sender<(RequestId, Writing, u64)>,
    pub(super) results: Receiver<(RequestId, Committed)>,
}

impl Committer {
    pub(super) fn start(store: Arc<Store>, waker: Waker) -> Self {
        let (jobs, incoming) = channel::<(RequestId, Writing, u64)>();
        let (done, results) = channel();
        std::thread::spawn(move || {
            for (request, writing, now_s) in incoming {
                let result = writing.commit(&store, now_s);
                if done.send((request, result)).is_err() {
                    return;
                }
                waker.wake();
            }
        });
        Self { jobs, results }
    }
}
