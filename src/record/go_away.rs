//! GOAWAY: no new requests; running ones are finished.

use super::{Record, RecordError, RecordType, finish, varint};

/// GOAWAY: `retry_ms(i)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// When this node may be back, milliseconds from now; 0: not known.
    pub retry_ms: u64,
}

impl Record for GoAway {
    const TYPE: RecordType = RecordType::GoAway;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let retry_ms = varint::read(&mut body, "retry_ms")?;
        finish(body)?;
        Ok(Self { retry_ms })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.retry_ms, out);
    }

    fn encoded_len(&self) -> usize {
        varint::encoded_len(self.retry_ms)
    }
}
