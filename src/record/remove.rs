//! REMOVE: the asker gives up its lease of a payload or set. LISTED answers it.

use super::{Record, RecordError, RecordType, finish, take_any_token};
use crate::token::{AnyToken, TOKEN_BYTES};

/// REMOVE: `token(33)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remove {
    /// The payload or set.
    pub token: AnyToken,
}

impl Record for Remove {
    const TYPE: RecordType = RecordType::Remove;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let token = take_any_token(&mut body)?;
        finish(body)?;
        Ok(Self { token })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
    }

    fn encoded_len(&self) -> usize {
        TOKEN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_remove_round_trips(token in testing::any_token()) {
            testing::assert_round_trip(&Remove { token });
        }
    }
}
