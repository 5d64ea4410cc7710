//! LISTED: payloads and sets that the sender keeps, with their leases: the answer to LIST, STAT, REMOVE and RENEW.

use super::list::LeaseHolder;
use super::{Coverage, Record, RecordError, RecordType, finish, take_any_token, take_u8, varint};
use crate::limits::{LISTED_LEASES_LEN_MAX, LISTED_LEN_MAX};
use crate::token::{AnyToken, TOKEN_BYTES};

const MORE: u8 = 0x01;

/// A lease: `holder expires_s(i)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLease {
    /// For whom it is kept.
    pub holder: LeaseHolder,
    /// How long it still lasts, seconds; 0: it has no end.
    pub expires_s: u64,
}

/// A payload or set that is kept: `token(33) coverage(8) [lane bitmap] length(i) stored(i) leases(i) n(i) { lease }*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its token.
    pub token: AnyToken,
    /// How much of it is kept; never [`Coverage::None`].
    pub coverage: Coverage,
    /// The length of the payload, bytes.
    pub length_bytes: u64,
    /// The disk that it takes, bytes.
    pub stored_bytes: u64,
    /// The number of its leases, as far as the asker may know of them.
    pub leases: u64,
    /// The first of them, the longest first.
    pub shown: Vec<ListedLease>,
}

/// LISTED: `flags(8) [next(33)] n(i) { entry }*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The token behind which the next page begins; `None`: there is none.
    pub next: Option<AnyToken>,
    /// In the order of their tokens, at most [`LISTED_LEN_MAX`].
    pub entries: Vec<ListedEntry>,
}

impl ListedEntry {
    fn take(body: &mut &[u8]) -> Result<Self, RecordError> {
        let token = take_any_token(body)?;
        let coverage = Coverage::take(body)?;
        coverage.check(&token)?;
        if coverage == Coverage::None {
            return Err(RecordError::Malformed("an entry of which nothing is kept"));
        }
        let length_bytes = varint::read(body, "length")?;
        let stored_bytes = varint::read(body, "stored")?;
        let leases = varint::read(body, "leases")?;
        let len = varint::read(body, "leases shown")?;
        if len > LISTED_LEASES_LEN_MAX as u64 {
            return Err(RecordError::TooMany { what: "leases", max: LISTED_LEASES_LEN_MAX as u64 });
        }
        if len > leases {
            return Err(RecordError::Malformed("an entry shows more leases than it has"));
        }
        let mut shown = Vec::new();
        for _ in 0..len {
            let holder = LeaseHolder::take(body)?;
            shown.push(ListedLease { holder, expires_s: varint::read(body, "expires_s")? });
        }
        Ok(Self { token, coverage, length_bytes, stored_bytes, leases, shown })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
        self.coverage.emit(out);
        for number in [self.length_bytes, self.stored_bytes, self.leases, self.shown.len() as u64] {
            varint::write(number, out);
        }
        for lease in &self.shown {
            lease.holder.emit(out);
            varint::write(lease.expires_s, out);
        }
    }

    /// Bytes that it takes in the record.
    pub fn encoded_len(&self) -> usize {
        let numbers = [self.length_bytes, self.stored_bytes, self.leases, self.shown.len() as u64];
        let lease = |lease: &ListedLease| lease.holder.encoded_len() + varint::encoded_len(lease.expires_s);
        TOKEN_BYTES
            + self.coverage.encoded_len()
            + numbers.into_iter().map(varint::encoded_len).sum::<usize>()
            + self.shown.iter().map(lease).sum::<usize>()
    }
}

impl Record for Listed {
    const TYPE: RecordType = RecordType::Listed;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let body = &mut body;
        let flags = take_u8(body, "flags")?;
        if flags & !MORE != 0 {
            return Err(RecordError::Unsupported("a flag of LISTED other than 1 is"));
        }
        let next = if flags & MORE == 0 { None } else { Some(take_any_token(body)?) };
        let len = varint::read(body, "n")?;
        if len > LISTED_LEN_MAX as u64 {
            return Err(RecordError::TooMany { what: "entries", max: LISTED_LEN_MAX as u64 });
        }
        let mut entries = Vec::new();
        for _ in 0..len {
            entries.push(ListedEntry::take(body)?);
        }
        finish(body)?;
        Ok(Self { next, entries })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.push(if self.next.is_some() { MORE } else { 0 });
        if let Some(next) = &self.next {
            out.extend_from_slice(&next.to_bytes());
        }
        varint::write(self.entries.len() as u64, out);
        self.entries.iter().for_each(|entry| entry.emit(out));
    }

    fn encoded_len(&self) -> usize {
        let next = if self.next.is_some() { TOKEN_BYTES } else { 0 };
        let entries = self.entries.iter().map(ListedEntry::encoded_len).sum::<usize>();
        1 + next + varint::encoded_len(self.entries.len() as u64) + entries
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use crate::token::Token;
    use proptest::prelude::*;

    fn entry(shown: usize) -> ListedEntry {
        let lease = ListedLease { holder: LeaseHolder::Anonymous, expires_s: 0 };
        ListedEntry {
            token: Token::of(b"x").into(),
            coverage: Coverage::All,
            length_bytes: 1,
            stored_bytes: 5_120,
            leases: shown as u64,
            shown: vec![lease; shown],
        }
    }

    #[test]
    fn nothing_is_two_zero_bytes() {
        assert_eq!(testing::assert_round_trip(&Listed::default()), [0, 0]);
    }

    #[test]
    fn more_than_the_bounds_more_leases_than_there_are_and_an_entry_of_nothing_are_refused() {
        testing::assert_round_trip(&Listed { next: None, entries: vec![entry(LISTED_LEASES_LEN_MAX)] });
        let refused = |entries: Vec<ListedEntry>| {
            let mut body = Vec::new();
            Listed { next: None, entries }.emit(&mut body);
            Listed::parse(&body).unwrap_err().code()
        };
        assert_eq!(refused(vec![entry(LISTED_LEASES_LEN_MAX + 1)]), ErrorCode::Limit);
        assert_eq!(refused(vec![entry(0); LISTED_LEN_MAX + 1]), ErrorCode::Limit);
        assert_eq!(refused(vec![ListedEntry { leases: 1, ..entry(2) }]), ErrorCode::Malformed);
        assert_eq!(refused(vec![ListedEntry { coverage: Coverage::None, ..entry(0) }]), ErrorCode::Malformed);
        assert_eq!(Listed::parse(&[2, 0]).unwrap_err().code(), ErrorCode::UnsupportedCode);
    }

    proptest! {
        #[test]
        fn any_listed_round_trips(
            next in proptest::option::of(testing::any_token()),
            entries in proptest::collection::vec(
                (testing::any_token(), testing::lanes(), any::<[u32; 3]>(),
                 proptest::collection::vec((testing::lease_holder(), 0..=varint::MAX), 0..3)),
                0..4,
            ),
        ) {
            let entries = entries.into_iter().map(|(token, lanes, [length, stored, more], shown)| {
                let is_whole = lanes.is_empty() || matches!(token, AnyToken::Content(_));
                let coverage = if is_whole { Coverage::All } else { Coverage::Lanes(lanes) };
                let leases = shown.len() as u64 + u64::from(more);
                let shown =
                    shown.into_iter().map(|(holder, expires_s)| ListedLease { holder, expires_s }).collect();
                ListedEntry { token, coverage, length_bytes: length.into(), stored_bytes: stored.into(), leases, shown }
            });
            testing::assert_round_trip(&Listed { next, entries: entries.collect() });
        }
    }
}
