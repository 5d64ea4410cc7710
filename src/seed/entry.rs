//! The rows of a store's holdings: keys and values.

use super::accounts::{Need, StoreAccount};
use super::lease::Lease;
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken, TOKEN_BYTES, Token};

/// An entry's kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryBody {
    /// A whole payload.
    Payload { length: u64, place: PayloadPlace },
    /// Lanes of a set.
    Set(SetBody),
}

/// Where a payload is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadPlace {
    /// In files of its own: its bytes, and its hash pairs if it has any.
    Files,
    /// In a file, and its hash pairs in the row of the database with this number.
    Pairs(u64),
    /// In the row of the database with this number. It has no hash pairs.
    Row(u64),
}

/// The part of an entry that only sets have.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetBody {
    pub(super) descriptor: Descriptor,
    /// Lanes in the set's own files. The set also holds the lanes of those of its blobs that are held whole.
    pub(super) own: Lanes,
    /// A number that changes each time the files change, never 0.
    pub(super) generation: u64,
}

/// A payload or set that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexEntry {
    /// The longest of its leases.
    pub(super) lease: Lease,
    /// The number of its other leases, which have rows of their own.
    pub(super) others: u32,
    /// Its share of the capacity, bytes.
    pub(super) bytes: u64,
    pub(super) used: u64,
    pub(super) body: EntryBody,
}

const PAYLOAD: u8 = 0;
const SET: u8 = 1;
const ROW: u8 = 2;
const PAIRS: u8 = 3;
const ANONYMOUS: u8 = 1;
const NODE: u8 = 2;
const CACHE: u8 = 3;

/// Takes bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_be_bytes)
}

/// An account in keys.
pub(super) fn account_key(account: &StoreAccount) -> Vec<u8> {
    match account {
        StoreAccount::Anonymous => vec![ANONYMOUS],
        StoreAccount::Node(node) => [&[NODE], &node.0[..]].concat(),
        StoreAccount::Cache => vec![CACHE],
    }
}

/// The account of such a key.
pub(super) fn account(bytes: &[u8]) -> Option<StoreAccount> {
    match bytes {
        [ANONYMOUS] => Some(StoreAccount::Anonymous),
        [CACHE] => Some(StoreAccount::Cache),
        [NODE, node @ ..] => Some(StoreAccount::Node(NodeId(node.try_into().ok()?))),
        _ => None,
    }
}

/// The key of a lease in the order of accounts.
pub(super) fn owner_key(account: &StoreAccount, token: &AnyToken) -> Vec<u8> {
    [&account_key(account), &token.to_bytes()[..]].concat()
}

/// The token of such a key; `None` if it is of another account.
pub(super) fn parse_owned(account: &StoreAccount, key: &[u8]) -> Option<AnyToken> {
    AnyToken::from_slice(key.strip_prefix(&account_key(account)[..])?).ok()
}

/// What is kept for an account: the value of its row.
pub(super) fn emit_need(need: Need) -> Vec<u8> {
    [need.bytes.to_be_bytes(), need.entries.to_be_bytes()].concat()
}

pub(super) fn parse_need(mut bytes: &[u8]) -> Option<Need> {
    Some(Need { bytes: take_u64(&mut bytes)?, entries: take_u64(&mut bytes)?, writes: 0 })
}

/// The key of a lease that is not the longest one of its entry.
pub(super) fn lease_key(token: &AnyToken, account: &StoreAccount) -> Vec<u8> {
    [&token.to_bytes()[..], &account_key(account)].concat()
}

/// The value of a lease's row: all but its account.
pub(super) fn emit_lease(lease: &Lease, out: &mut Vec<u8>) {
    out.extend_from_slice(&lease.clock.to_be_bytes());
    out.push(u8::from(lease.expires_s.is_some()));
    out.extend_from_slice(&lease.expires_s.unwrap_or_default().to_be_bytes());
}

fn take_lease(bytes: &mut &[u8], account: StoreAccount) -> Option<Lease> {
    let clock = take(bytes).map(u32::from_be_bytes)?;
    let [ends] = take(bytes)?;
    let expires_s = take_u64(bytes)?;
    let owner = match account {
        StoreAccount::Node(owner) => Some(owner),
        StoreAccount::Anonymous | StoreAccount::Cache => None,
    };
    let cached = account == StoreAccount::Cache;
    Some(Lease { expires_s: (ends == 1).then_some(expires_s), owner, cached, clock })
}

