//! Failed handshakes in words: the fault, the side that refused, and the fix.
//!
//! Of a failed handshake, rustls and quinn-proto keep the alert's number and rustls' text, which the CONNECTION_CLOSE frame carries
//! to the peer as well. The text therefore names no file of this node. [`explain`] reads number and text back into a reason. A peer's
//! text only selects one of the reasons; nothing else of it is trusted.

use std::fmt;

use quinn_proto::ConnectionError;

use super::NodeId;
use crate::peer_text::PeerText;

const NOT_PINNED: &str = "stoq: certificate's node ID is not pinned: ";
const CLASSICAL_KEY: &str = "stoq: certificate's key is not Falcon";
const CLASSICAL_ISSUER: &str = "stoq: certificate chain is signed by an algorithm that is not accepted";
const FORGED_CERTIFICATE: &str = "stoq: certificate's signature is not its issuer's";
const INVALID_CERTIFICATE: &str = "stoq: certificate is invalid: ";

/// A refusal of this node's certificate check that rustls has no error for. Its text survives into
/// quinn-proto's error.
pub(super) enum CertificateRefusal {
    NotPinned(NodeId),
    ClassicalKey,
    ClassicalIssuer,
    ForgedCertificate,
    Invalid(webpki::Error),
}

impl fmt::Display for CertificateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned(id) => write!(f, "{NOT_PINNED}{id}"),
            Self::ClassicalKey => f.write_str(CLASSICAL_KEY),
            Self::ClassicalIssuer => f.write_str(CLASSICAL_ISSUER),
            Self::ForgedCertificate => f.write_str(FORGED_CERTIFICATE),
            Self::Invalid(error) => write!(f, "{INVALID_CERTIFICATE}{error:?}"),
        }
    }
}

/// The same text: rustls shows foreign errors in this form.
impl fmt::Debug for CertificateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for CertificateRefusal {}

/// The side that ended the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// This node refused the peer.
    Us,
    /// The peer refused this node.
    Peer,
}

/// The fault of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The certificate leads to no trusted authority.
    UntrustedIssuer,
    /// The certificate's key is not pinned; its node ID, where the text names it.
    NotPinned(Option<NodeId>),
    /// The certificate is past its last day.
    Expired,
    /// The certificate's first day is in the future.
    NotYetValid,
    /// A certificate of the chain was altered, or signed by a key other than its issuer's.
    ForgedCertificate,
    /// The handshake's own signature does not match the certificate's key.
    BadHandshakeSignature,
    /// The certificate's key, or its issuer's, is not Falcon.
    ClassicalCertificate,
    /// The certificate cannot be read.
    MalformedCertificate,
    /// A certificate of the chain breaks a rule of X.509; the fault in words.
    InvalidCertificate(String),
    /// The certificate is not meant for this side of a connection.
    WrongPurpose,
    /// The certificate does not carry the configured name.
    WrongName,
    /// The client presented no certificate where one is required.
    NoClientCertificate,
    /// No key exchange in common: one side has no X25519MLKEM768.
    NoCommonKeyExchange,
    /// No signature algorithm in common: one side verifies no Falcon.
    NoCommonSignature,
    /// No cipher suite in common.
    NoCommonCipherSuite,
    /// No parameters in common; the alert does not say which.
    NothingInCommon,
    /// The other side does not speak `stoq/1`.
    AlpnMismatch,
    /// Another alert: its number and its text.
    Other {
        /// The TLS alert (RFC 8446 §6).
        alert: u8,
        /// The text.
        text: PeerText,
    },
}

/// A handshake that TLS refused. Its text names the fault and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TlsRefusal {
    /// The side that refused.
    pub by: RefusedBy,
    /// The reason.
    pub reason: RefusalReason,
}

/// Tells why TLS refused a connection. `None` if the connection ended otherwise.
pub fn explain(error: &ConnectionError) -> Option<TlsRefusal> {
    let (by, code, text) = match error {
        ConnectionError::TransportError(error) => {
            (RefusedBy::Us, u64::from(error.code), error.reason.as_str().into())
        }
        ConnectionError::ConnectionClosed(close) => {
            (RefusedBy::Peer, u64::from(close.error_code), String::from_utf8_lossy(&close.reason))
        }
        _ => return None,
    };
    // RFC 9001 §4.8: 0x0100 to 0x01ff are TLS alerts.
    let alert = code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
    Some(TlsRefusal { by, reason: classify(alert, &text) })
}

