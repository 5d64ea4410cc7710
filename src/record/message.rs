//! MESSAGE: an application message. The payload is the rest of the body and is not copied.

use super::{Payload, RecordError, RecordType, take_token, take_u8, varint};
use crate::limits::{MESSAGE_BYTES_MAX, MESSAGE_HEADER_BYTES_MAX};
use crate::token::{TOKEN_BYTES, Token};

/// The front of a MESSAGE's body: `queue(i) flags(8) [content_token(33) if flags&1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    /// The application's queue, at most 2^62 - 1.
    pub queue: u64,
    /// The payload's token, if the sender gave one. The payload's reader checks it.
    pub token: Option<Token>,
}

impl MessageHeader {
    /// Flag: a content token stands before the payload.
    pub const FLAG_TOKEN: u8 = 0x01;

    /// Reads the header at the front of a body; gives it and its length in bytes. The payload is the rest of the body.
    ///
    /// # Errors
    /// The fault of the header. `prefix` needs no more than [`MESSAGE_HEADER_BYTES_MAX`] bytes of the body.
    pub fn parse(prefix: &[u8]) -> Result<(Self, usize), RecordError> {
        let mut rest = prefix;
        let queue = varint::read(&mut rest, "queue")?;
        let token = match take_u8(&mut rest, "flags")? {
            0 => None,
            Self::FLAG_TOKEN => Some(take_token(&mut rest, "content token")?),
            _ => return Err(RecordError::Unsupported("a MESSAGE flag is")),
        };
        Ok((Self { queue, token }, prefix.len() - rest.len()))
    }

    /// Takes the header off a whole MESSAGE body and leaves the payload.
    ///
    /// # Errors
    /// The fault of the header, or [`RecordError::TooLong`] if the payload is too long; `body` is then unchanged.
    pub fn take_from(body: &mut Payload) -> Result<Self, RecordError> {
        let mut front = [0; MESSAGE_HEADER_BYTES_MAX];
        let filled = body.copy_prefix(&mut front);
        let (header, header_len) = Self::parse(&front[..filled])?;
        let payload_len = (body.len() - header_len) as u64;
        if payload_len > MESSAGE_BYTES_MAX {
            return Err(RecordError::TooLong {
                record_type: RecordType::Message.number(),
                length: payload_len,
                length_max: MESSAGE_BYTES_MAX,
            });
        }
        body.advance(header_len);
        Ok(header)
    }

    /// Appends the header, without the record's own `type(i) length(i)`, to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.queue, out);
        match &self.token {
            None => out.push(0),
            Some(token) => {
                out.push(Self::FLAG_TOKEN);
                out.extend_from_slice(&token.to_bytes());
            }
        }
    }

    /// Bytes that [`MessageHeader::emit`] writes.
    pub fn encoded_len(&self) -> usize {
        varint::encoded_len(self.queue) + 1 + self.token.map_or(0, |_| TOKEN_BYTES)
    }

    /// Appends everything before a payload of `payload_len` bytes: `type(i) length(i)` and the header.
    #[inline]
    pub fn emit_record_front(&self, payload_len: usize, out: &mut Vec<u8>) {
        let body_len = (self.encoded_len() + payload_len) as u64;
        // Most messages have a length of two bytes and a queue of one: their front is appended at once.
        if let (0x40..=0x3fff, 0..=0x3f, None) = (body_len, self.queue, self.token) {
            let [high, low] = (body_len as u16 | 0x4000).to_be_bytes();
            out.extend_from_slice(&[RecordType::Message.number() as u8, high, low, self.queue as u8, 0]);
            return;
        }
        RecordType::Message.emit_header(body_len, out);
        self.emit(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_header_is_taken_across_chunks_and_the_payload_is_not_copied() {
        let header = MessageHeader { queue: 70_000, token: Some(Token::of(b"xyz")) };
        let mut front = Vec::new();
        header.emit(&mut front);
        assert_eq!(front.len(), header.encoded_len());
        for cut in 0..front.len() {
            let tail = Bytes::from([&front[cut..], b"xyz"].concat());
            let mut body = Payload::from(Bytes::copy_from_slice(&front[..cut]));
            body.push(tail.clone());
            assert_eq!(MessageHeader::take_from(&mut body), Ok(header));
            assert_eq!(body.to_bytes().as_ptr(), tail.slice(tail.len() - 3..).as_ptr());
            assert_eq!(&body.to_bytes()[..], b"xyz");
        }
    }

    #[test]
    fn the_front_of_a_record_is_its_type_its_length_and_the_header() {
        for token in [None, Some(Token::of(b"xyz"))] {
            for queue in [0, 0x3f, 0x40, 0x4000, 0x4000_0000, varint::MAX] {
                for payload_len in [0, 60, 61, 62, 16_380, 16_384, 65_536] {
                    let header = MessageHeader { queue, token };
                    let mut front = b"before".to_vec();
                    let mut expected = front.clone();
                    header.emit_record_front(payload_len, &mut front);
                    RecordType::Message
                        .emit_header((header.encoded_len() + payload_len) as u64, &mut expected);
                    header.emit(&mut expected);
                    assert_eq!(front, expected);
                }
            }
        }
    }

    #[test]
    fn a_payload_past_the_bound_is_refused_with_any_header() {
        let mut body = Payload::from(Bytes::from(vec![0; 2 + MESSAGE_BYTES_MAX as usize]));
        assert!(MessageHeader::take_from(&mut body).is_ok());
        let mut body = Payload::from(Bytes::from(vec![0; 3 + MESSAGE_BYTES_MAX as usize]));
        assert!(matches!(MessageHeader::take_from(&mut body), Err(RecordError::TooLong { .. })));
    }
}
