//! The reason of a connection's end, or of its failure to come up.

use crate::datagram::Obstacle;
use crate::peer_text::PeerText;
use crate::record::ErrorCode;
use crate::tls::{TlsRefusal, explain};
use quinn_proto::{ConnectError, ConnectionError, TransportErrorCode};
use std::net::SocketAddr;
use std::time::Duration;

/// Why a connection ended, or did not come up. The text says what happened and, where possible, what to do.
///
/// A peer's text is a [`PeerText`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// TLS refused the peer, or the peer's TLS refused this side; the reason is typed as well. A client's handshake is complete
    /// before its gateway has judged the client's certificate. This may therefore end an open connection.
    #[error(transparent)]
    Tls(TlsRefusal),
    /// Packets to the peer do not arrive.
    #[error(transparent)]
    Unreachable(Obstacle),
    /// The peer was silent for the idle timeout.
    #[error(
        "the peer has not answered within the idle timeout (timed out); does it run, and does the path carry UDP?"
    )]
    TimedOut,
    /// The peer's SETTINGS did not arrive, which it must send at once.
    #[error(
        "the peer has sent no SETTINGS within {} s of the handshake; it is out of order: have it started anew, or ask another one",
        .0.as_secs_f32()
    )]
    NoSettings(Duration),
    /// The handshake with a peer gateway took too long.
    #[error("the handshake has not come to its end within {} s; does the peer run, and does the path carry UDP?", .0.as_secs_f32())]
    SlowHandshake(Duration),
    /// The peer does not know the connection (RFC 9000 §10.3).
    #[error("the peer does not know this connection: it was started anew (stateless reset); try again")]
    Reset,
    /// The peer closed it with a STOQ error code.
    #[error("closed by the peer ({}){}", named(*.number), after_colon(.text))]
    Peer {
        /// The number of the peer's error code: [`CloseReason::code`] names it.
        number: u64,
        /// The peer's text.
        text: PeerText,
    },
    /// The peer's QUIC closed it.
    #[error("ended by the peer's QUIC ({}){}", quic_name(*.code), after_colon(.text))]
    PeerQuic {
        /// QUIC's error code (RFC 9000 §20.1).
        code: TransportErrorCode,
        /// The peer's text.
        text: PeerText,
    },
    /// The peer broke a rule of QUIC, and this side ended it.
    #[error("the peer broke a rule of QUIC ({}){}", quic_name(*.code), after_colon(.text))]
    Quic {
        /// QUIC's error code (RFC 9000 §20.1).
        code: TransportErrorCode,
        /// The rule.
        text: PeerText,
    },
    /// The peer speaks none of the QUIC versions of this side.
    #[error(
        "the peer speaks another version of QUIC than this side; check the address and the peer's version"
    )]
    Version,
    /// The peer broke the STOQ protocol, and this side closed it.
    #[error("closed here ({code}): {text}")]
    Fault {
        /// The fault.
        code: ErrorCode,
        /// The fault in words.
        text: PeerText,
    },
    /// An application of this side closed it.
    #[error("closed here")]
    Local,
    /// This side closed a connection to a peer gateway to make room for another one.
    #[error("closed here to make room for another peer gateway")]
    Displaced,
    /// This side closed a connection to a gateway that is no longer a peer gateway.
    #[error("closed here: the peer is no longer a peer gateway of this one")]
    Unlisted,
    /// The worker that had the connection panicked.
    #[error("its worker failed here; please report this, with the panic in the log")]
    WorkerFailed,
    /// This node was stopped.
    #[error("this node was stopped")]
    Stopped,
    /// This node has no client configuration.
    #[error("this node has no client identity and opens no connections")]
    NoClient,
    /// The address cannot be connected to.
    #[error("{0} is no address to connect to; give the gateway's address and port")]
    Address(SocketAddr),
    /// QUIC has no unused connection ID here.
    #[error("no connection ID is left here; close other connections first")]
    Exhausted,
    /// QUIC refused to open a connection for another reason, which this node's configuration excludes.
    #[error("QUIC opens no connection here: {0}")]
    Dial(String),
}

