//! LIST: a request for a page of the payloads and sets that the peer keeps. LISTED answers it.

use super::{
    NODE_ID_BYTES, Record, RecordError, RecordType, finish, take_any_token, take_node_id, take_u8, varint,
};
use crate::tls::NodeId;
use crate::token::{AnyToken, TOKEN_BYTES};

/// For whom a lease is kept: `kind(8) [node_id(32)]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseHolder {
    /// All nodes without a certificate together.
    Anonymous,
    /// This node.
    Node(NodeId),
    /// No node: it passed through, and is kept as long as there is room.
    Cache,
}

impl LeaseHolder {
    const ANONYMOUS: u8 = 0;
    const NODE: u8 = 1;
    const CACHE: u8 = 2;

    pub(super) fn take(body: &mut &[u8]) -> Result<Self, RecordError> {
        match take_u8(body, "holder")? {
            Self::ANONYMOUS => Ok(Self::Anonymous),
            Self::NODE => take_node_id(body).map(Self::Node),
            Self::CACHE => Ok(Self::Cache),
            _ => Err(RecordError::Unsupported("a holder of a lease other than 0, 1 and 2 is")),
        }
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Anonymous => out.push(Self::ANONYMOUS),
            Self::Node(node) => {
                out.push(Self::NODE);
                out.extend_from_slice(&node.0);
            }
            Self::Cache => out.push(Self::CACHE),
        }
    }

    pub(super) const fn encoded_len(&self) -> usize {
        match self {
            Self::Node(_) => 1 + NODE_ID_BYTES,
            Self::Anonymous | Self::Cache => 1,
        }
    }
}

/// Whose leases a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseScope {
    /// The asker's own.
    #[default]
    Own,
    /// Those of every node.
    All,
}

impl LeaseScope {
    /// The flag of [`LeaseScope::All`].
    pub(super) const ALL: u8 = 0x01;

    pub(super) const fn of_flags(flags: u8) -> Self {
        if flags & Self::ALL == 0 { Self::Own } else { Self::All }
    }

    pub(super) const fn flag(self) -> u8 {
        match self {
            Self::Own => 0,
            Self::All => Self::ALL,
        }
    }
}

const AFTER: u8 = 0x02;
const HOLDER: u8 = 0x04;

/// LIST: `flags(8) [after(33)] [holder] length_min(i) length_max(i) ends_s(i) n(i)`. The default is the first page of the asker's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Whose leases.
    pub scope: LeaseScope,
    /// The token behind which the page begins; `None`: at the first.
    pub after: Option<AnyToken>,
    /// Only payloads and sets of which this holder has a lease; only beside [`LeaseScope::All`].
    pub holder: Option<LeaseHolder>,
    /// Only payloads of at least this length, bytes; of a set its payload's.
    pub length_min_bytes: u64,
    /// Only payloads of at most this length, bytes; 0: of any.
    pub length_max_bytes: u64,
    /// Only those whose lease ends within this time, seconds; 0: all.
    pub ends_s: u64,
    /// The most entries of the page; 0: as many as the peer gives.
    pub entries_max: u64,
}

impl Record for List {
    const TYPE: RecordType = RecordType::List;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let body = &mut body;
        let flags = take_u8(body, "flags")?;
        if flags & !(LeaseScope::ALL | AFTER | HOLDER) != 0 {
            return Err(RecordError::Unsupported("a flag of LIST other than 1, 2 and 4 is"));
        }
        let scope = LeaseScope::of_flags(flags);
        if flags & HOLDER != 0 && scope == LeaseScope::Own {
            return Err(RecordError::Malformed("a LIST of the asker's own leases names a holder"));
        }
        let after = if flags & AFTER == 0 { None } else { Some(take_any_token(body)?) };
        let holder = if flags & HOLDER == 0 { None } else { Some(LeaseHolder::take(body)?) };
        let list = Self {
            scope,
            after,
            holder,
            length_min_bytes: varint::read(body, "length_min")?,
            length_max_bytes: varint::read(body, "length_max")?,
            ends_s: varint::read(body, "ends_s")?,
            entries_max: varint::read(body, "n")?,
        };
        finish(body)?;
        Ok(list)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let after = if self.after.is_some() { AFTER } else { 0 };
        let holder = if self.holder.is_some() { HOLDER } else { 0 };
        out.push(self.scope.flag() | after | holder);
        if let Some(after) = &self.after {
            out.extend_from_slice(&after.to_bytes());
        }
        if let Some(holder) = &self.holder {
            holder.emit(out);
        }
        for number in [self.length_min_bytes, self.length_max_bytes, self.ends_s, self.entries_max] {
            varint::write(number, out);
        }
    }

    fn encoded_len(&self) -> usize {
        let numbers = [self.length_min_bytes, self.length_max_bytes, self.ends_s, self.entries_max];
        let after = if self.after.is_some() { TOKEN_BYTES } else { 0 };
        1 + after
            + self.holder.map_or(0, |holder| holder.encoded_len())
            + numbers.into_iter().map(varint::encoded_len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_page_of_ones_own_is_five_zero_bytes() {
        assert_eq!(testing::assert_round_trip(&List::default()), [0; 5]);
    }

    #[test]
    fn a_holder_without_all_is_malformed_and_unknown_flags_and_holders_are_unsupported() {
        assert_eq!(List::parse(&[4, 0, 0, 0, 0, 0]).unwrap_err().code(), ErrorCode::Malformed);
        assert_eq!(List::parse(&[8, 0, 0, 0, 0]).unwrap_err().code(), ErrorCode::UnsupportedCode);
        assert_eq!(List::parse(&[5, 3, 0, 0, 0, 0]).unwrap_err().code(), ErrorCode::UnsupportedCode);
    }

    proptest! {
        #[test]
        fn any_list_round_trips(
            after in proptest::option::of(testing::any_token()),
            holder in testing::lease_holder(),
            all in any::<bool>(),
            numbers in any::<[u32; 4]>(),
        ) {
            let [length_min_bytes, length_max_bytes, ends_s, entries_max] = numbers.map(u64::from);
            let scope = if all { LeaseScope::All } else { LeaseScope::Own };
            let holder = all.then_some(holder);
            testing::assert_round_trip(&List { scope, after, holder, length_min_bytes, length_max_bytes, ends_s, entries_max });
        }
    }
}
