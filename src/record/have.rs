//! HAVE: a holding of the sender, or its end. On CONTROL.

use super::{
    Record, RecordError, RecordType, finish, lanes_need_a_set, take_any_token, take_some_lanes, take_u8,
    varint,
};
use crate::shard::Lanes;
use crate::token::{AnyToken, TOKEN_BYTES};

/// How much of a payload or set a node holds: `coverage(8) [lane bitmap]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Nothing: HAVE withdraws an earlier one.
    None,
    /// The whole payload; of a set, every lane.
    All,
    /// These lanes of a set. Never empty on the wire.
    Lanes(Lanes),
}

impl Coverage {
    const NONE: u8 = 0;
    const ALL: u8 = 1;
    const LANES: u8 = 2;

    pub(super) fn take(body: &mut &[u8]) -> Result<Self, RecordError> {
        match take_u8(body, "coverage")? {
            Self::NONE => Ok(Self::None),
            Self::ALL => Ok(Self::All),
            Self::LANES => take_some_lanes(body).map(Self::Lanes),
            _ => Err(RecordError::Unsupported("a coverage other than 0, 1 and 2 is")),
        }
    }

    /// Checks that it may be of this token: only a set has lanes. HOLDERS names no token, so that the request which it answers tells it.
    pub(crate) fn check(&self, token: &AnyToken) -> Result<(), RecordError> {
        match self {
            Self::Lanes(_) => lanes_need_a_set(token),
            Self::None | Self::All => Ok(()),
        }
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => out.push(Self::NONE),
            Self::All => out.push(Self::ALL),
            Self::Lanes(lanes) => {
                out.push(Self::LANES);
                lanes.emit(out);
            }
        }
    }

    pub(super) fn encoded_len(&self) -> usize {
        match self {
            Self::None | Self::All => 1,
            Self::Lanes(lanes) => 1 + lanes.encoded_len(),
        }
    }
}

/// HAVE: `token(33) coverage(8) [lane bitmap] lease_s(i)`.
///
/// A content token is announced beside a set token: a node that knows only the set token cannot tell which
/// payload it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Have {
    /// The payload or set held.
    pub token: AnyToken,
    /// How much of it; lanes only of a set.
    pub coverage: Coverage,
    /// How long it will be held, seconds from now; 0: no end is set.
    pub lease_s: u64,
}

impl Record for Have {
    const TYPE: RecordType = RecordType::Have;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let token = take_any_token(&mut body)?;
        let coverage = Coverage::take(&mut body)?;
        coverage.check(&token)?;
        let lease_s = varint::read(&mut body, "lease_s")?;
        finish(body)?;
        Ok(Self { token, coverage, lease_s })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
        self.coverage.emit(out);
        varint::write(self.lease_s, out);
    }

    fn encoded_len(&self) -> usize {
        TOKEN_BYTES + self.coverage.encoded_len() + varint::encoded_len(self.lease_s)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use crate::token::{SetToken, Token};
    use proptest::prelude::*;

    fn refused(token: AnyToken, rest: &[u8]) -> ErrorCode {
        Have::parse(&[&token.to_bytes()[..], rest].concat()).unwrap_err().code()
    }

    #[test]
    fn lanes_are_written_after_the_coverage() {
        let token = SetToken::from_hash([7; 32]).into();
        let coverage = Coverage::Lanes([0, 9].into_iter().collect());
        let body = testing::assert_round_trip(&Have { token, coverage, lease_s: 60 });
        assert_eq!(body[..2], [0x02, 7]);
        assert_eq!(body[33..], [2, 2, 0x01, 0x02, 60]);
    }

    #[test]
    fn lanes_must_be_some_and_of_a_set() {
        let (set, content) = (SetToken::from_hash([7; 32]).into(), Token::of(b"").into());
        assert_eq!(refused(set, &[2, 0, 0]), ErrorCode::Malformed);
        assert_eq!(refused(set, &[2, 2, 1, 0, 0]), ErrorCode::Malformed);
        assert_eq!(refused(content, &[2, 1, 1, 0]), ErrorCode::Malformed);
        assert_eq!(refused(set, &[3, 0]), ErrorCode::UnsupportedCode);
    }

    proptest! {
        #[test]
        fn any_have_round_trips(token in testing::any_token(), lanes in testing::lanes(), lease_s in 0..=varint::MAX) {
            let coverages = match (&token, lanes.is_empty()) {
                (AnyToken::Set(_), false) => vec![Coverage::None, Coverage::All, Coverage::Lanes(lanes)],
                _ => vec![Coverage::None, Coverage::All],
            };
            for coverage in coverages {
                testing::assert_round_trip(&Have { token, coverage, lease_s });
            }
        }
    }
}