impl CloseReason {
    /// The STOQ error code with which the peer or this side closed the connection; `None` for other ends, and for a number that
    /// this version does not know.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Peer { number, .. } => ErrorCode::from_u64(*number),
            Self::Fault { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The reason of a lost connection, from QUIC's error.
impl From<&ConnectionError> for CloseReason {
    fn from(error: &ConnectionError) -> Self {
        if let Some(refusal) = explain(error) {
            return Self::Tls(refusal);
        }
        let text = |bytes: &[u8]| PeerText::of_bytes(bytes);
        match error {
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::TransportError(error) => {
                Self::Quic { code: error.code, text: PeerText::from(&*error.reason) }
            }
            ConnectionError::ConnectionClosed(close) => {
                Self::PeerQuic { code: close.error_code, text: text(&close.reason) }
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::Peer { number: close.error_code.into_inner(), text: text(&close.reason) }
            }
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::CidsExhausted => Self::Exhausted,
        }
    }
}

/// The reason of a connection that cannot be opened, from QUIC's error.
impl From<ConnectError> for CloseReason {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::InvalidRemoteAddress(address) => Self::Address(address),
            ConnectError::CidsExhausted => Self::Exhausted,
            ConnectError::EndpointStopping => Self::Stopped,
            ConnectError::NoDefaultClientConfig => Self::NoClient,
            other => Self::Dial(other.to_string()),
        }
    }
}

fn named(number: u64) -> String {
    ErrorCode::from_u64(number).map_or_else(|| format!("code {number}"), |code| code.name().into())
}

