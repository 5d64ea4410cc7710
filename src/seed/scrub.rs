//! The scrub: everything that is held is read and compared with its token, once within a configured time.
//!
//! A pass goes through the tokens in their order. It is a clock's hand: at each moment of the pass it has behind it as large a part of all
//! tokens as of its time, so its reads are spread over the time evenly. A hand that is behind, after the gateway was off, catches up at the
//! configured rate and no faster. Its place is a row of the database, so a restart continues the pass.
//!
//! It reads on the thread of the checks, a piece at a time, and no piece while a request waits for a read. Only a pass that is past its
//! time reads one piece a tick nevertheless. Pages of the kernel's cache are dropped before and after: the disk is what is checked.

use super::check::{Check, CheckResult};
use super::database::{RowsWalk, StoreTable};
use super::index::Index;
use super::inner::Inner;
use super::store::Store;
use crate::limits::{
    SCRUB_BYTES_PER_S, SCRUB_ENTRY_BYTES, SCRUB_NOTE_S, SCRUB_ROW_BYTES, SCRUB_WAIT_MS, STORE_BATCH_LEN,
};
use crate::token::AnyToken;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The row of the scrub: JSON.
const SCRUB: &[u8] = b"scrub";

/// What a pass of the scrub has read and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubTally {
    /// Payloads and sets that were checked.
    pub checked: u64,
    /// Bytes read of them.
    pub bytes: u64,
    /// Those that were damaged, and rows of the database that were.
    pub damaged: u64,
    /// Those that could not be read.
    pub unreadable: u64,
}

impl ScrubTally {
    fn note(&mut self, found: CheckResult) {
        self.checked += u64::from(found != CheckResult::Gone);
        self.damaged += u64::from(found == CheckResult::Damaged);
        self.unreadable += u64::from(found == CheckResult::Unreadable);
    }
}

/// A pass of the scrub that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    /// The store's time at its begin, seconds since the Unix epoch.
    pub began_s: u64,
    /// The store's time at its end, seconds since the Unix epoch.
    pub ended_s: u64,
    /// What it read and found.
    #[serde(flatten)]
    pub tally: ScrubTally,
}

/// The state of a store's scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ScrubState {
    /// The time within which everything is read, seconds; 0: only when an operator asks for it.
    pub every_s: u64,
    /// When the running pass began, seconds since the Unix epoch; `None`: no pass runs.
    pub began_s: Option<u64>,
    /// Whether an operator asked for the running pass, which then does not spread its reads.
    pub asked: bool,
    /// The part of all tokens that the pass has behind it, 0 to 1.
    pub done: f64,
    /// How far it is behind its plan, seconds.
    pub behind_s: u64,
    /// What the running pass has read and found.
    pub tally: ScrubTally,
    /// The last pass that came to its end.
    pub last: Option<ScrubPass>,
    /// Passes that came to their end, ever.
    pub passes: u64,
    /// Payloads and sets checked since the store was opened.
    pub checked: u64,
    /// Bytes read since the store was opened.
    pub bytes: u64,
    /// Ticks at which it waited for reads of requests, since the store was opened.
    pub waits: u64,
    /// Pieces that it read while a request waited for a read, since the store was opened: only a pass past its time does so.
    pub reads_beside: u64,
}

/// What the row keeps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ScrubNote {
    began_s: Option<u64>,
    asked: bool,
    /// Whether the rows of the database were looked at.
    walked: bool,
    /// The last token that was checked, in text.
    cursor: Option<String>,
    tally: ScrubTally,
    last: Option<ScrubPass>,
    passes: u64,
}

/// The scrub of a store, as other threads see it.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    state: Mutex<ScrubState>,
    /// Whether an operator asks for a pass.
    asked: AtomicBool,
}

impl Scrub {
    /// The scrub as the database has it.
    pub(super) fn of(index: &Index) -> Self {
        let scrub = Self::default();
        ScrubNote::read(index).show(&mut scrub.state());
        scrub
    }

    fn state(&self) -> MutexGuard<'_, ScrubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScrubNote {
    fn read(index: &Index) -> Self {
        let row = index.rows.get(StoreTable::Notes, SCRUB);
        row.and_then(|row| serde_json::from_slice(&row).ok()).unwrap_or_default()
    }

    fn cursor(&self) -> Option<AnyToken> {
        self.cursor.as_ref()?.parse().ok()
    }

