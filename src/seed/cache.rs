//! Keeps payloads that pass through this gateway. A thread of its own checks them, only as fast as it can.

use super::{Lease, PayloadWriter, Store};
use crate::limits::CACHE_QUEUE_LEN;
use crate::record::{Coverage, Fetch, OkRecord, Payload, Record, RecordReader, RecordType};
use crate::session::Holds;
use crate::token::{Ranges, Token, VerifiedDecoder};
use rustc_hash::FxHashMap;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Weak};

/// Gives passing answers to the thread that keeps them, without waiting for it.
#[derive(Clone, Debug)]
pub struct Cache {
    store: Arc<Store>,
    events: SyncSender<CacheEvent>,
    numbers: Arc<std::sync::atomic::AtomicU64>,
}

/// One answer that passes through.
#[derive(Debug)]
pub struct Passing {
    number: u64,
    events: SyncSender<CacheEvent>,
    /// Shows the keeper that the answer still passes, even if the channel is full when the answer ends.
    alive: Arc<()>,
    /// Whether the channel took every byte so far.
    whole: bool,
}

#[derive(Debug)]
enum CacheEvent {
    Begin {
        number: u64,
        token: Token,
        alive: Weak<()>,
    },
    Bytes {
        number: u64,
        bytes: Payload,
    },
    /// The answer has passed completely.
    End {
        number: u64,
        _alive: Arc<()>,
    },
}

impl Cache {
    /// Starts the thread that keeps passing payloads in `store`.
    ///
    /// # Errors
    /// The system's error if the thread cannot be started.
    pub fn start(store: Arc<Store>) -> std::io::Result<Self> {
        let (events, incoming) = sync_channel(CACHE_QUEUE_LEN);
        let keeper = Keeper { store: store.clone(), passing: FxHashMap::default() };
        std::thread::Builder::new().name("stoq-cache".into()).spawn(move || keeper.run(&incoming))?;
        Ok(Self { store, events, numbers: Arc::default() })
    }

    /// Begins to keep the answer to a FETCH of the whole payload `token`.
    pub fn begin(&self, token: Token) -> Passing {
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let alive = Arc::new(());
        let begun = CacheEvent::Begin { number, token, alive: Arc::downgrade(&alive) };
        let whole = self.events.try_send(begun).is_ok();
        Passing { number, events: self.events.clone(), alive, whole }
    }
}

impl Holds for Cache {
    fn holds(&self, fetch: &Fetch) -> bool {
        match (self.store.holding(&fetch.token).map(|holding| holding.coverage), fetch.lanes) {
            (Some(Coverage::All), _) => true,
            (Some(Coverage::Lanes(held)), Some(wanted)) => held.contains_all(wanted),
            _ => false,
        }
    }
}

impl Passing {
    /// Gives the next bytes of the answer to the keeper. False if the channel is full: the payload is then not kept.
    pub fn push(&mut self, bytes: &Payload) -> bool {
        let bytes = || CacheEvent::Bytes { number: self.number, bytes: bytes.clone() };
        self.whole = self.whole && self.events.try_send(bytes()).is_ok();
        self.whole
    }

    /// Ends a complete answer: the keeper then keeps the payload.
    pub fn finish(self) {
        if self.whole {
            let _ = self.events.try_send(CacheEvent::End { number: self.number, _alive: self.alive });
        }
    }
}

/// The thread's state.
struct Keeper {
    store: Arc<Store>,
    passing: FxHashMap<u64, PassingPayload>,
}

/// One payload that passes through.
struct PassingPayload {
    token: Token,
    alive: Weak<()>,
    reader: RecordReader,
    body: Option<(VerifiedDecoder, PayloadWriter)>,
}

impl Keeper {
    fn run(mut self, incoming: &Receiver<CacheEvent>) {
        while let Some(event) = self.next(incoming) {
            match event {
                CacheEvent::Begin { number, token, alive } => {
                    let kept = PassingPayload { token, alive, reader: RecordReader::new(), body: None };
                    self.passing.insert(number, kept);
                }
                CacheEvent::Bytes { number, bytes } => {
                    if let Some(kept) = self.passing.get_mut(&number)
                        && kept.take(&self.store, &bytes).is_none()
                    {
                        self.passing.remove(&number);
                    }
                }
                CacheEvent::End { number, .. } => {
                    if let Some(kept) = self.passing.remove(&number) {
                        kept.commit();
                    }
                }
            }
        }
    }

    /// The next event. Before it waits for one, it forgets answers that were dropped.
    fn next(&mut self, incoming: &Receiver<CacheEvent>) -> Option<CacheEvent> {
        match incoming.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => {
                self.passing.retain(|_, kept| kept.alive.strong_count() > 0);
                incoming.recv().ok()
            }
            Err(TryRecvError::Disconnected) => None,
        }
    }
}

impl PassingPayload {
    /// Takes bytes of the answer. `None` once the payload cannot be kept: an ERROR passed, the bytes are wrong, or the store is full.
    fn take(&mut self, store: &Store, bytes: &Payload) -> Option<()> {
        for chunk in bytes {
            if self.body.is_none() {
                self.reader.push(chunk.clone());
                let Some(header) = self.reader.next_header().ok()? else { continue };
                let Some(record) = self.reader.take_body() else { continue };
                if header.record_type != RecordType::Ok {
                    return None;
                }
                let length = OkRecord::parse(&record.to_bytes()).ok()?.length_bytes;
                let decoder = VerifiedDecoder::new(self.token, length, Ranges::all()).ok()?;
                self.body = Some((
                    decoder,
                    store.begin(self.token, length, Lease::cached(None), store.over_s()).ok()?,
                ));
                while let Some(raw) = self.reader.take_raw(usize::MAX) {
                    self.check(&raw)?;
                }
            } else {
                self.check(chunk)?;
            }
        }
        self.write()
    }

    fn check(&mut self, bytes: &[u8]) -> Option<()> {
        let (decoder, _) = self.body.as_mut()?;
        decoder.push(bytes).ok()
    }

    fn write(&mut self) -> Option<()> {
        let Some((decoder, writer)) = self.body.as_mut() else { return Some(()) };
        while let Some(piece) = decoder.poll() {
            writer.write(&piece).ok()?;
        }
        Some(())
    }

    fn commit(self) {
        if let Some((decoder, writer)) = self.body
            && decoder.is_complete()
            && let Err(error) = writer.commit()
        {
            tracing::warn!(%error, "a payload that passed through cannot be kept");
        }
    }
}
