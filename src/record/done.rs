//! DONE: the receiver has checked and, for PUT, durably kept what was sent.

use super::{Record, RecordError, RecordType, finish, take_token, varint};
use crate::token::{TOKEN_BYTES, Token};

/// DONE: `bytes(i) token(33)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Payload bytes that were checked.
    pub bytes: u64,
    /// The token they were checked against.
    pub token: Token,
}

impl Record for Done {
    const TYPE: RecordType = RecordType::Done;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let bytes = varint::read(&mut body, "bytes")?;
        let token = take_token(&mut body, "token")?;
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
