//! One check: a held payload or set is read and compared with its token. A payload whose outboard is wrong gets a new one; a damaged
//! payload is set aside (`damage`).

use super::damage::DamageOutcome;
use super::disk::parent;
use super::entry::{EntryBody, PayloadPlace, SetBody};
use super::error::StoreError;
use super::inner::Inner;
use super::layout::{self, BLOB, OUTBOARD};
use super::open_files::OpenFor;
use super::open_payload::OpenPayload;
use super::verify::{Read, Rehash, Verify};
use crate::limits::{CHECK_TURN_BYTES, PAYLOAD_BYTES_MAX, SCRUB_TURN_BYTES};
use crate::shard::{Blob, Part};
use crate::token::{AnyToken, Outboard, Ranges, Selection, Token, VerifyError};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The bytes match the token, if need be after a repair.
    Whole,
    /// Some or all bytes do not match; the damaged part is no longer held.
    Damaged,
    /// The token is not held.
    Gone,
    /// The disk refused to read it for a reason other than damage, such as rights. It stays as it is.
    Unreadable,
}

/// Called with the result.
pub(super) type OnChecked = Box<dyn FnOnce(AnyToken, CheckResult) + Send>;

/// A part of the check that is being read.
#[derive(Debug)]
enum CheckReading {
    Payload(Token, Box<Verify>),
    /// The payload is hashed: its outboard is wrong, or its bytes are.
    Hash(Token, Box<Rehash>, String),
    Lanes(Box<Part>, Box<Verify>),
}

/// A part of the check that is still to be read.
#[derive(Debug)]
enum Stage {
    Payload(Token),
    Lanes(Box<Part>),
}

/// One check.
pub(super) struct Check {
    pub(super) token: AnyToken,
    now: Instant,
    /// Whether a request waits for it.
    pub(super) urgent: bool,
    done: Vec<OnChecked>,
    /// `None` before it began.
    stages: Option<VecDeque<Stage>>,
    reading: Option<CheckReading>,
    worst: CheckResult,
    pub(super) bytes: u64,
    /// The inode of the payload's file that is read, or the number of its row.
    inode: Option<u64>,
    /// How many non-urgent requests for this check were counted as due.
    unhurried: usize,
    /// Whether it is of the scrub: it reads what the disk has, in small pieces, and of a set no blob that is held whole, which has its own turn.
    scrub: bool,
}

impl Check {
    pub(super) fn new(token: AnyToken, now: Instant, urgent: bool, done: OnChecked) -> Self {
        Self {
            token,
            now,
            urgent,
            done: vec![done],
            stages: None,
            reading: None,
            worst: CheckResult::Whole,
            bytes: 0,
            inode: None,
            unhurried: usize::from(!urgent),
            scrub: false,
        }
    }

    /// One of the scrub, which no request waits for.
    pub(super) fn of_scrub(token: AnyToken) -> Self {
        let asked = Self::new(token, Instant::now(), false, Box::new(|_, _| {}));
        Self { done: Vec::new(), unhurried: 0, scrub: true, ..asked }
    }

    /// Adds another request for the same check.
    pub(super) fn join(&mut self, now: Instant, urgent: bool, done: OnChecked, store: &Weak<Inner>) {
        self.now = self.now.min(now);
        self.urgent |= urgent;
        self.done.push(done);
        if !urgent && let Some(store) = store.upgrade() {
            store.checks.due.fetch_sub(1, Relaxed);
        }
    }

    /// Counts the check; returns the callbacks for its result.
    pub(super) fn end(self, store: &Inner, found: CheckResult) -> Vec<OnChecked> {
        store.checks.due.fetch_sub(self.unhurried, Relaxed);
        {
            let mut state = store.checks.state();
            match found {
                CheckResult::Whole => state.whole += 1,
                CheckResult::Damaged => state.damaged += 1,
                CheckResult::Unreadable => state.unreadable += 1,
                CheckResult::Gone => {}
            }
        }
        match found {
            // The scrub's would push out those of requests.
            CheckResult::Whole if self.scrub => {}
            CheckResult::Whole => store.checks.note_whole(self.token, self.now),
            _ => drop(store.checks.fresh().at.remove(&self.token)),
        }
        self.done
    }

