//! DONE: the receiver has checked the payload and, for PUT, keeps it durably.

use super::{Record, RecordError, RecordType, finish, take_any_token, varint};
use crate::token::{AnyToken, TOKEN_BYTES};

/// DONE: `bytes(i) token(33)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Payload bytes that were checked.
    pub bytes: u64,
    /// The token that they match: the content token, or the set token of lanes.
    pub token: AnyToken,
}

impl Record for Done {
    const TYPE: RecordType = RecordType::Done;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let bytes = varint::read(&mut body, "bytes")?;
        let token = take_any_token(&mut body)?;
        finish(body)?;
        Ok(Self { bytes, token })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.bytes, out);
        out.extend_from_slice(&self.token.to_bytes());
    }

    fn encoded_len(&self) -> usize {
        varint::encoded_len(self.bytes) + TOKEN_BYTES
    }
}
