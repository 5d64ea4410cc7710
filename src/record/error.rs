//! ERROR: why a request failed, and the error codes (protocol §9).

use super::{Record, RecordError, RecordType, varint};
use crate::limits::REASON_BYTES_MAX;
use std::fmt;

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal $name:literal,)+) => {
        /// Every error that one side tells the other (protocol §9).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u64)]
        pub enum ErrorCode { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl ErrorCode {
            /// Every code, by number.
            pub const ALL: &'static [ErrorCode] = &[$(Self::$variant,)+];

            /// The code with this number, if there is one.
            pub const fn from_u64(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The code's name in the protocol's words.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

error_codes! {
    /// No error: a stream or connection that ends as it should.
    None = 0x00 "none",
    /// The fault is this side's own.
    Internal = 0x01 "internal",
    /// Bytes that are no record.
    Malformed = 0x02 "malformed",
    /// A bound of protocol §8 was passed.
    Limit = 0x03 "limit",
    /// An odd record type that this side does not speak.
    UnknownRecord = 0x04 "unknown record",
    /// Nobody here holds that token.
    NotFound = 0x05 "not found",
    /// Ranges outside the payload, empty or out of order.
    BadRange = 0x06 "bad range",
    /// Bytes that do not match their token.
    BadProof = 0x07 "bad proof",
    /// A descriptor that is not canonical, or whose decoded bytes miss the content token.
    BadDescriptor = 0x08 "bad descriptor",
    /// A code, algorithm or flag that this side does not implement.
    UnsupportedCode = 0x09 "unsupported code",
    /// Policy forbids it to this peer.
    NotAuthorized = 0x0a "not authorized",
    /// Not in early data: it could be replayed.
    TooEarly = 0x0b "too early",
    /// Not now; try again after `retry_ms`.
    Busy = 0x0c "busy",
    /// This side is leaving; no new requests.
    GoingAway = 0x0d "going away",
    /// No room, or none left for this peer.
    Quota = 0x0e "quota",
    /// The route visits a node twice.
    Loop = 0x10 "loop",
    /// The route is longer than allowed.
    HopLimit = 0x11 "hop limit",
    /// The cursor does not point at this node.
    NotMyHop = 0x12 "not my hop",
    /// The next node is no peer gateway.
    NoRoute = 0x13 "no route",
    /// The route's byte budget is spent.
    Budget = 0x14 "budget",
    /// A node further on failed.
    UpstreamFailed = 0x15 "upstream failed",
    /// This node will not mirror that.
    MirrorRefused = 0x16 "mirror refused",
}

impl ErrorCode {
    /// The number on the wire, also used for QUIC stream resets and connection closes.
    pub const fn number(self) -> u64 {
        self as u64
    }
}

impl From<ErrorCode> for quinn_proto::VarInt {
    fn from(code: ErrorCode) -> Self {
        Self::from_u32(code as u32)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// ERROR: `code(i) retry_ms(i) reason(UTF-8, at most 256 bytes)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRecord {
    /// What failed. A number that this version does not know is read as [`ErrorCode::Internal`].
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

    /// The reason for people, at most [`REASON_BYTES_MAX`] bytes.
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
        Ok(Self { code, retry_ms, reason: reason.to_owned() })
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
    fn numbers_and_codes_agree() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_u64(code.number()), Some(code));
        }
        assert_eq!(ErrorCode::from_u64(0x0f), None);
        assert_eq!(ErrorCode::Quota.number(), 0x0e);
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let error = ErrorRecord::new(ErrorCode::Busy, 5, "é".repeat(200));
        assert_eq!(error.reason().len(), 256);
        let error = ErrorRecord::new(ErrorCode::Busy, 5, format!("x{}", "é".repeat(200)));
        assert_eq!(error.reason().len(), 255);
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