fn classify(alert: u8, text: &str) -> RefusalReason {
    by_text(text)
        .or_else(|| by_alert(alert))
        .unwrap_or_else(|| RefusalReason::Other { alert, text: PeerText::from(text) })
}

/// A name in Rust's spelling, such as `TrailingData(SignedData)`, as words: `trailing data (signed data)`.
pub(super) fn in_words(name: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for letter in name.chars() {
        if before.is_ascii_lowercase() && (letter.is_ascii_uppercase() || letter == '(') {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
        before = letter;
    }
    words
}

/// Reads the texts of [`CertificateRefusal`] and of rustls.
fn by_text(text: &str) -> Option<RefusalReason> {
    use RefusalReason as R;
    if let Some((_, id)) = text.split_once(NOT_PINNED) {
        return Some(R::NotPinned(id.get(..NodeId::TEXT_LEN).and_then(|id| id.parse().ok())));
    }
    if let Some((_, fault)) = text.split_once(INVALID_CERTIFICATE) {
        let name: String = fault.chars().take_while(char::is_ascii_alphanumeric).collect();
        return Some(R::InvalidCertificate(in_words(&name)));
    }
    let known: [(&str, RefusalReason); 16] = [
        (CLASSICAL_KEY, R::ClassicalCertificate),
        (CLASSICAL_ISSUER, R::ClassicalCertificate),
        (FORGED_CERTIFICATE, R::ForgedCertificate),
        ("invalid peer certificate: UnknownIssuer", R::UntrustedIssuer),
        ("invalid peer certificate: certificate expired", R::Expired),
        ("invalid peer certificate: Expired", R::Expired),
        ("invalid peer certificate: certificate not valid yet", R::NotYetValid),
        ("invalid peer certificate: NotValidYet", R::NotYetValid),
        ("invalid peer certificate: BadSignature", R::BadHandshakeSignature),
        ("invalid peer certificate: BadEncoding", R::MalformedCertificate),
        ("invalid peer certificate: InvalidPurpose", R::WrongPurpose),
        ("invalid peer certificate: NotValidForName", R::WrongName),
        ("peer sent no certificates", R::NoClientCertificate),
        ("NoKxGroupsInCommon", R::NoCommonKeyExchange),
        ("NoSignatureSchemesInCommon", R::NoCommonSignature),
        ("NoCipherSuitesInCommon", R::NoCommonCipherSuite),
    ];
    known.into_iter().find(|(part, _)| text.contains(part)).map(|(_, reason)| reason)
}

/// The reason that an alert alone gives (RFC 8446 §6.2), for peers that send no text.
fn by_alert(alert: u8) -> Option<RefusalReason> {
    Some(match alert {
        40 | 71 => RefusalReason::NothingInCommon, // handshake_failure, insufficient_security
        42 => RefusalReason::MalformedCertificate, // bad_certificate
        43 => RefusalReason::WrongPurpose,         // unsupported_certificate
        45 => RefusalReason::Expired,              // certificate_expired
        48 => RefusalReason::UntrustedIssuer,      // unknown_ca
        49 => RefusalReason::NotPinned(None),      // access_denied
        51 => RefusalReason::BadHandshakeSignature, // decrypt_error
        116 => RefusalReason::NoClientCertificate, // certificate_required
        120 => RefusalReason::AlpnMismatch,        // no_application_protocol
        _ => return None,
    })
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            RefusedBy::Us => fmt_ours(&self.reason, f),
            RefusedBy::Peer => fmt_theirs(&self.reason, f),
        }
    }
}

/// The same for both sides.
const NO_STOQ: &str = "the peer does not speak stoq/1; check the address and the peer's version";

