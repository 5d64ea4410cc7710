//! RENEW: the asker wants its lease of a payload or set to last longer. LISTED answers it.

use super::{Record, RecordError, RecordType, finish, take_any_token, varint};
use crate::token::{AnyToken, TOKEN_BYTES};

/// RENEW: `token(33) lease_s(i)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renew {
    /// The payload or set.
    pub token: AnyToken,
    /// The lease from now on, seconds; 0 leaves it to the holder.
    pub lease_s: u64,
}

impl Record for Renew {
    const TYPE: RecordType = RecordType::Renew;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let token = take_any_token(&mut body)?;
        let lease_s = varint::read(&mut body, "lease_s")?;
        finish(body)?;
        Ok(Self { token, lease_s })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
        varint::write(self.lease_s, out);
    }

    fn encoded_len(&self) -> usize {
        TOKEN_BYTES + varint::encoded_len(self.lease_s)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_renew_round_trips(token in testing::any_token(), lease_s in 0..=varint::MAX) {
            testing::assert_round_trip(&Renew { token, lease_s });
        }
    }
}