    fn show(&self, state: &mut ScrubState) {
        let Self { began_s, asked, tally, last, passes, .. } = *self;
        *state = ScrubState { began_s, asked, tally, last, passes, ..*state };
    }
}

/// Called on the thread of the checks with each holding that is not whole.
pub(super) type OnScrubbed = Box<dyn Fn(AnyToken, CheckResult) + Send>;

/// One tick of the worker's time.
pub(super) struct ScrubTick {
    /// The store's time, seconds since the Unix epoch.
    pub(super) now_s: u64,
    pub(super) now: Instant,
    pub(super) told: OnScrubbed,
    /// Holds a simulated clock while there is something to read.
    pub(super) waits: Option<Arc<()>>,
}

/// The scrub on the thread of the checks.
#[derive(Default)]
pub(super) struct Scrubbing {
    note: Option<ScrubNote>,
    check: Option<Box<Check>>,
    /// The rows of the database come first.
    walk: RowsWalk,
    /// The tick whose bytes are being read; `None`: it waits for the next one.
    tick: Option<ScrubTick>,
    /// Bytes that may be read now.
    left_bytes: i64,
    /// The time of the last tick.
    ticked: Option<Instant>,
    /// When the row was written, by the store's time, seconds, and how much had been checked.
    noted: (u64, u64),
    /// Whether requests kept it from reading in this tick, and until when it does not look again.
    stands: bool,
    look_at: Option<Instant>,
    /// Whether it read beside requests in this tick.
    beside: bool,
}

/// How far a token is in the order of all, 0 to 1. Tokens are hashes, so they are spread evenly; payloads come before sets.
fn place(token: &AnyToken, index: &Index) -> f64 {
    let bytes = token.to_bytes();
    let hash = bytes[1..9].iter().fold(0_u64, |hash, &byte| hash << 8 | u64::from(byte));
    let place = hash as f64 / u64::MAX as f64;
    let kind =
        |first: u8| index.rows.next(StoreTable::Holdings, &[first]).is_some_and(|(key, _)| key[0] == first);
    let of_payload = AnyToken::from(crate::token::Token::from_root([0; 32])).to_bytes()[0];
    let is_payload = bytes[0] == of_payload;
    let set = AnyToken::from(crate::token::SetToken::from_hash([0; 32])).to_bytes()[0];
    match (is_payload, kind(if is_payload { set } else { of_payload })) {
        (_, false) => place,
        (true, true) => place / 2.0,
        (false, true) => 0.5 + place / 2.0,
    }
}

/// The span over which a pass is spread: an eighth of the time is left for hours in which requests go first.
fn span_s(every_s: u64) -> u64 {
    every_s - every_s / 8
}

impl Scrubbing {
    /// Takes a tick: what may be read until the next one.
    pub(super) fn take(&mut self, store: &Inner, tick: ScrubTick) {
        let config = *store.index().config();
        let rate = config.scrub_bytes_per_s.unwrap_or(SCRUB_BYTES_PER_S) as i64;
        let passed = self.ticked.map_or(Duration::from_secs(1), |at| tick.now.saturating_duration_since(at));
        let more = rate.saturating_mul(passed.as_millis().min(10_000) as i64) / 1000;
        self.left_bytes = self.left_bytes.saturating_add(more).min(rate.saturating_mul(2));
        self.ticked = Some(tick.now);
        (self.stands, self.beside, self.look_at) = (false, false, None);
        let note = self.note.get_or_insert_with(|| ScrubNote::read(&store.index()));
        if store.scrub.asked.swap(false, Relaxed) && !(note.began_s.is_some() && note.asked) {
            *note = ScrubNote { last: note.last, passes: note.passes, asked: true, ..ScrubNote::default() };
            note.began_s = Some(tick.now_s);
            (self.check, self.walk) = (None, RowsWalk::default());
            tracing::info!("a scrub of the whole store begins: an operator asked for it");
            store.write_scrub(note);
        }
        let due = note.last.is_none_or(|last| {
            tick.now_s >= last.began_s.saturating_add(span_s(config.scrub_s)) || tick.now_s < last.began_s
        });
        if note.began_s.is_none() && config.scrub_s > 0 && due {
            let (last, passes) = (note.last, note.passes);
            *note = ScrubNote { began_s: Some(tick.now_s), last, passes, ..ScrubNote::default() };
            store.write_scrub(note);
        }
        self.tick = (note.began_s.is_some() && (note.asked || config.scrub_s > 0)).then_some(tick);
        self.show(store, config.scrub_s);
    }

