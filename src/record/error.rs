//! ERROR: why a request failed.

use super::{ErrorCode, Record, RecordError, RecordType, varint};
use crate::limits::REASON_BYTES_MAX;
use crate::peer_text::PeerText;

/// ERROR: `code(i) retry_ms(i) reason(UTF-8, at most 256 bytes)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRecord {
    /// The error. A number that this version does not know is read as [`ErrorCode::Internal`].
    pub code: ErrorCode,
    /// When to try again, milliseconds from now; 0: do not.
    pub retry_ms: u64,
    reason: String,
}

impl ErrorRecord {
    /// An error to send. A reason past [`REASON_BYTES_MAX`] bytes is cut at a character's border.
    pub fn new(code: ErrorCode, retry_ms: u64, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        Self { code, retry_ms, reason }
    }

    /// The reason for people, at most [`REASON_BYTES_MAX`] bytes. That of a record that was read is a [`PeerText`].
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Record for ErrorRecord {
    const TYPE: RecordType = RecordType::Error;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let code = varint::read(&mut body, "error code")?;
        let retry_ms = varint::read(&mut body, "retry_ms")?;
        if body.len() > REASON_BYTES_MAX {
            return Err(RecordError::TooMany { what: "bytes of reason", max: REASON_BYTES_MAX as u64 });
        }
        let reason = std::str::from_utf8(body).map_err(|_| RecordError::ReasonNotUtf8)?;
        let code = ErrorCode::from_u64(code).unwrap_or(ErrorCode::Internal);
        Ok(Self { code, retry_ms, reason: PeerText::cut(reason, REASON_BYTES_MAX).into_string() })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.code.number(), out);
        varint::write(self.retry_ms, out);
        out.extend_from_slice(self.reason.as_bytes());
    }

    fn encoded_len(&self) -> usize {
        varint::encoded_len(self.code.number()) + varint::encoded_len(self.retry_ms) + self.reason.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let error = ErrorRecord::new(ErrorCode::Busy, 5, "é".repeat(200));
        assert_eq!(error.reason().len(), 256);
        let error = ErrorRecord::new(ErrorCode::Busy, 5, format!("x{}", "é".repeat(200)));
        assert_eq!(error.reason().len(), 255);
    }

    #[test]
    fn a_reason_that_acts_on_a_terminal_is_read_as_one_that_does_not() {
        let mut body = vec![1, 0];
        body.extend("\u{1b}]0;x\u{7}\nb3:".as_bytes());
        assert_eq!(ErrorRecord::parse(&body).unwrap().reason(), "\\u{1b}]0;x\\u{7}\\u{a}b3:");
        body.resize(2 + 256, 7);
        assert!(ErrorRecord::parse(&body).unwrap().reason().len() <= REASON_BYTES_MAX);
    }

    #[test]
    fn an_unknown_code_reads_as_internal() {
        let error = ErrorRecord::parse(&[0x3f, 0x00, b'?']).unwrap();
        assert_eq!((error.code, error.reason()), (ErrorCode::Internal, "?"));
    }

    #[test]
    fn a_reason_past_its_bound_or_not_utf8_is_refused() {
        let mut body = vec![1, 0];
        body.resize(2 + 257, b'a');
        assert_eq!(ErrorRecord::parse(&body).unwrap_err().code(), ErrorCode::Limit);
        assert_eq!(ErrorRecord::parse(&[1, 0, 0xff]), Err(RecordError::ReasonNotUtf8));
    }
}
