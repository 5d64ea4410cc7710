//! The seed application: keeps what is put, serves what is fetched.
//!
//! One instance a worker; all share one store and one memory tier. Writing and reading happen on the application's own
//! thread, syncing to disk on another, so that a slow fsync stops nobody.

use super::{Held, Keep, MemoryTier, Store, StoreError, Writer};
use crate::application::Application;
use crate::queue::{AppPort, Command, ConnectionId, Credit, Delivery, RequestId, Waker};
use crate::record::{ErrorCode, ErrorRecord};
use crate::token::{Piece, Ranges, Token, VerifiedEncoder};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bytes given to one request before the next has its turn.
const TURN_BYTES: usize = 256 * 1024;

/// The seed application.
pub struct Seed {
    store: Arc<Store>,
    memory: Arc<Mutex<MemoryTier>>,
    receiving: FxHashMap<RequestId, Receiving>,
    serving: VecDeque<Serving>,
    /// Commands that found the ring full; nothing more is taken while one waits.
    unsent: VecDeque<Command>,
    committer: Option<Committer>,
}

/// A PUT on its way in.
struct Receiving {
    writer: Writer,
    token: Token,
    length: u64,
}

/// A FETCH on its way out.
struct Serving {
    request: RequestId,
    credit: Credit,
    held: Held,
    encoder: VerifiedEncoder,
    batch: Vec<Piece>,
    pieces: VecDeque<Piece>,
    /// Bytes that the ring or the credit did not take.
    unsent: Option<Bytes>,
}

/// The thread that syncs.
struct Committer {
    jobs: Sender<(RequestId, Receiving)>,
    results: Receiver<(RequestId, Token, u64, Result<(), StoreError>)>,
}

impl Seed {
    /// On this store.
    pub fn new(store: Arc<Store>, memory: Arc<Mutex<MemoryTier>>) -> Self {
        Self {
            store,
            memory,
            receiving: FxHashMap::default(),
            serving: VecDeque::new(),
            unsent: VecDeque::new(),
            committer: None,
        }
    }

    fn send(&mut self, port: &mut AppPort, command: Command) {
        if !self.unsent.is_empty() {
            self.unsent.push_back(command);
        } else if let Err(command) = port.send(command) {
            self.unsent.push_back(command);
        }
    }

    fn send_unsent(&mut self, port: &mut AppPort) -> bool {
        while let Some(command) = self.unsent.pop_front() {
            if let Err(command) = port.send(command) {
                self.unsent.push_front(command);
                return false;
            }
        }
        true
    }

    fn refuse(&mut self, port: &mut AppPort, request: RequestId, code: ErrorCode, reason: String) {
        self.send(port, Command::Refuse { request, failure: ErrorRecord::new(code, 0, reason) });
    }

    fn refuse_store(&mut self, port: &mut AppPort, request: RequestId, error: &StoreError) {
        // The error's own text names paths, which are nobody else's affair.
        tracing::warn!(%error, "a payload cannot be kept or read");
        let reason = match error.code() {
            ErrorCode::Quota => "the store has no room for this payload",
            ErrorCode::Limit => "the payload is longer than the protocol allows",
            _ => "the store cannot keep or read this payload now",
        };
        self.refuse(port, request, error.code(), reason.into());
    }

    fn deliver(&mut self, port: &mut AppPort, delivery: Delivery) {
        match delivery {
            Delivery::Put { request, token, length, .. } => self.put(port, request, token, length),
            Delivery::Piece { request, piece } => {
                if let Some(receiving) = self.receiving.get_mut(&request)
                    && let Err(error) = receiving.writer.write(&piece)
                {
                    self.receiving.remove(&request);
                    self.refuse_store(port, request, &error);
                }
            }
            Delivery::Complete { request } => {
                if let Some(receiving) = self.receiving.remove(&request) {
                    self.commit(port, request, receiving);
                }
            }
            Delivery::Fetch { request, token, ranges, max_bytes, credit } => {
                self.fetch(port, request, token, &ranges, max_bytes, credit);
            }
            Delivery::Failed { request, .. } => {
                self.receiving.remove(&request);
                self.serving.retain(|serving| serving.request != request);
            }
            Delivery::Closed { connection, .. } => self.forget(connection),
            _ => {}
        }
    }

    /// Dropping a writer removes what it wrote.
    fn forget(&mut self, connection: ConnectionId) {
        self.receiving.retain(|request, _| request.connection != connection);
        self.serving.retain(|serving| serving.request.connection != connection);
    }

    fn put(&mut self, port: &mut AppPort, request: RequestId, token: Token, length: u64) {
        if self.store.get(&token).is_ok_and(|held| held.is_some()) {
            // Already checked and durable: nothing needs to cross the wire again.
            return self.send(port, Command::Done { request, bytes: length, token });
        }
        match self.store.begin(token, length, Keep::default(), 0) {
            Ok(writer) => {
                self.receiving.insert(request, Receiving { writer, token, length });
                self.send(port, Command::Accept { request });
            }
            Err(error) => self.refuse_store(port, request, &error),
        }
    }