    /// How long to wait before the next read; `None`: until there is a tick.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.tick.as_ref()?;
        Some(self.look_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now())))
    }

    /// The part of its span that a pass has behind it, and whether it is past its time.
    fn plan(note: &mut ScrubNote, done: f64, now_s: u64, every_s: u64) -> (f64, bool) {
        let span_s = span_s(every_s).max(1);
        let began_s = note.began_s.get_or_insert(now_s);
        if *began_s > now_s {
            // The clock was set back: the pass goes on from where it is.
            *began_s = now_s.saturating_sub((done * span_s as f64) as u64);
        }
        let passed_s = now_s - *began_s;
        if note.asked { (1.0, false) } else { (passed_s as f64 / span_s as f64, passed_s > every_s) }
    }

    /// Reads a piece, if it is time to.
    pub(super) fn turn(&mut self, store: &Arc<Inner>) {
        let (Some(tick), Some(note)) = (&self.tick, &mut self.note) else { return };
        let (now_s, every_s) = (tick.now_s, store.index().config().scrub_s);
        let done = store.scrub.state().done;
        let (due, late) = Self::plan(note, done, now_s, every_s);
        if self.left_bytes <= 0 {
            return self.rest(store, every_s);
        }
        if store.disk.reader().in_flight() > 0 {
            if !late || std::mem::replace(&mut self.beside, true) {
                return self.stand(store);
            }
            store.scrub.state().reads_beside += 1;
        }
        if !note.walked {
            let rotten = store.index().rows.rotten_found();
            if let Some((rows, damaged)) = store.walk_rows(&mut self.walk) {
                self.left_bytes -= (rows.max(1) * SCRUB_ROW_BYTES) as i64;
                note.tally.damaged += damaged + store.index().rows.rotten_found() - rotten;
                return;
            }
            (note.walked, self.walk) = (true, RowsWalk::default());
        }
        if self.check.is_none() {
            let next = store.index().holdings_after(note.cursor().as_ref(), 1).pop();
            let Some((holding, _)) = next else {
                // The next pass is this one's span later, so that what is put behind the hand has its turn a span later, too.
                return if due >= 1.0 { self.end(store, every_s) } else { self.rest(store, every_s) };
            };
            if place(&holding.token, &store.index()) > due {
                return self.rest(store, every_s);
            }
            self.check = Some(Box::new(Check::of_scrub(holding.token)));
        }
        let Some(mut check) = self.check.take() else { return };
        let before = check.bytes;
        let found = check.turn(store);
        let read = check.bytes - before;
        note.tally.bytes += read;
        self.left_bytes -= read as i64;
        store.checks.state().bytes += read;
        store.scrub.state().bytes += read;
        let Some(found) = found else {
            self.check = Some(check);
            return;
        };
        self.left_bytes -= SCRUB_ENTRY_BYTES as i64;
        note.tally.note(found);
        note.cursor = Some(check.token.to_string());
        let token = check.token;
        check.end(store, found);
        {
            let mut state = store.scrub.state();
            state.checked += 1;
            state.tally = note.tally;
            state.done = place(&token, &store.index());
        }
        if !matches!(found, CheckResult::Whole | CheckResult::Gone) {
            (tick.told)(token, found);
        }
    }

    /// Requests' reads go first. A simulated clock may go on meanwhile.
    fn stand(&mut self, store: &Inner) {
        if let Some(tick) = &mut self.tick {
            tick.waits = None;
        }
        if !std::mem::replace(&mut self.stands, true) {
            store.scrub.state().waits += 1;
        }
        self.look_at = Some(Instant::now() + Duration::from_millis(SCRUB_WAIT_MS));
    }

    /// There is nothing more to read until the next tick.
    fn rest(&mut self, store: &Inner, every_s: u64) {
        let Some(tick) = self.tick.take() else { return };
        if let Some(note) = &self.note
            && tick.now_s.abs_diff(self.noted.0) >= SCRUB_NOTE_S
            && note.tally.checked != self.noted.1
        {
            self.noted = (tick.now_s, note.tally.checked);
            store.write_scrub(note);
        }
        self.show(store, every_s);
    }

    /// A pass is over.
    fn end(&mut self, store: &Inner, every_s: u64) {
        let (Some(tick), Some(note)) = (self.tick.take(), &mut self.note) else { return };
        let pass =
            ScrubPass { began_s: note.began_s.unwrap_or(tick.now_s), ended_s: tick.now_s, tally: note.tally };
        let passes = note.passes + 1;
        *note = ScrubNote { last: Some(pass), passes, ..ScrubNote::default() };
        store.write_scrub(note);
        let ScrubTally { checked, bytes, damaged, unreadable } = pass.tally;
        tracing::info!(
            checked,
            bytes,
            damaged,
            unreadable,
            "everything in the store was read and compared with its token"
        );
        self.show(store, every_s);
    }

    fn show(&self, store: &Inner, every_s: u64) {
        let Some(note) = &self.note else { return };
        let ticked_s = self.tick.as_ref().map(|tick| tick.now_s);
        let done = match (note.cursor(), note.began_s) {
            (Some(cursor), _) => place(&cursor, &store.index()),
            _ => 0.0,
        };
        let mut state = store.scrub.state();
        note.show(&mut state);
        (state.every_s, state.done) = (every_s, done);
        let span = span_s(every_s) as f64;
        if note.asked || note.began_s.is_none() {
            state.behind_s = 0;
        } else if let (Some(began_s), Some(now_s)) = (note.began_s, ticked_s) {
            state.behind_s = (now_s.saturating_sub(began_s) as f64 - done * span).max(0.0) as u64;
        }
    }
}