fn fmt_ours(reason: &RefusalReason, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use RefusalReason as R;
    f.write_str(match reason {
        R::UntrustedIssuer => {
            "the peer's certificate was not issued by a trusted authority; add its CA to the CA file, or pin its \
             node ID"
        }
        R::NotPinned(Some(id)) => {
            return write!(f, "the peer's node ID {id} is not among the pinned; pin it if this is the intended peer");
        }
        R::NotPinned(None) => "the peer's node ID cannot be told, and is not pinned; pin it if this is the intended peer",
        R::Expired => "the peer's certificate has expired; the peer must renew it (or this node's clock is wrong)",
        R::NotYetValid => "the peer's certificate is not valid yet; compare the clocks of both nodes",
        R::ForgedCertificate => {
            "a certificate of the peer's chain carries a signature that is not its issuer's; it was altered, or \
             another CA has the same name: have it issued again"
        }
        R::BadHandshakeSignature => {
            "the peer's handshake signature does not match its certificate; the peer holds another key, or an attacker is \
             altering the handshake"
        }
        R::ClassicalCertificate => {
            "the peer's certificate, or its issuer's, is not Falcon; give the peer a Falcon identity, or set \
             allow_classical_peers"
        }
        R::MalformedCertificate => "the peer's certificate cannot be read; the peer must have it issued again",
        R::InvalidCertificate(fault) => {
            return write!(f, "the peer's certificate, or its issuer's, breaks a rule of X.509 ({fault}); the peer must have it issued again");
        }
        R::WrongPurpose => {
            "the peer's certificate is not meant for its side of a connection; issue it with extended key usage \
             serverAuth and clientAuth, or with none"
        }
        R::WrongName => {
            "the peer's certificate does not carry the server name asked for; correct server_name, or leave it out"
        }
        R::NoClientCertificate => {
            "the peer presented no certificate and this listener requires one; give the peer an identity"
        }
        R::NoCommonKeyExchange => {
            "the peer offers no X25519MLKEM768; upgrade its TLS library, or set require_post_quantum = false"
        }
        R::NoCommonSignature => {
            "the peer verifies no signature that this node can make; give the peer a TLS library with Falcon"
        }
        R::NoCommonCipherSuite => "the peer offers none of this node's cipher suites; allow one of its own here",
        R::NothingInCommon => "the peer and this node have no TLS parameters in common",
        R::AlpnMismatch => NO_STOQ,
        R::Other { alert, text } => return write!(f, "the handshake failed here (alert {alert}): {text}"),
    })
}

