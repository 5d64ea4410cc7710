//! The error codes (protocol §9): the codes of ERROR records, stream resets and connection closes.

use std::fmt;

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal $name:literal,)+) => {
        /// The errors that one side reports to the other (protocol §9).
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
    /// No application of this node holds the token's payload or set.
    NotFound = 0x05 "not found",
    /// Ranges outside the payload, empty or out of order.
    BadRange = 0x06 "bad range",
    /// Bytes that do not match their token.
    BadProof = 0x07 "bad proof",
    /// A descriptor that is not canonical, or whose decoded bytes miss the content token.
    BadDescriptor = 0x08 "bad descriptor",
    /// A code, algorithm or flag that this side does not implement.
    UnsupportedCode = 0x09 "unsupported code",
    /// This node's policy forbids the request to this peer.
    NotAuthorized = 0x0a "not authorized",
    /// The request is not allowed in early data, which may be replayed.
    TooEarly = 0x0b "too early",
    /// The request cannot be served now; try again after `retry_ms`.
    Busy = 0x0c "busy",
    /// This side is shutting down and takes no new requests.
    GoingAway = 0x0d "going away",
    /// There is no room, or none left for this peer.
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
    /// This node does not mirror the payload or set.
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
}