/// The name of a code of QUIC (RFC 9000 §20.1); the number of one that has none.
fn quic_name(code: TransportErrorCode) -> String {
    const NAMES: [&str; 17] = [
        "NO_ERROR",
        "INTERNAL_ERROR",
        "CONNECTION_REFUSED",
        "FLOW_CONTROL_ERROR",
        "STREAM_LIMIT_ERROR",
        "STREAM_STATE_ERROR",
        "FINAL_SIZE_ERROR",
        "FRAME_ENCODING_ERROR",
        "TRANSPORT_PARAMETER_ERROR",
        "CONNECTION_ID_LIMIT_ERROR",
        "PROTOCOL_VIOLATION",
        "INVALID_TOKEN",
        "APPLICATION_ERROR",
        "CRYPTO_BUFFER_EXCEEDED",
        "KEY_UPDATE_ERROR",
        "AEAD_LIMIT_REACHED",
        "NO_VIABLE_PATH",
    ];
    let number = u64::from(code);
    let name = usize::try_from(number).ok().and_then(|number| NAMES.get(number));
    name.map_or_else(|| format!("QUIC code {number:#x}"), |name| (*name).into())
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{RefusalReason, RefusedBy};
    use bytes::Bytes;
    use quinn_proto::{ApplicationClose, ConnectionClose, TransportError, VarInt};

    fn closed_by_peer(number: u32, reason: &'static str) -> ConnectionError {
        let reason = Bytes::from_static(reason.as_bytes());
        ConnectionError::ApplicationClosed(ApplicationClose { error_code: VarInt::from_u32(number), reason })
    }

    fn ended_by_peer(code: TransportErrorCode, reason: &'static [u8]) -> ConnectionError {
        let reason = Bytes::from_static(reason);
        ConnectionError::ConnectionClosed(ConnectionClose { error_code: code, frame_type: None, reason })
    }

    fn fault(code: TransportErrorCode, reason: &str) -> ConnectionError {
        ConnectionError::TransportError(TransportError { code, frame: None, reason: reason.into() })
    }

    /// QUIC's end of a connection, its type, and a part of its text.
    #[test]
    fn every_end_of_a_connection_has_a_type_and_a_text() {
        let refused = TransportErrorCode::CONNECTION_REFUSED;
        let broken = TransportErrorCode::FRAME_ENCODING_ERROR;
        let tls = |by, reason| CloseReason::Tls(TlsRefusal { by, reason });
        let peer = |number, text: &str| CloseReason::Peer { number, text: text.into() };
        let rows = [
            (ConnectionError::VersionMismatch, CloseReason::Version, "another version of QUIC"),
            (ConnectionError::Reset, CloseReason::Reset, "stateless reset"),
            (ConnectionError::TimedOut, CloseReason::TimedOut, "within the idle timeout (timed out)"),
            (ConnectionError::LocallyClosed, CloseReason::Local, "closed here"),
            (ConnectionError::CidsExhausted, CloseReason::Exhausted, "connection ID"),
            (
                closed_by_peer(0x0d, "shutting down"),
                peer(0x0d, "shutting down"),
                "(going away): shutting down",
            ),
            (closed_by_peer(0x0a, ""), peer(0x0a, ""), "closed by the peer (not authorized)"),
            (
                closed_by_peer(0x7777, "a\u{1b}[31m\nb"),
                peer(0x7777, "a\u{1b}[31m\nb"),
                r"(code 30583): a\u{1b}[31m\u{a}b",
            ),
            (
                ended_by_peer(refused, b"full\x07"),
                CloseReason::PeerQuic { code: refused, text: "full\x07".into() },
                "ended by the peer's QUIC (CONNECTION_REFUSED): full\\u{7}",
            ),
            (
                fault(broken, "a frame is short"),
                CloseReason::Quic { code: broken, text: "a frame is short".into() },
                "(FRAME_ENCODING_ERROR): a frame is short",
            ),
            (
                fault(TransportErrorCode::crypto(48), "invalid peer certificate: UnknownIssuer"),
                tls(RefusedBy::Us, RefusalReason::UntrustedIssuer),
                "not issued by a trusted authority",
            ),
            (
                ended_by_peer(TransportErrorCode::crypto(116), b""),
                tls(RefusedBy::Peer, RefusalReason::NoClientCertificate),
                "certificate",
            ),
        ];
        for (said, reason, text) in rows {
            let found = CloseReason::from(&said);
            assert_eq!(found, reason, "{said:?}");
            let shown = found.to_string();
            assert!(shown.contains(text) && !shown.chars().any(char::is_control), "{shown:?}");
        }
    }

    #[test]
    fn every_dial_that_quic_refuses_has_a_type() {
        let nowhere: SocketAddr = ([127, 0, 0, 1], 0).into();
        let rows = [
            (ConnectError::InvalidRemoteAddress(nowhere), CloseReason::Address(nowhere)),
            (ConnectError::CidsExhausted, CloseReason::Exhausted),
            (ConnectError::EndpointStopping, CloseReason::Stopped),
            (ConnectError::NoDefaultClientConfig, CloseReason::NoClient),
            (ConnectError::UnsupportedVersion, CloseReason::Dial("unsupported QUIC version".into())),
        ];
        for (said, reason) in rows {
            assert_eq!(CloseReason::from(said), reason);
        }
    }

    #[test]
    fn a_code_of_quic_is_shown_by_its_name_and_another_by_its_number() {
        for code in [
            TransportErrorCode::NO_ERROR,
            TransportErrorCode::STREAM_LIMIT_ERROR,
            TransportErrorCode::PROTOCOL_VIOLATION,
            TransportErrorCode::NO_VIABLE_PATH,
        ] {
            assert_eq!(quic_name(code), format!("{code:?}"), "quinn-proto has the same names");
        }
        assert_eq!(quic_name(TransportErrorCode::crypto(80)), "QUIC code 0x150");
    }

    #[test]
    fn a_close_of_either_side_has_a_code() {
        let fault = CloseReason::Fault { code: ErrorCode::BadProof, text: "a hash differs".into() };
        assert_eq!(fault.code(), Some(ErrorCode::BadProof));
        assert_eq!(fault.to_string(), "closed here (bad proof): a hash differs");
        assert_eq!(CloseReason::from(&closed_by_peer(0x0d, "")).code(), Some(ErrorCode::GoingAway));
        assert_eq!(CloseReason::from(&closed_by_peer(0x7777, "")).code(), None);
        assert_eq!(CloseReason::TimedOut.code(), None);
    }
}
