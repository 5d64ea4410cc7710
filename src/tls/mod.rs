//! TLS 1.3 for QUIC: Falcon identities, trust, and the configurations for quinn-proto.
//!
//! ```text
//! PEM files ──▶ Identity ─┐
//!                         ├─▶ ServerTls / ClientTls ──▶ quinn-proto ──▶ peer_node_id, explain
//! CA file, pins ─▶ Trust ─┘         (rustls, aws-lc-rs, Falcon)
//! ```
//!
//! STOQ uses no names: peers have addresses and node IDs. A certificate is judged by its issuer, by its key's
//! node ID, or by both. Its names are compared only if [`ClientTls::server_name`] is set. STOQ issues only
//! self-signed certificates; any authority may sign its requests.
//!
//! With client certificates, a client's handshake is complete before the server has judged the client's
//! certificate (RFC 8446 §4.4.2): a refusal reaches the client as a close of an open connection.

mod authority;
mod config;
mod falcon;
mod falcon_long;
mod identity;
mod node_id;
mod pem;
mod provider;
mod refusal;
mod sessions;
mod trust;
mod x509;

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

pub use authority::{Authorities, PeerChain};
pub use config::{ALPN, ClientAuth, ClientTls, ServerTls, client_config, server_config};
pub use falcon::{FalconAlgorithm, FalconKey, FalconKeyError, SignedMessage, UnknownAlgorithm};
pub use identity::{Identity, NewIdentity, NewRequest, write_key_and, write_public};
pub use node_id::{NodeId, NodeIdError};
pub use pem::PemError;
pub use pem::PemText;
pub use pem::{exposed_mode, read_any_key, read_certificates};
pub use provider::{CipherSuite, TlsPolicy, UnknownCipherSuite};
pub use refusal::{RefusalReason, RefusedBy, TlsRefusal, explain};
pub(crate) use trust::take_refused;
pub use trust::{Trust, TrustFiles};
pub use x509::{CertificateSummary, FalconPublicKey, FalconSignature, IssueError, Pkcs8Error};

/// A certificate that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed certificate ({0})")]
pub struct MalformedCertificate(String);

impl MalformedCertificate {
    /// Of a chain without certificates.
    fn missing() -> Self {
        MalformedCertificate("no certificate".into())
    }
}

/// webpki shows an error as its name in Rust.
impl From<webpki::Error> for MalformedCertificate {
    fn from(error: webpki::Error) -> Self {
        Self(refusal::in_words(&error.to_string()))
    }
}

impl From<x509_cert::der::Error> for MalformedCertificate {
    fn from(error: x509_cert::der::Error) -> Self {
        Self(error.to_string())
    }
}

/// Why an identity, a trust or a configuration cannot be made. Each text names the fix.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, open to others, damaged or of the wrong kind.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate or a request cannot be made with these names or this lifetime.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A certificate in a file cannot be read.
    #[error("{}: certificate number {number}: {source}; have it issued again", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which certificate of the file, from 1.
        number: usize,
        /// The fault.
        r#source: MalformedCertificate,
    },
    /// A private key in a file cannot be used.
    #[error(
        "{}: {source}; restore the key from where it was made or from its backup: a new key is a new node ID, which every \
         peer that trusts this one would have to be told",
        path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The fault.
        r#source: Pkcs8Error,
    },
    /// The key is not the certificate's.
    #[error(
        "{}: this key does not belong to the first certificate of {}; give the key that the certificate was \
         requested with, and put the node's own certificate first",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// A Falcon identity is needed; the file holds another.
    #[error(
        "{}: this is not Falcon; make an identity with `stoq identity new`",
        path.display()
    )]
    NotFalcon {
        /// The file.
        path: PathBuf,
    },
    /// A classical identity is needed; the file holds another.
    #[error("{}: no ECDSA or Ed25519 key; the second certificate, for classical peers, must have one", path.display())]
    NotClassical {
        /// The file.
        path: PathBuf,
    },
    /// Neither authorities nor pins were given.
    #[error("no peer is trusted: give a CA file, a list of pinned node IDs, or both")]
    NothingTrusted,
    /// A classical certificate was given, but the policy refuses classical peers.
    #[error(
        "a classical certificate has no effect while classical peers are refused; set allow_classical_peers"
    )]
    UselessClassicalIdentity,
    /// The server name to check is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a DNS name nor an IP address; leave server_name out to check none")]
    ServerName(String),
    /// No cipher suite is left to negotiate.
    #[error("no cipher suite is allowed; list at least one of aes-128-gcm, aes-256-gcm, chacha20-poly1305")]
    NoCipherSuite,
    /// rustls or quinn-proto refused the configuration.
    #[error("TLS configuration refused: {0}")]
    Refused(String),
}

/// The node ID that the peer of a connection has proven in the handshake.
///
/// `None` before that, or if the peer is a client without a certificate.
pub fn peer_node_id(connection: &quinn_proto::Connection) -> Option<NodeId> {
    let identity = connection.crypto_session().peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    NodeId::from_certificate(chain.first()?).ok()
}

/// Seeds this thread's random generator, which takes milliseconds the first time. A worker calls it before its loop.
pub fn seed_random() {
    let mut byte = [0];
    // A generator that fails now also fails the handshakes, which report it.
    let _ = aws_lc_rs::rand::fill(&mut byte);
}

/// The server name for [`quinn_proto::Endpoint::connect`] when the peer is known only by its address.
///
/// An IP address is never sent to the server (RFC 6066 §3); it only keys the client's cache of sessions.
pub fn connect_name(remote: SocketAddr) -> String {
    remote.ip().to_string()
}
