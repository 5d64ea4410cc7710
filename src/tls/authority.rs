//! Authorities apart from any trust: whether they vouch for a peer that is trusted already.

use std::path::Path;

use quinn_proto::{Connection, Side};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::provider::verification_algorithms;
use super::{MalformedCertificate, NodeId, TlsError, TlsPolicy, pem};

/// Authorities, by their certificates. They need not be those of the trust: an intermediate authority, or one whose certificates a trust
/// that pins node IDs accepts, vouches for its peers too.
#[derive(Clone, Debug)]
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// By the certificates and the signatures that count.
impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        let number = |one: &Self| one.algorithms.all.len();
        self.certificates == other.certificates && number(self) == number(other)
    }
}

impl Authorities {
    /// Reads authorities' certificates from a PEM file. Signatures that the policy does not accept count nothing.
    ///
    /// # Errors
    /// A file that cannot be read, that has no certificate, or one that cannot be read.
    pub fn load(path: &Path, policy: &TlsPolicy) -> Result<Self, TlsError> {
        Self::of(path, pem::certificates(path, &pem::read(path)?)?, policy)
    }

    /// The authorities of these certificates.
    ///
    /// # Errors
    /// A certificate that cannot be read.
    pub fn new(certificates: Vec<CertificateDer<'static>>, policy: &TlsPolicy) -> Result<Self, TlsError> {
        Self::of(Path::new("(CA certificates in memory)"), certificates, policy)
    }

    fn of(
        path: &Path,
        certificates: Vec<CertificateDer<'static>>,
        policy: &TlsPolicy,
    ) -> Result<Self, TlsError> {
        let anchor = |(at, root)| match webpki::anchor_from_trusted_cert(root) {
            Ok(anchor) => Ok(anchor.to_owned()),
            Err(error) => Err(TlsError::Certificate {
                path: path.into(),
                number: at + 1,
                source: MalformedCertificate::from(error),
            }),
        };
        let anchors = certificates.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { certificates, anchors, algorithms: verification_algorithms(policy) })
    }

    /// The IDs of the authorities' keys, made as node IDs are.
    pub fn key_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.certificates.iter().filter_map(|certificate| NodeId::from_certificate(certificate).ok())
    }

    /// Whether the chain leads to one of them, by signatures and rules that hold now.
    pub fn vouch_for(&self, peer: &PeerChain) -> bool {
        let Some((leaf, intermediates)) = peer.chain.split_first() else { return false };
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return false };
        let usage = match peer.side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let (algorithms, now) = (self.algorithms.all, UnixTime::now());
        leaf.verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, None, None).is_ok()
    }
}

/// The certificates that the peer of a connection showed, and the side on which it is.
#[derive(Clone, Debug)]
pub struct PeerChain {
    chain: Vec<CertificateDer<'static>>,
    side: Side,
}

impl PeerChain {
    /// Those of the peer of this connection. In early data they are those of the session that is resumed.
    ///
    /// `None` before the handshake is complete, or if the peer is a client without a certificate.
    pub fn of(connection: &Connection) -> Option<Self> {
        let identity = connection.crypto_session().peer_identity()?;
        let chain = *identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        let side = match connection.side() {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        (!chain.is_empty()).then_some(Self { chain, side })
    }

    /// The chain that a client shows.
    #[cfg(test)]
    pub(crate) fn of_client(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, side: Side::Client }
    }

    /// The node ID that the first certificate proves.
    pub fn node_id(&self) -> Option<NodeId> {
        NodeId::from_certificate(self.chain.first()?).ok()
    }
}
