//! CONTINUATION: the bytes behind it carry on the sender's half of another stream.

use super::{Record, RecordError, RecordType, finish, varint};

/// CONTINUATION: `stream(i)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The QUIC stream whose half has ended before it was whole.
    pub stream: u64,
}

impl Record for Continuation {
    const TYPE: RecordType = RecordType::Continuation;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let stream = varint::read(&mut body, "stream")?;
        finish(body)?;
        Ok(Self { stream })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.stream, out);
    }

    fn encoded_len(&self) -> usize {
        varint::encoded_len(self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_round_trip;
    use super::*;

    #[test]
    fn the_stream_is_read_again() {
        for stream in [0, 3, 63, 64, (1 << 62) - 1] {
            assert_round_trip(&Continuation { stream });
        }
    }
}