/// Takes a lease behind its account, whose length is before it.
pub(super) fn take_owned_lease(bytes: &mut &[u8]) -> Option<Lease> {
    let [len] = take(bytes)?;
    let (of, rest) = bytes.split_at_checked(len.into())?;
    *bytes = rest;
    take_lease(bytes, account(of)?)
}

/// The lease of a row behind the entry of `token`; `None` if the row is of another entry.
pub(super) fn parse_lease(token: &AnyToken, (key, value): &(Vec<u8>, Vec<u8>)) -> Option<Lease> {
    let account = account(key.strip_prefix(&token.to_bytes()[..])?)?;
    take_lease(&mut value.as_slice(), account)
}

/// The key of a lease that ends: `expires_s` is by the clock of its epoch.
pub(super) fn end_key(epoch: u32, expires_s: u64, token: &AnyToken, account: &StoreAccount) -> Vec<u8> {
    [&epoch.to_be_bytes()[..], &expires_s.to_be_bytes(), &token.to_bytes(), &account_key(account)].concat()
}

/// The epoch, the end, the token and the account of such a key.
pub(super) fn parse_end(mut key: &[u8]) -> Option<(u32, u64, AnyToken, StoreAccount)> {
    let epoch = take(&mut key).map(u32::from_be_bytes)?;
    let end_s = take_u64(&mut key)?;
    let token: [u8; TOKEN_BYTES] = take(&mut key)?;
    Some((epoch, end_s, AnyToken::from_slice(&token).ok()?, account(key)?))
}

/// The key of an entry in the order of their use.
pub(super) fn age_key(cached: bool, used: u64) -> Vec<u8> {
    [&[u8::from(cached)], &used.to_be_bytes()[..]].concat()
}

/// When the entry of such a key was used; `None` for one of the other kind.
pub(super) fn parse_age(key: &[u8], cached: bool) -> Option<u64> {
    let mut used = key.strip_prefix(&[u8::from(cached)])?;
    take_u64(&mut used)
}

/// The key of a set and one of its blobs.
pub(super) fn blob_key(blob: &Token, set: &SetToken) -> Vec<u8> {
    [&blob.root()[..], &set.to_bytes()].concat()
}

/// The set of such a key; `None` if it is of another blob.
pub(super) fn parse_blob(blob: &Token, key: &[u8]) -> Option<SetToken> {
    match AnyToken::from_slice(key.strip_prefix(&blob.root()[..])?) {
        Ok(AnyToken::Set(set)) => Some(set),
        _ => None,
    }
}

impl IndexEntry {
    /// The value of its row.
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let account = account_key(&StoreAccount::of(&self.lease));
        out.push(account.len() as u8);
        out.extend_from_slice(&account);
        emit_lease(&self.lease, &mut out);
        out.extend_from_slice(&self.others.to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&self.used.to_be_bytes());
        match &self.body {
            EntryBody::Payload { length, place } => {
                match place {
                    PayloadPlace::Files => out.push(PAYLOAD),
                    PayloadPlace::Pairs(number) => {
                        out.push(PAIRS);
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                    PayloadPlace::Row(number) => {
                        out.push(ROW);
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                }
                out.extend_from_slice(&length.to_be_bytes());
            }
            EntryBody::Set(set) => {
                out.push(SET);
                out.extend_from_slice(&set.generation.to_be_bytes());
                set.own.emit(&mut out);
                set.descriptor.emit(&mut out);
            }
        }
        out
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let lease = take_owned_lease(bytes)?;
        let others = take(bytes).map(u32::from_be_bytes)?;
        let (share, used) = (take_u64(bytes)?, take_u64(bytes)?);
        let body = match take(bytes)? {
            [PAYLOAD] => EntryBody::Payload { length: take_u64(bytes)?, place: PayloadPlace::Files },
            [kind @ (ROW | PAIRS)] => {
                let number = take_u64(bytes)?;
                let place = if kind == ROW { PayloadPlace::Row(number) } else { PayloadPlace::Pairs(number) };
                EntryBody::Payload { length: take_u64(bytes)?, place }
            }
            [SET] => {
                let generation = take_u64(bytes)?;
                let own = Lanes::take(bytes)?;
                let descriptor = Descriptor::parse(bytes).ok()?;
                EntryBody::Set(SetBody { descriptor, own, generation })
            }
            _ => return None,
        };
        Some(Self { lease, others, bytes: share, used, body })
    }
}

/// The sums over all holdings: one row, written with each commit that changes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Payloads and sets.
    pub(super) entries: u64,
    /// Leases, of all accounts.
    pub(super) leases: u64,
    /// Those of them that end.
    pub(super) ends: u64,
    /// Cached entries, and their bytes.
    pub(super) cached: u64,
    pub(super) cached_bytes: u64,
    /// Bytes of all entries.
    pub(super) bytes: u64,
    /// The last number that was given to a use or to a set's files.
    pub(super) stamp: u64,
}

