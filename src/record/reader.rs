//! Cuts the chunks of one stream into records.

use super::payload::append_crumb;
use super::{Payload, RecordError, RecordKind, RecordType, varint};
use crate::limits::CONTROL_RECORD_BYTES_MAX;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// `type(i) length(i)`, at most.
const HEADER_BYTES_MAX: usize = 16;

/// The front of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its kind.
    pub record_type: RecordType,
    /// The length of its body, bytes; within the bound of its kind.
    pub body_len: usize,
}

/// Takes a stream's chunks as they arrive and gives each record when it is complete. Chunks are moved, never
/// copied.
///
/// Holds the chunks pushed and not yet taken; the stream's flow control window bounds them. No number from a
/// peer makes the reader allocate.
#[derive(Debug, Default)]
pub struct RecordReader {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    header: Option<RecordHeader>,
    /// Bytes left of an unknown record that is skipped.
    skip: usize,
}

impl RecordReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the stream's next chunk.
    #[inline]
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.buffered += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Takes the stream's next chunk, to be kept past the turn in which it arrived. One that is shorter than `crumb_bytes` is copied,
    /// together with those before it: it would keep its whole datagram.
    #[inline]
    pub(crate) fn push_kept(&mut self, chunk: Bytes, crumb_bytes: usize) {
        if chunk.len() >= crumb_bytes { self.push(chunk) } else { self.push_crumb(chunk) }
    }

    #[cold]
    fn push_crumb(&mut self, crumb: Bytes) {
        self.buffered += crumb.len();
        let piece = append_crumb(self.chunks.back_mut(), &crumb);
        self.chunks.extend(piece);
    }

    /// Whether the record whose header was read has not arrived whole: there is nothing to take.
    #[inline]
    pub(crate) fn lacks_body(&self) -> bool {
        self.header.is_some_and(|header| self.buffered < header.body_len)
    }

    /// Bytes pushed and not taken.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered
    }

    /// The next record's header, once it has arrived; the same one until [`RecordReader::take_body`] takes
    /// the body. Unknown even types are skipped.
    ///
    /// # Errors
    /// [`RecordError::UnknownType`] for an unknown odd type, [`RecordError::TooLong`] for a length
    /// past the bound of its kind, as soon as the header is read. The stream cannot be read further then.
    pub fn next_header(&mut self) -> Result<Option<RecordHeader>, RecordError> {
        if self.header.is_some() {
            return Ok(self.header);
        }
        loop {
            let skipped = self.skip.min(self.buffered);
            self.advance(skipped);
            self.skip -= skipped;
            if self.skip > 0 {
                return Ok(None);
            }
            let Some((number, length, header_len)) = self.peek_header() else { return Ok(None) };
            let kind = RecordType::from_u64(number);
            let length_max = match kind {
                RecordKind::Known(record_type) => record_type.body_bytes_max(),
                RecordKind::Skippable => CONTROL_RECORD_BYTES_MAX,
                RecordKind::Forbidden => return Err(RecordError::UnknownType(number)),
            };
            if length > length_max {
                return Err(RecordError::TooLong { record_type: number, length, length_max });
            }
            self.advance(header_len);
            let body_len = length as usize;
            match kind {
                RecordKind::Known(record_type) => {
                    self.header = Some(RecordHeader { record_type, body_len });
                    return Ok(self.header);
                }
                _ => self.skip = body_len,
            }
        }
    }

    /// The body of the record whose header was read, once it has arrived whole.
    pub fn take_body(&mut self) -> Option<Payload> {
        let RecordHeader { body_len, .. } = self.header?;
        if self.buffered < body_len {
            return None;
        }
        self.header = None;
        let mut body = Payload::new();
        while body.len() < body_len {
            body.push(self.take_chunk(body_len - body.len())?);
        }
        Some(body)
    }

    /// The next raw bytes of the stream, at most `bytes_max`: the verified encoding that follows PUT and OK.
    /// Bytes of a record whose header was read are left for [`RecordReader::take_body`].
    #[inline]
    pub fn take_raw(&mut self, bytes_max: usize) -> Option<Bytes> {
        if self.header.is_some() || self.skip > 0 { None } else { self.take_chunk(bytes_max) }
    }

    /// Whether the stream may end here: no bytes are left, and no record is cut short.
    pub fn is_at_record_border(&self) -> bool {
        self.header.is_none() && self.skip == 0 && self.buffered == 0
    }

    fn take_chunk(&mut self, bytes_max: usize) -> Option<Bytes> {
        let front = self.chunks.front_mut()?;
        if bytes_max == 0 {
            return None;
        }
        let chunk =
            if front.len() <= bytes_max { self.chunks.pop_front()? } else { front.split_to(bytes_max) };
        self.buffered -= chunk.len();
        Some(chunk)
    }

    /// The type, the length and the size of both, if they have arrived.
    fn peek_header(&self) -> Option<(u64, u64, usize)> {
        let front = self.chunks.front()?;
        if let Some(header) = parse_header(front) {
            return Some(header);
        }
        let mut gathered = [0; HEADER_BYTES_MAX];
        let mut filled = 0;
        for chunk in &self.chunks {
            let take = chunk.len().min(HEADER_BYTES_MAX - filled);
            gathered[filled..filled + take].copy_from_slice(&chunk[..take]);
            filled += take;
            if filled == HEADER_BYTES_MAX {
                break;
            }
        }
        parse_header(&gathered[..filled])
    }

    fn advance(&mut self, mut count: usize) {
        self.buffered -= count;
        while count > 0 {
            let Some(front) = self.chunks.front_mut() else { return };
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
    }
}