    /// Reads one piece more. Returns the result once it is known.
    pub(super) fn turn(&mut self, store: &Arc<Inner>) -> Option<CheckResult> {
        if self.stages.is_none() {
            let Some(stages) = self.begin(store) else { return Some(CheckResult::Gone) };
            self.stages = Some(stages);
        }
        let reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let Some(stage) = self.stages.as_mut().and_then(VecDeque::pop_front) else {
                    return Some(self.worst);
                };
                self.open(store, stage)?
            }
        };
        let turn_bytes = if self.scrub { SCRUB_TURN_BYTES } else { CHECK_TURN_BYTES };
        match reading {
            CheckReading::Payload(token, mut verify) => match verify.read(turn_bytes) {
                Ok(Read::More(read)) => {
                    self.bytes += read as u64;
                    self.reading = Some(CheckReading::Payload(token, verify));
                }
                Ok(Read::End(true)) => {}
                Ok(Read::End(false)) => {
                    self.rehash(store, token, "its bytes or its outboard do not match its token")
                }
                Err(error) => self.failed(store, token.into(), &error),
            },
            CheckReading::Hash(token, rehash, reason) => match rehash.read(turn_bytes) {
                Ok((Some(rehash), Read::More(read))) => {
                    self.bytes += read as u64;
                    self.reading = Some(CheckReading::Hash(token, Box::new(rehash), reason));
                }
                Ok((_, Read::End(Some(outboard)))) => self.mended(store, token, &outboard, &reason),
                Ok(_) => self.bad(store, &token.into(), &reason),
                Err(error) => self.failed(store, token.into(), &error),
            },
            CheckReading::Lanes(part, mut verify) => match verify.read(turn_bytes) {
                Ok(Read::More(read)) => {
                    self.bytes += read as u64;
                    self.reading = Some(CheckReading::Lanes(part, verify));
                }
                Ok(Read::End(true)) => {}
                Ok(Read::End(false)) => {
                    self.bad_lanes(store, part.blob, "their bytes or their outboard do not match the token")
                }
                Err(error) if is_damage(&error) => self.bad_lanes(store, part.blob, &error.to_string()),
                Err(error) => self.failed(store, self.token, &error),
            },
        }
        None
    }

    /// The parts to read; `None` if the token is not held.
    fn begin(&self, store: &Inner) -> Option<VecDeque<Stage>> {
        let index = store.index();
        match (self.token, index.get(&self.token)?.body) {
            (AnyToken::Content(token), _) => Some([Stage::Payload(token)].into()),
            (AnyToken::Set(_), EntryBody::Set(set)) => {
                let whole = index.whole_blobs(&set.descriptor).filter(|_| !self.scrub);
                let whole = whole.map(|(token, _)| Stage::Payload(token));
                let own = layout::parts_of(&set.descriptor, set.own);
                Some(whole.chain(own.into_iter().map(|part| Stage::Lanes(Box::new(part)))).collect())
            }
            (AnyToken::Set(_), EntryBody::Payload { .. }) => None,
        }
    }

    /// Opens the next part; `None` if opening it gave its result already.
    fn open(&mut self, store: &Arc<Inner>, stage: Stage) -> Option<CheckReading> {
        match stage {
            Stage::Payload(token) => {
                let any = AnyToken::from(token);
                self.forget_cached(store, &any, [BLOB, OUTBOARD]);
                self.inode = inode(store, &any);
                let body = store.index().get(&any)?.body;
                match store.open_payload(token, body, OpenFor::Itself) {
                    Ok(Some(held)) => match self.verify(held, Ranges::all()) {
                        Ok(verify) => return Some(CheckReading::Payload(token, Box::new(verify))),
                        Err(error) => self.bad(store, &any, &error.to_string()),
                    },
                    Ok(None) => self.rehash(store, token, "its outboard is missing or has the wrong size"),
                    Err(StoreError::Io { source, .. }) => self.failed(store, any, &source),
                    Err(error) => self.failed(store, any, &io::Error::other(error)),
                }
                self.reading.take()
            }
            Stage::Lanes(part) => {
                self.forget_cached(store, &self.token, layout::lane_kinds(part.blob).into());
                match store.open(
                    part.token,
                    1,
                    &self.token,
                    layout::lane_kinds(part.blob).into(),
                    OpenFor::Itself,
                ) {
                    Ok(Some(held)) if held.length() == part.length => {
                        match self.verify(held, part.selection.clone()) {
                            Ok(verify) => return Some(CheckReading::Lanes(part, Box::new(verify))),
                            Err(error) => self.bad_lanes(store, part.blob, &error.to_string()),
                        }
                    }
                    Ok(_) => self.bad_lanes(store, part.blob, "a file is missing or has the wrong size"),
                    Err(StoreError::Io { source, .. }) if !is_damage(&source) => {
                        self.failed(store, self.token, &source);
                    }
                    Err(error) => self.bad_lanes(store, part.blob, &error.to_string()),
                }
                None
            }
        }
    }

    fn verify(&self, held: OpenPayload, selection: impl Into<Selection>) -> Result<Verify, VerifyError> {
        let verify = Verify::new(held, selection)?;
        Ok(if self.scrub { verify.past_cache() } else { verify })
    }

    /// Has the kernel forget what it has of files that the scrub is to read from the disk.
    fn forget_cached(&self, store: &Inner, token: &AnyToken, kinds: [&str; 2]) {
        if self.scrub {
            kinds.iter().filter_map(|kind| File::open(store.file(token, kind)).ok()).for_each(|file| {
                // What it does not forget is read from its memory.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            });
        }
    }

    /// Hashes the payload, to learn whether only its outboard is wrong.
    fn rehash(&mut self, store: &Arc<Inner>, token: Token, reason: &str) {
        let any = AnyToken::from(token);
        if row_of(store, &any).is_some() {
            return self.bad(store, &any, "its bytes do not match its token");
        }
        let path = store.file(&any, BLOB);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, _)) if !metadata.is_file() => self.bad(store, &any, "its file is no regular file"),
            Ok((metadata, _)) if metadata.len() > PAYLOAD_BYTES_MAX => {
                self.bad(store, &any, "its file is too long")
            }
            Ok((metadata, file)) => match Rehash::new(token, store.disk.clone(), file, metadata.len()) {
                Ok(rehash) => {
                    self.reading = Some(CheckReading::Hash(token, Box::new(rehash), reason.to_owned()))
                }
                Err(error) => self.failed(store, any, &error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.bad(store, &any, "its file is missing")
            }
            Err(error) => self.failed(store, any, &error),
        }
    }

    /// Writes a new outboard: the payload's bytes are correct.
    fn mended(&mut self, store: &Arc<Inner>, token: Token, outboard: &Outboard, reason: &str) {
        let any = AnyToken::from(token);
        let length = outboard.length();
        let one = store.change();
        let held = store.index().get(&any);
        let Some(held) = held else { return self.note(CheckResult::Gone) };
        let written = store.check_writable().and_then(|()| {
            let path = store.file(&any, OUTBOARD);
            let pairs = outboard.as_bytes().filter(|pairs| !pairs.is_empty());
            if let (EntryBody::Payload { place: PayloadPlace::Pairs(_), .. }, Some(pairs)) =
                (held.body, pairs)
            {
                return Ok(PayloadPlace::Pairs(store.index().keep_bytes(pairs.to_vec())));
            }
            if let Some(pairs) = pairs {
                let temporary = store.temporary(&token.hex()).with_added_extension(OUTBOARD);
                store.disk.replace(&path, &temporary, pairs)?;
            } else {
                store.disk.remove_if_there(&path)?;
            }
            store.disk.sync_directory(parent(&path))?;
            Ok(PayloadPlace::Files)
        });
        let place = match written {
            Ok(place) => place,
            Err(error) => {
                // The bytes are correct, but cannot be proven to peers.
                store.index().remove(&any);
                store.damage().note(any, format!("{reason}; {error}"), DamageOutcome::Left);
                return self.note(CheckResult::Damaged);
            }
        };
        {
            let mut index = store.index();
            let bytes = index.blocks.payload(length, place);
            index.insert(any, held.lease, bytes, EntryBody::Payload { length, place });
        }
        store.damage().note(
            any,
            format!("{reason}; its bytes are whole, and it has a new outboard"),
            DamageOutcome::Mended,
        );
        drop(one);
    }

    /// Sets a payload aside: its bytes do not match its token.
    fn bad(&mut self, store: &Inner, token: &AnyToken, reason: &str) {
        self.note(CheckResult::Damaged);
        let one = store.change();
        if store.index().get(token).is_none() || self.is_replaced(store, token) {
            return;
        }
        store.set_aside(&one, token, reason);
        drop(one);
        keep(store);
    }

    /// Whether another file has replaced the one that was read.
    fn is_replaced(&self, store: &Inner, token: &AnyToken) -> bool {
        inode(store, token) != self.inode
    }

    /// Drops the damaged lanes from a set's own files; its other lanes stay.
    fn bad_lanes(&mut self, store: &Inner, blob: Blob, reason: &str) {
        self.note(CheckResult::Damaged);
        let AnyToken::Set(token) = self.token else { return };
        let one = store.change();
        let Some(set) = store.index().set(&token) else { return };
        let lost = layout::lanes_of(&set.descriptor, blob).intersection(set.own);
        if lost.is_empty() {
            return;
        }
        let own = set.own.without(lost);
        let left = store.index().lanes(&set.descriptor, own);
        if left.is_empty() {
            store.set_aside(&one, &self.token, reason);
            drop(one);
            return keep(store);
        }
        let (kind, outboard_kind) = layout::lane_kinds(blob);
        let reason = format!("lanes {lost}: {reason}");
        let paths: [PathBuf; 2] = [kind, outboard_kind].map(|kind| store.file(&self.token, kind));
        store.damage().set_aside(self.token, reason, paths.iter().map(PathBuf::as_path));
        let bytes = store.set_bytes(&set.descriptor, own);
        let mut index = store.index();
        let lease = index.get(&self.token).map(|entry| entry.lease).unwrap_or_default();
        let leases = index.leases(&self.token);
        index.note_lost(&self.token, leases, lost);
        let generation = index.next_generation();
        let body = SetBody { own, generation, ..set };
        index.insert(self.token, lease, bytes, EntryBody::Set(body));
        drop(index);
        drop(one);
        keep(store);
    }

    /// Notes that the disk failed to read it.
    fn failed(&mut self, store: &Inner, token: AnyToken, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound || is_damage(error) {
            return self.bad(store, &token, &format!("cannot be read: {error}"));
        }
        self.note(CheckResult::Unreadable);
        store.damage().note(
            token,
            format!("cannot be read: {error}; look at the owner and the rights of its files"),
            DamageOutcome::Left,
        );
    }

    fn note(&mut self, found: CheckResult) {
        self.worst = match (self.worst, found) {
            (CheckResult::Damaged, _) | (_, CheckResult::Damaged) => CheckResult::Damaged,
            (CheckResult::Unreadable, _) | (_, CheckResult::Unreadable) => CheckResult::Unreadable,
            (_, found) => found,
        };
    }
}

/// Makes it durable that damage was set aside. If that fails, the next read finds the damage again.
fn keep(store: &Inner) {
    if store.read_only.is_none()
        && let Err(error) = store.commit()
    {
        tracing::warn!(%error, "it cannot be written down that damage was set aside");
    }
}

fn inode(store: &Inner, token: &AnyToken) -> Option<u64> {
    let row = row_of(store, token);
    row.or_else(|| fs::metadata(store.file(token, BLOB)).ok().map(|metadata| metadata.ino()))
}

/// The number of the row of a payload that is one.
fn row_of(store: &Inner, token: &AnyToken) -> Option<u64> {
    match store.index().get(token)?.body {
        EntryBody::Payload { place: PayloadPlace::Row(number), .. } => Some(number),
        _ => None,
    }
}

/// Whether an error means that the data on the disk is bad, and not that this process may not or cannot read it now.
fn is_damage(error: &io::Error) -> bool {
    // `ErrorKind` has no name for EIO.
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        || matches!(
            error.kind(),
            io::ErrorKind::IsADirectory | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
        )
}
