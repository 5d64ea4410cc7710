//! Looks up what a FETCH asks for.

use super::open_files::OpenFor;
use super::{OpenPayload, OpenSet, Store, StoreError};
use crate::limits::EARLY_FETCH_BYTES_MAX;
use crate::record::{ErrorCode, ErrorRecord, Fetch, OkRecord};
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{AnyToken, Ranges, VerifiedEncoder};
use std::collections::VecDeque;

/// A FETCH to be looked up in a store.
pub(super) struct Lookup<'a> {
    pub(super) fetch: &'a Fetch,
    /// Whether it arrived in early data.
    pub(super) early: bool,
}

/// The answer to a FETCH: its OK record, and the encoders of its bytes.
pub(super) struct PreparedAnswer {
    pub(super) ok: OkRecord,
    pub(super) parts: VecDeque<(OpenPayload, VerifiedEncoder)>,
}

/// Why a FETCH is refused.
pub(super) enum Refusal {
    Failure(ErrorRecord),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn refuse<T>(code: ErrorCode, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Failure(ErrorRecord::new(code, 0, reason)))
}

fn not_kept<T>(store: &Store, token: AnyToken) -> Result<T, Refusal> {
    if store.is_lost(token) {
        let reason = format!(
            "{token} was damaged on the disk here and is set aside; put it again, or ask another holder"
        );
        return refuse(ErrorCode::NotFound, reason);
    }
    refuse(ErrorCode::NotFound, format!("{token} is not kept here"))
}

impl Lookup<'_> {
    /// Looks up the payload or lanes.
    pub(super) fn find(&self, store: &Store) -> Result<PreparedAnswer, Refusal> {
        match self.fetch.token {
            AnyToken::Content(token) => match store.get(&token)? {
                Some(held) => self.of_payload(held, None),
                None => not_kept(store, token.into()),
            },
            AnyToken::Set(token) => match store.get_set(&token)? {
                Some(set) => self.of_set(set),
                None => not_kept(store, token.into()),
            },
        }
    }

    /// The same, if no disk need be waited for; `None` if it must, or if what it finds is not as it should be. Rows of the database count as
    /// memory, as they do for LOCATE.
    pub(super) fn find_now(&self, store: &Store) -> Option<Result<PreparedAnswer, Refusal>> {
        let (inner, by) = (&store.inner, OpenFor::TableNow(&store.inner.files));
        let found = match self.fetch.token {
            AnyToken::Content(token) => {
                inner.get_by(&token, by).map(|held| held.map(|held| self.of_payload(held, None)))
            }
            AnyToken::Set(token) => inner.get_set_by(&token, by).map(|set| set.map(|set| self.of_set(set))),
        };
        match found.ok()? {
            None if store.holding(&self.fetch.token).is_none() => Some(not_kept(store, self.fetch.token)),
            found => found,
        }
    }

    fn of_set(&self, set: OpenSet) -> Result<PreparedAnswer, Refusal> {
        let descriptor = set.descriptor;
        let ok = OkRecord { length_bytes: descriptor.length_bytes(), descriptor: Some(descriptor) };
        if self.fetch.describe {
            return Ok(PreparedAnswer { ok, parts: VecDeque::new() });
        }
        let wanted = self.fetch.lanes.unwrap_or_else(|| Lanes::first(descriptor.k().into()));
        if !descriptor.lanes().contains_all(wanted) {
            return refuse(ErrorCode::BadRange, format!("the set has the lanes {}", descriptor.lanes()));
        }
        if !set.lanes.contains_all(wanted) {
            let reason =
                format!("of the lanes {wanted} only {} are kept here", set.lanes.intersection(wanted));
            return refuse(ErrorCode::NotFound, reason);
        }
        if self.fetch.lanes.is_none() {
            return match set.content {
                Some(content) => self.of_payload(content, Some(descriptor)),
                // A set whose payload is empty.
                None => self.of_parts(&set, ok, wanted),
            };
        }
        self.of_parts(&set, ok, wanted)
    }

    fn of_parts(&self, set: &OpenSet, ok: OkRecord, lanes: Lanes) -> Result<PreparedAnswer, Refusal> {
        let stripes = if self.fetch.lanes.is_some() { self.fetch.ranges.clone() } else { Ranges::all() };
        let parts = match set.descriptor.parts(lanes, &stripes) {
            Ok(parts) => parts,
            Err(error) => return refuse(ErrorCode::BadRange, error.to_string()),
        };
        self.check_bytes(parts.iter().map(|part| part.bytes).sum())?;
        let mut encoders = VecDeque::new();
        for part in parts {
            let Some(held) = set.blob(part.blob) else {
                return refuse(
                    ErrorCode::NotFound,
                    match part.blob {
                        Blob::Content => "no data lane is kept here",
                        Blob::Parity => "no parity lane is kept here",
                    },
                );
            };
            match VerifiedEncoder::new(held.outboard().clone(), part.selection) {
                Ok(encoder) => encoders.push_back((held.clone(), encoder.without_reads())),
                Err(error) => return refuse(ErrorCode::BadRange, error.to_string()),
            }
        }
        Ok(PreparedAnswer { ok, parts: encoders })
    }

    fn of_payload(
        &self,
        held: OpenPayload,
        descriptor: Option<Descriptor>,
    ) -> Result<PreparedAnswer, Refusal> {
        let length = held.length();
        let ok = OkRecord { length_bytes: length, descriptor };
        if self.fetch.describe {
            return Ok(PreparedAnswer { ok, parts: VecDeque::new() });
        }
        let selected = self.fetch.ranges.selected_bytes(length);
        let encoder = selected.and_then(|selected| {
            VerifiedEncoder::new(held.outboard().clone(), self.fetch.ranges.clone())
                .map(|encoder| (selected, encoder.without_reads()))
        });
        match encoder {
            Ok((selected, encoder)) => {
                self.check_bytes(selected)?;
                Ok(PreparedAnswer { ok, parts: [(held, encoder)].into() })
            }
            Err(error) => refuse(ErrorCode::BadRange, error.to_string()),
        }
    }

    fn check_bytes(&self, selected: u64) -> Result<(), Refusal> {
        if self.fetch.bytes_max > 0 && selected > self.fetch.bytes_max {
            let reason = format!(
                "the answer has {selected} payload bytes, more than the {} that the request allows",
                self.fetch.bytes_max
            );
            return refuse(ErrorCode::Limit, reason);
        }
        // Protocol §7: a replayed request must not cost much.
        if self.early && selected > EARLY_FETCH_BYTES_MAX {
            let reason = format!(
                "early data may ask for at most {EARLY_FETCH_BYTES_MAX} bytes; ask again after the handshake"
            );
            return refuse(ErrorCode::TooEarly, reason);
        }
        Ok(())
    }
}
