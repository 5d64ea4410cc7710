//! FETCHes: what the kernel has in memory is opened at once, and anything else by other threads, since it may be on a slow disk.

use super::app::Seed;
use super::lookup::{Lookup, PreparedAnswer, Refusal};
use super::{Store, StoreError};
use crate::queue::{Answer, AppPort, Command, ConnectionId, Credit, Delivery, PeerRequest, RequestId};
use crate::record::{Fetch, Request};
use crate::rights::StoreTerms;
use rustc_hash::FxHashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// The request, what was found, and what counts the request while it waits.
type Opened = (RequestId, Fetch, Result<PreparedAnswer, Refusal>, Arc<()>);

/// The FETCHes of one seed instance that wait for their payloads to be opened.
pub(super) struct Openings {
    waiting: FxHashMap<RequestId, (bool, Credit)>,
    done: Sender<Opened>,
    results: Receiver<Opened>,
}

impl Default for Openings {
    fn default() -> Self {
        let (done, results) = channel();
        Self { waiting: FxHashMap::default(), done, results }
    }
}

impl Openings {
    pub(super) fn abandon(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.waiting.retain(|request, _| request.connection != connection);
    }

    /// The requests that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.keys().copied()
    }
}

impl Store {
    /// Has a thread of the store do what may wait for the disk.
    ///
    /// # Errors
    /// No thread can be started.
    fn run_apart(&self, job: impl FnOnce(&Self) + Send + 'static) -> io::Result<()> {
        let store = self.clone();
        self.inner.openers.run(Box::new(move || job(&store)))
    }
}

impl Seed {
    /// Looks the payload of a FETCH up and opens it, or has that done where it may wait for the disk.
    pub(super) fn fetch(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        (fetch, early, credit): (Fetch, bool, Credit),
    ) {
        if let Some(found) = (Lookup { fetch: &fetch, early }).find_now(&self.parts.store) {
            return self.opened(now, port, request, (fetch, early, credit), found);
        }
        let (done, waker, waits) = (self.openings.done.clone(), port.waker(), self.parts.store.wait());
        let begun = self.parts.store.run_apart(move |store| {
            let found = Lookup { fetch: &fetch, early }.find(store);
            // Sending fails only if this instance has ended.
            let _ = done.send((request, fetch, found, waits));
            waker.wake();
        });
        match begun {
            Ok(()) => drop(self.openings.waiting.insert(request, (early, credit))),
            Err(error) => {
                tracing::error!(%error, "no thread that opens files of the store can be started; allow this process more threads");
                let error = StoreError::io("open", &self.parts.store.inner.dir, error);
                self.refuse_store(port, request, &error);
            }
        }
    }

    /// Takes the payloads that were opened.
    pub(super) fn take_opened(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Ok((request, fetch, found, _waits)) = self.openings.results.try_recv() {
            worked = true;
            if let Some((early, credit)) = self.openings.waiting.remove(&request) {
                self.opened(now, port, request, (fetch, early, credit), found);
            }
        }
        worked
    }

    /// Answers a FETCH with what was found.
    fn opened(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        (fetch, early, credit): (Fetch, bool, Credit),
        found: Result<PreparedAnswer, Refusal>,
    ) {
        match found {
            Ok(answer) => {
                self.send(port, Command::answer(request, Answer::Ok(answer.ok)));
                self.servings.add(request, fetch.token, credit, answer);
            }
            Err(Refusal::Failure(failure)) => self.send(port, Command::refuse(request, failure)),
            // It may be whole but for its outboard: the request waits for a check, which makes that again.
            Err(Refusal::Store(StoreError::Damaged(token))) if !self.parts.store.is_fresh(token, now) => {
                let (again, terms) = (Request::Fetch(fetch), StoreTerms::default());
                let asked = PeerRequest { request: again, node: None, early, credit, terms };
                let asked = (request, Delivery::Asked(request, Box::new(asked)));
                self.checking.wait(&self.parts.store, now, port.waker(), token, asked);
            }
            Err(Refusal::Store(error)) => {
                self.refuse_store(port, request, &error);
                self.checking.look_into(&self.parts.store, now, port.waker(), fetch.token);
            }
        }
    }
}