fn fmt_theirs(reason: &RefusalReason, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use RefusalReason as R;
    f.write_str(match reason {
        R::UntrustedIssuer => {
            "the peer does not trust the authority of this node's certificate; add that CA to the peer's CA file, or \
             pin this node's ID there"
        }
        R::NotPinned(Some(id)) => {
            return write!(f, "the peer has not pinned this node's ID {id}; pin it there");
        }
        R::NotPinned(None) => "the peer does not let this node in; pin this node's ID there",
        R::Expired => "the peer finds this node's certificate expired; renew it (or the peer's clock is wrong)",
        R::NotYetValid => "the peer finds this node's certificate not valid yet; compare the clocks of both nodes",
        R::ForgedCertificate => {
            "the peer finds a signature in this node's certificate chain that is not its issuer's; have the \
             certificate issued again by the CA that the peer trusts"
        }
        R::BadHandshakeSignature => {
            "the peer could not verify this node's handshake signature; check that it speaks the same Falcon, and that \
             nothing alters the handshake"
        }
        R::ClassicalCertificate => {
            "the peer accepts Falcon only, and this node's certificate or its issuer's is not; use a Falcon identity"
        }
        R::MalformedCertificate => "the peer cannot read this node's certificate; have it issued again",
        R::InvalidCertificate(fault) => {
            return write!(f, "the peer finds that this node's certificate, or its issuer's, breaks a rule of X.509 ({fault}); have it issued again");
        }
        R::WrongPurpose => {
            "the peer finds this node's certificate not meant for this side of a connection; issue it with \
             extended key usage serverAuth and clientAuth, or with none"
        }
        R::WrongName => "this node's certificate does not carry the name that the peer asked for",
        R::NoClientCertificate => {
            "the peer requires a client certificate that it can verify; configure a Falcon identity on this node"
        }
        R::NoCommonKeyExchange => {
            "the peer accepts none of this node's key exchanges: one side requires X25519MLKEM768 and the other \
             lacks it; upgrade the side that lacks it"
        }
        R::NoCommonSignature => {
            "the peer has no certificate that this node verifies; give it a Falcon identity, or set \
             allow_classical_peers here"
        }
        R::NoCommonCipherSuite => "the peer accepts none of this node's cipher suites; allow one of the peer's here",
        R::NothingInCommon => {
            "the peer found no common ground: no X25519MLKEM768, no Falcon, or no cipher suite on one of the sides"
        }
        R::AlpnMismatch => NO_STOQ,
        R::Other { alert, text } => return write!(f, "the peer ended the handshake (alert {alert}): {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every alert of RFC 8446 §6 that ends a failed handshake gives a reason of its own, even without a text.
    #[test]
    fn an_alert_without_text_still_gives_a_reason() {
        for alert in [40, 42, 43, 45, 48, 49, 51, 71, 116, 120] {
            assert!(!matches!(classify(alert, ""), RefusalReason::Other { .. }));
        }
        assert_eq!(classify(80, "a\nb"), RefusalReason::Other { alert: 80, text: "a\nb".into() });
    }

    /// Each reason, with a part of its text on this side, and where the peer refuses.
    fn reasons() -> Vec<(RefusalReason, &'static str, &'static str)> {
        use RefusalReason as R;
        let id = NodeId([7; 32]);
        let other = R::Other { alert: 80, text: "a\u{e9}".into() };
        vec![
            (
                R::UntrustedIssuer,
                "was not issued by a trusted authority",
                "does not trust the authority of this node's",
            ),
            (R::NotPinned(None), "cannot be told, and is not pinned", "does not let this node in"),
            (R::NotPinned(Some(id)), "is not among the pinned", "has not pinned this node's ID"),
            (R::Expired, "the peer's certificate has expired", "finds this node's certificate expired"),
            (
                R::NotYetValid,
                "the peer's certificate is not valid yet",
                "finds this node's certificate not valid yet",
            ),
            (
                R::ForgedCertificate,
                "a certificate of the peer's chain carries",
                "finds a signature in this node's",
            ),
            (
                R::BadHandshakeSignature,
                "the peer holds another key",
                "could not verify this node's handshake",
            ),
            (
                R::ClassicalCertificate,
                "give the peer a Falcon identity, or set",
                "the peer accepts Falcon only",
            ),
            (
                R::MalformedCertificate,
                "the peer's certificate cannot be read",
                "cannot read this node's certificate",
            ),
            (
                R::InvalidCertificate("ca used as end entity".into()),
                "the peer's certificate, or its issuer's, breaks a rule of X.509 (ca used as end entity)",
                "that this node's certificate, or its issuer's, breaks a rule of X.509 (ca used as end entity)",
            ),
            (R::WrongPurpose, "is not meant for its side", "finds this node's certificate not meant"),
            (R::WrongName, "does not carry the server name", "does not carry the name that the peer"),
            (R::NoClientCertificate, "presented no certificate", "requires a client certificate"),
            (
                R::NoCommonKeyExchange,
                "the peer offers no X25519MLKEM768",
                "accepts none of this node's key exchanges",
            ),
            (
                R::NoCommonSignature,
                "verifies no signature that this node",
                "has no certificate that this node verifies",
            ),
            (
                R::NoCommonCipherSuite,
                "offers none of this node's cipher suites",
                "accepts none of this node's cipher suites",
            ),
            (R::NothingInCommon, "have no TLS parameters in common", "found no common ground"),
            (R::AlpnMismatch, "does not speak stoq/1", "does not speak stoq/1"),
            (
                other,
                "the handshake failed here (alert 80): a\u{e9}",
                "the peer ended the handshake (alert 80): a\u{e9}",
            ),
        ]
    }

    #[test]
    fn every_refusal_names_the_fault_on_either_side() {
        for (reason, ours, theirs) in reasons() {
            for (by, part) in [(RefusedBy::Us, ours), (RefusedBy::Peer, theirs)] {
                let said = TlsRefusal { by, reason: reason.clone() }.to_string();
                assert!(said.contains(part), "{reason:?}: {said}");
            }
        }
    }

    /// rustls wraps the words of a refusal in the text of a debugger.
    #[test]
    fn a_broken_rule_is_told_by_its_name_alone() {
        let text =
            "invalid peer certificate: Other(OtherError(stoq: certificate is invalid: CaUsedAsEndEntity))";
        assert_eq!(in_words("TrailingData(SignedData)"), "trailing data (signed data)");
        assert_eq!(classify(46, text), RefusalReason::InvalidCertificate("ca used as end entity".into()));
    }

    proptest! {
        #[test]
        fn any_text_of_a_peer_is_read_without_panic(alert: u8, text in ".{0,300}") {
            for text in [format!("{NOT_PINNED}{text}"), text] {
                let reason = classify(alert, &text);
                for by in [RefusedBy::Us, RefusedBy::Peer] {
                    let shown = TlsRefusal { by, reason: reason.clone() }.to_string();
                    prop_assert!(!shown.chars().any(char::is_control));
                }
            }
        }
    }
}