impl Sums {
    pub(super) fn emit(&self) -> Vec<u8> {
        let Self { entries, leases, ends, cached, cached_bytes, bytes, stamp } = *self;
        [entries, leases, ends, cached, cached_bytes, bytes, stamp].map(u64::to_be_bytes).concat()
    }

    pub(super) fn parse(mut row: &[u8]) -> Option<Self> {
        let row = &mut row;
        Some(Self {
            entries: take_u64(row)?,
            leases: take_u64(row)?,
            ends: take_u64(row)?,
            cached: take_u64(row)?,
            cached_bytes: take_u64(row)?,
            bytes: take_u64(row)?,
            stamp: take_u64(row)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Coding;

    #[test]
    fn rows_are_read_back_as_they_were_written_and_what_is_cut_is_none() {
        let node = NodeId([7; 32]);
        let coding = Coding::ReedSolomon { data_lanes: 4, parity: Some((2, Token::of(b"parity"))) };
        let descriptor = Descriptor::new(Token::of(b"content"), 100_000, 16_384, coding).unwrap();
        let set = SetBody { descriptor, own: Lanes::one(3), generation: 9 };
        let token = AnyToken::from(Token::of(b"content"));
        for lease in [
            Lease::default(),
            Lease::until(Some(u64::MAX), Some(node)).in_epoch(3),
            Lease::until(None, Some(node)),
            Lease::cached(Some(0)),
        ] {
            let payload = |place| EntryBody::Payload { length: 100_000, place };
            let places = [PayloadPlace::Files, PayloadPlace::Pairs(8), PayloadPlace::Row(7)];
            for body in places.map(payload).into_iter().chain([EntryBody::Set(set)]) {
                let row = IndexEntry { lease, others: 2, bytes: 5, used: 6, body }.emit();
                let read = IndexEntry::parse(&row).unwrap();
                assert_eq!((read.lease, read.others, read.bytes, read.used), (lease, 2, 5, 6));
                assert_eq!(read.emit(), row);
                (0..row.len()).for_each(|len| assert!(IndexEntry::parse(&row[..len]).is_none(), "{len}"));
            }
            let account = StoreAccount::of(&lease);
            let mut value = Vec::new();
            emit_lease(&lease, &mut value);
            assert_eq!(parse_lease(&token, &(lease_key(&token, &account), value)), Some(lease));
            assert_eq!(parse_owned(&account, &owner_key(&account, &token)), Some(token));
            assert_eq!(parse_owned(&StoreAccount::Node(NodeId([8; 32])), &owner_key(&account, &token)), None);
            assert_eq!(parse_end(&end_key(3, 8, &token, &account)), Some((3, 8, token, account)));
        }
        let set = descriptor.set_token();
        assert_eq!(parse_blob(&descriptor.content(), &blob_key(&descriptor.content(), &set)), Some(set));
        assert_eq!(parse_blob(&Token::of(b""), &blob_key(&descriptor.content(), &set)), None);
        assert_eq!(
            (parse_age(&age_key(true, 5), true), parse_age(&age_key(true, 5), false)),
            (Some(5), None)
        );
        let sums = Sums { entries: 1, leases: 2, ends: 3, cached: 4, cached_bytes: 5, bytes: 6, stamp: 7 };
        assert_eq!(Sums::parse(&sums.emit()), Some(sums));
        let need = Need { bytes: 1, entries: 2, writes: 0 };
        assert_eq!(parse_need(&emit_need(need)), Some(need));
    }
}