impl Inner {
    /// Makes the place of the scrub durable. If that fails, a restart begins at an earlier one.
    fn write_scrub(&self, note: &ScrubNote) {
        let Ok(row) = serde_json::to_vec(note) else { return };
        if self.read_only.is_some() {
            return;
        }
        self.index().rows.set(StoreTable::Notes, SCRUB.to_vec(), row);
        if let Err(error) = self.commit() {
            tracing::debug!(%error, "the place of the scrub cannot be written down");
        }
    }
}

/// How far [`Store::verify`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyProgress {
    /// What was read and found.
    #[serde(flatten)]
    pub tally: ScrubTally,
    /// Payloads and sets in the store.
    pub entries: u64,
}

impl Store {
    /// Tells the scrub what time it is: it reads what is due, on another thread. `told` is called there with each holding that is not whole.
    pub(super) fn scrub(&self, (now_s, now): (u64, Instant), told: impl FnOnce() -> OnScrubbed) {
        let wanted = self.config().scrub_s > 0 || self.inner.scrub.asked.load(Relaxed);
        if wanted || self.inner.scrub.state().asked {
            let waits = Some(self.wait());
            self.inner.scrub_later(ScrubTick { now_s, now, told: told(), waits });
        }
    }

    /// Has a pass of the scrub begin at once, and read as fast as its rate allows. One that runs so already goes on.
    pub fn scrub_now(&self) {
        self.inner.scrub.asked.store(true, Relaxed);
    }

    /// The state of the scrub.
    pub fn scrub_state(&self) -> ScrubState {
        let asked = self.inner.scrub.asked.load(Relaxed);
        let state = *self.inner.scrub.state();
        ScrubState { every_s: self.config().scrub_s, asked: state.asked || asked, ..state }
    }

    /// Reads everything that is held and compares it with its token, on this thread and as fast as the disk allows. Damage is mended, or set
    /// aside, as by the scrub. `told` is called after each piece, and ends it early by returning false.
    pub fn verify(&self, mut told: impl FnMut(VerifyProgress) -> bool) -> VerifyProgress {
        let entries = self.census().entries;
        let mut progress = VerifyProgress { entries, ..VerifyProgress::default() };
        let mut walk = RowsWalk::default();
        while let Some((_, damaged)) = self.inner.walk_rows(&mut walk) {
            progress.tally.damaged += damaged;
            if !told(progress) {
                return progress;
            }
        }
        progress.tally.damaged += self.inner.index().rows.rotten_found();
        let mut cursor = None;
        loop {
            let page = self.inner.index().holdings_after(cursor.as_ref(), STORE_BATCH_LEN);
            if page.is_empty() {
                return progress;
            }
            for (holding, _) in page {
                cursor = Some(holding.token);
                let mut checking = Some(Check::of_scrub(holding.token));
                while let Some(mut check) = checking.take() {
                    let before = check.bytes;
                    let found = check.turn(&self.inner);
                    progress.tally.bytes += check.bytes - before;
                    match found {
                        Some(found) => {
                            check.end(&self.inner, found);
                            progress.tally.note(found);
                        }
                        None => checking = Some(check),
                    }
                    if !told(progress) {
                        return progress;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