fn parse_header(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (number, number_len) = varint::peek(bytes)?;
    let (length, length_len) = varint::peek(&bytes[number_len..])?;
    Some((number, length, number_len + length_len))
}

#[cfg(test)]
mod tests {
    use super::super::{GoAway, Record};
    use super::*;
    use proptest::prelude::*;

    fn go_away(retry_ms: u64) -> Vec<u8> {
        let mut out = Vec::new();
        GoAway { retry_ms }.emit_record(&mut out);
        out
    }

    #[test]
    fn records_are_found_however_the_stream_is_cut() {
        // GOAWAY, an unknown even record of 3 bytes, GOAWAY, then raw bytes.
        let stream = [go_away(5), vec![0x40, 0x22, 0x03, 1, 2, 3], go_away(70_000), b"raw".to_vec()].concat();
        for cut_len in 1..=stream.len() {
            let mut reader = RecordReader::new();
            let mut found = Vec::new();
            let mut raw = Vec::new();
            for chunk in stream.chunks(cut_len) {
                reader.push(Bytes::copy_from_slice(chunk));
                while found.len() < 2
                    && let Some(header) = reader.next_header().unwrap()
                {
                    assert_eq!(header.record_type, RecordType::GoAway);
                    assert_eq!(reader.take_raw(1), None);
                    let Some(body) = reader.take_body() else { break };
                    assert_eq!(body.len(), header.body_len);
                    found.push(GoAway::parse(&body.to_bytes()).unwrap().retry_ms);
                }
                while found.len() == 2
                    && let Some(chunk) = reader.take_raw(2)
                {
                    raw.extend_from_slice(&chunk);
                }
            }
            assert_eq!((found, &raw[..]), (vec![5, 70_000], &b"raw"[..]));
            assert!(reader.is_at_record_border());
        }
    }

    #[test]
    fn lengths_are_checked_before_the_body_comes() {
        let header = |bytes: &[u8]| {
            let mut reader = RecordReader::new();
            reader.push(Bytes::copy_from_slice(bytes));
            reader.next_header()
        };
        let longest = [0xff; 8];
        assert!(matches!(header(&[&[0x05][..], &longest].concat()), Err(RecordError::TooLong { .. })));
        assert!(matches!(header(&[&[0x22][..], &longest].concat()), Err(RecordError::TooLong { .. })));
        assert_eq!(header(&[0x21, 0x00]), Err(RecordError::UnknownType(0x21)));
        // 64 KiB of a control record, and one byte more.
        assert!(header(&[0x05, 0x80, 0x01, 0x00, 0x00]).is_ok());
        assert!(header(&[0x05, 0x80, 0x01, 0x00, 0x01]).is_err());
        // A message of 64 KiB has its header in addition.
        assert!(header(&[0x07, 0x80, 0x01, 0x00, 0x2a]).is_ok());
        assert!(header(&[0x07, 0x80, 0x01, 0x00, 0x2b]).is_err());
    }

    #[test]
    fn bodies_are_slices_of_the_received_bytes() {
        let chunk = Bytes::from([vec![0x07, 0x04], b"\x00\x00hi".to_vec()].concat());
        let mut reader = RecordReader::new();
        reader.push(chunk.clone());
        reader.next_header().unwrap();
        assert_eq!(reader.take_body().unwrap().to_bytes().as_ptr(), chunk.slice(2..).as_ptr());
    }

    proptest! {
        #[test]
        fn random_streams_never_panic(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut reader = RecordReader::new();
            for chunk in chunks {
                reader.push(chunk.into());
                while let Ok(Some(_)) = reader.next_header() {
                    if reader.take_body().is_none() { break }
                }
            }
        }
    }
}