    fn commit(&mut self, port: &mut AppPort, request: RequestId, receiving: Receiving) {
        let committer = self.committer.get_or_insert_with(|| Committer::start(port.waker()));
        if let Err(lost) = committer.jobs.send((request, receiving)) {
            self.committer = None;
            drop(lost);
            self.refuse(port, request, ErrorCode::Internal, "the store's sync thread ended".into());
        }
    }

    fn take_commits(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some((request, token, bytes, result)) =
            self.committer.as_ref().and_then(|committer| committer.results.try_recv().ok())
        {
            worked = true;
            match result {
                Ok(()) => self.send(port, Command::Done { request, bytes, token }),
                Err(error) => self.refuse_store(port, request, &error),
            }
        }
        worked
    }

    fn fetch(
        &mut self,
        port: &mut AppPort,
        request: RequestId,
        token: Token,
        ranges: &Ranges,
        max_bytes: u64,
        credit: Credit,
    ) {
        let held = match self.store.get(&token) {
            Ok(Some(held)) => held,
            Ok(None) => {
                return self.refuse(port, request, ErrorCode::NotFound, format!("{token} is not kept here"));
            }
            Err(error) => return self.refuse_store(port, request, &error),
        };
        let length = held.length();
        let encoder = match VerifiedEncoder::new(held.outboard().clone(), ranges) {
            Ok(encoder) => encoder,
            Err(error) => return self.refuse(port, request, ErrorCode::BadRange, error.to_string()),
        };
        let selected = ranges.selected_bytes(length).unwrap_or(length);
        if max_bytes > 0 && selected > max_bytes {
            let reason = format!(
                "the answer has {selected} payload bytes, more than the {max_bytes} asked for at most"
            );
            return self.refuse(port, request, ErrorCode::Limit, reason);
        }
        self.send(port, Command::Answer { request, length });
        let (batch, pieces) = (Vec::new(), VecDeque::new());
        self.serving.push_back(Serving { request, credit, held, encoder, batch, pieces, unsent: None });
    }

    /// Gives every request a turn. Returns whether any byte went out.
    fn serve(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        for _ in 0..self.serving.len() {
            if port.room() == 0 || !self.unsent.is_empty() {
                break;
            }
            let Some(mut serving) = self.serving.pop_front() else { break };
            let request = serving.request;
            match serving.turn(&self.memory, port) {
                Ok(Turn::Sent) => {
                    worked = true;
                    self.serving.push_back(serving);
                }
                Ok(Turn::Blocked) => self.serving.push_back(serving),
                Ok(Turn::Over) => {
                    worked = true;
                    self.send(port, Command::Finish { request });
                }
                Err(error) => self.refuse_store(port, request, &error),
            }
        }
        worked
    }
}

enum Turn {
    Sent,
    Blocked,
    Over,
}

impl Serving {
    fn turn(&mut self, memory: &Mutex<MemoryTier>, port: &mut AppPort) -> Result<Turn, StoreError> {
        let mut sent = 0;
        while sent < TURN_BYTES {
            let Some(bytes) = self.next(memory)? else { return Ok(Turn::Over) };
            let len = bytes.len();
            if let Err(bytes) = port.send_data(self.request, &self.credit, bytes) {
                self.unsent = Some(bytes);
                break;
            }
            sent += len;
        }
        Ok(if sent > 0 { Turn::Sent } else { Turn::Blocked })
    }

    fn next(&mut self, memory: &Mutex<MemoryTier>) -> Result<Option<Bytes>, StoreError> {
        if let Some(bytes) = self.unsent.take() {
            return Ok(Some(bytes));
        }
        if self.pieces.is_empty() {
            let failed = |source| StoreError::io("read the outboard of", Path::new("a payload"), source);
            self.encoder.next_batch(TURN_BYTES, &mut self.batch).map_err(failed)?;
            self.pieces.extend(self.batch.drain(..));
        }
        match self.pieces.pop_front() {
            None => Ok(None),
            Some(Piece::Proof(hashes)) => Ok(Some(hashes)),
            Some(Piece::Data { offset, len }) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.read(&self.held, offset, len).map(Some)
            }
        }
    }
}

impl Committer {
    fn start(waker: Waker) -> Self {
        let (jobs, incoming) = channel::<(RequestId, Receiving)>();
        let (done, results) = channel();
        std::thread::spawn(move || {
            for (request, receiving) in incoming {
                let Receiving { writer, token, length } = receiving;
                let result = writer.commit().map(drop);
                if done.send((request, token, length, result)).is_err() {
                    return;
                }
                waker.wake();
            }
        });
        Self { jobs, results }
    }
}

impl Application for Seed {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.take_commits(port);
        while self.send_unsent(port)
            && let Some(delivery) = port.receive()
        {
            worked = true;
            self.deliver(port, delivery);
        }
        worked | self.serve(port)
    }
}
