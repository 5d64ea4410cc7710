//! LOCATE: a request for the holders of a payload or set. HOLDERS answers it.

use super::{Record, RecordError, RecordType, finish, take_any_token};
use crate::token::{AnyToken, TOKEN_BYTES};

/// LOCATE: `token(33)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locate {
    /// The payload or set.
    pub token: AnyToken,
}

impl Record for Locate {
    const TYPE: RecordType = RecordType::Locate;

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
    use super::super::{ErrorCode, testing};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn another_algorithm_is_unsupported() {
        assert_eq!(Locate::parse(&[3; 33]).unwrap_err().code(), ErrorCode::UnsupportedCode);
    }

    proptest! {
        #[test]
        fn any_locate_round_trips(token in testing::any_token()) {
            testing::assert_round_trip(&Locate { token });
        }
    }
}
