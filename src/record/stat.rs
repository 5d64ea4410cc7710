//! STAT: a request for what the peer keeps of one payload or set. LISTED answers it.

use super::list::LeaseScope;
use super::{Record, RecordError, RecordType, finish, take_any_token, take_u8};
use crate::token::{AnyToken, TOKEN_BYTES};

/// STAT: `flags(8) token(33)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whose leases.
    pub scope: LeaseScope,
    /// The payload or set.
    pub token: AnyToken,
}

impl Record for Stat {
    const TYPE: RecordType = RecordType::Stat;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let flags = take_u8(&mut body, "flags")?;
        if flags & !LeaseScope::ALL != 0 {
            return Err(RecordError::Unsupported("a flag of STAT other than 1 is"));
        }
        let token = take_any_token(&mut body)?;
        finish(body)?;
        Ok(Self { scope: LeaseScope::of_flags(flags), token })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.scope.flag());
        out.extend_from_slice(&self.token.to_bytes());
    }

    fn encoded_len(&self) -> usize {
        1 + TOKEN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_unknown_flag_is_unsupported() {
        assert_eq!(Stat::parse(&[[2; 34]].concat()).unwrap_err().code(), ErrorCode::UnsupportedCode);
    }

    proptest! {
        #[test]
        fn any_stat_round_trips(token in testing::any_token(), all in any::<bool>()) {
            let scope = if all { LeaseScope::All } else { LeaseScope::Own };
            testing::assert_round_trip(&Stat { scope, token });
        }
    }
}
