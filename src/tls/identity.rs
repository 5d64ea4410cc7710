//! A node's identity: its certificate chain and the key that proves it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::{any_ecdsa_type, any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::quic::keys::RestartSecret;

use super::x509::{self, PrivateKey, Subject};
use super::{
    CertificateSummary, FalconAlgorithm, FalconKey, IssueError, MalformedCertificate, NodeId, PemText,
    TlsError, pem,
};

/// A node's certificate chain and its key.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    node_id: NodeId,
    restart: Option<RestartSecret>,
}

/// A new identity, in memory and as the text of its files.
pub struct NewIdentity {
    /// The identity itself.
    pub identity: Identity,
    /// The self-signed certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8. It is wiped when dropped.
    pub key_pem: Zeroizing<String>,
}

/// A new key with a request for an authority to certify it.
pub struct NewRequest {
    /// The certificate request (PKCS#10).
    pub request_pem: String,
    /// The private key, PKCS#8. It is wiped when dropped.
    pub key_pem: Zeroizing<String>,
    /// The node's ID; it does not depend on the certifying authority.
    pub node_id: NodeId,
}

impl Identity {
    /// Reads a Falcon identity: a PEM file of certificates, the node's own first, and the PEM file of its key.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (certificate_text, key_text) = (pem::read(certificate)?, pem::read_key(key)?);
        Self::from_pem(
            PemText { path: certificate, text: &certificate_text },
            PemText { path: key, text: &key_text },
        )
    }

    /// Reads an ECDSA or Ed25519 identity, a server's second one for classical peers.
    pub fn load_classical(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = pem::certificates(certificate, &pem::read(certificate)?)?;
        let key_der = pem::private_key(key, &pem::read_key(key)?)?;
        let node_id = leaf_node_id(certificate, &chain)?;
        let private = PrivatePkcs8KeyDer::from(&key_der[..]);
        let signing = any_eddsa_type(&private)
            .or_else(|_| any_ecdsa_type(&PrivateKeyDer::from(private)))
            .map_err(|_| TlsError::NotClassical { path: key.into() })?;
        let certified = CertifiedKey::new(wire_chain(chain), signing);
        certified
            .keys_match()
            .map_err(|_| TlsError::KeyMismatch { key: key.into(), certificate: certificate.into() })?;
        Ok(Self { certified: Arc::new(certified), node_id, restart: None })
    }

    /// As [`Identity::load`], from texts in memory; the paths only appear in messages.
    pub fn from_pem(certificate: PemText<'_>, key: PemText<'_>) -> Result<Self, TlsError> {
        let chain = pem::certificates(certificate.path, certificate.text)?;
        let falcon = falcon_key(key.path, key.text)?;
        let (certificate, key) = (certificate.path, key.path);
        // The same key has the same ID; keys of any other algorithm have others.
        if leaf_node_id(certificate, &chain)? != NodeId::from_public_key_info(&falcon.public_key_info()) {
            return Err(TlsError::KeyMismatch { key: key.into(), certificate: certificate.into() });
        }
        Ok(Self::from_falcon(chain, falcon))
    }

    /// Combines a chain and a Falcon key. The first certificate must be the key's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: FalconKey) -> Result<Self, TlsError> {
        let (certificate, key_path) = (Path::new("(certificate in memory)"), Path::new("(key in memory)"));
        if leaf_node_id(certificate, &chain)? != NodeId::from_public_key_info(&key.public_key_info()) {
            return Err(TlsError::KeyMismatch { key: key_path.into(), certificate: certificate.into() });
        }
        Ok(Self::from_falcon(chain, key))
    }

    fn from_falcon(chain: Vec<CertificateDer<'static>>, key: FalconKey) -> Self {
        let node_id = NodeId::from_public_key_info(&key.public_key_info());
        let restart = Some(RestartSecret::of(key.secret_key()));
        Self { certified: Arc::new(CertifiedKey::new(wire_chain(chain), Arc::new(key))), node_id, restart }
    }

    /// Makes a key and a certificate that it signs for itself, valid from an hour ago for `days` days from now.
    ///
    /// `alternative_names` are IP addresses and DNS names, for other programs; STOQ does not compare them.
    pub fn generate(
        algorithm: FalconAlgorithm,
        common_name: &str,
        alternative_names: &[String],
        days: u32,
    ) -> Result<NewIdentity, TlsError> {
        let key = new_key(algorithm)?;
        let subject = Subject::new(common_name, alternative_names)?;
        let certificate = x509::self_signed(&key, subject, SystemTime::now(), days)?;
        let certificate_pem = pem::encode(pem::CERTIFICATE, &certificate).map_err(IssueError::from)?;
        let key_pem = key_pem(&key)?;
        Ok(NewIdentity { identity: Self::from_falcon(vec![certificate], key), certificate_pem, key_pem })
    }

    /// Makes a key and a request for any authority to certify it.
    pub fn request(
        algorithm: FalconAlgorithm,
        common_name: &str,
        alternative_names: &[String],
    ) -> Result<NewRequest, TlsError> {
        let key = new_key(algorithm)?;
        let request = x509::request(&key, Subject::new(common_name, alternative_names)?)?;
        let request_pem = pem::encode(pem::CERTIFICATE_REQUEST, &request).map_err(IssueError::from)?;
        let node_id = NodeId::from_public_key_info(&key.public_key_info());
        Ok(NewRequest { request_pem, key_pem: key_pem(&key)?, node_id })
    }

    /// Makes another certificate for an existing key, as [`Identity::generate`] does for a new one: the node
    /// ID stays. Gives the certificate in PEM.
    pub fn renew(
        key: &Path,
        common_name: &str,
        alternative_names: &[String],
        days: u32,
    ) -> Result<(String, NodeId), TlsError> {
        let falcon = falcon_key(key, &pem::read_key(key)?)?;
        let subject = Subject::new(common_name, alternative_names)?;
        let certificate = x509::self_signed(&falcon, subject, SystemTime::now(), days)?;
        let node_id = NodeId::from_public_key_info(&falcon.public_key_info());
        Ok((pem::encode(pem::CERTIFICATE, &certificate).map_err(IssueError::from)?, node_id))
    }

    /// Makes a request for any authority to certify an existing key. Gives the request in PEM.
    pub fn renewal_request(
        key: &Path,
        common_name: &str,
        alternative_names: &[String],
    ) -> Result<(String, NodeId), TlsError> {
        let falcon = falcon_key(key, &pem::read_key(key)?)?;
        let request = x509::request(&falcon, Subject::new(common_name, alternative_names)?)?;
        let node_id = NodeId::from_public_key_info(&falcon.public_key_info());
        Ok((pem::encode(pem::CERTIFICATE_REQUEST, &request).map_err(IssueError::from)?, node_id))
    }

    /// This node's ID.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The secret from which a node derives keys that outlive its process; `None` for a classical identity.
    pub fn restart_secret(&self) -> Option<&RestartSecret> {
        self.restart.as_ref()
    }

    /// The certificates sent to peers, this node's own first, without the authority's root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Summaries of the certificates sent to peers, this node's own first.
    pub fn summaries(&self) -> Result<Vec<CertificateSummary>, MalformedCertificate> {
        self.chain().iter().map(CertificateSummary::of).collect()
    }

    /// A summary of this node's own certificate.
    pub fn summary(&self) -> Result<CertificateSummary, MalformedCertificate> {
        let leaf = self.chain().first().ok_or_else(MalformedCertificate::missing)?;
        CertificateSummary::of(leaf)
    }

    /// The key, for rustls.
    pub(super) fn key(&self) -> &Arc<dyn SigningKey> {
        &self.certified.key
    }

    /// Chain and key, for rustls.
    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// Without the key.
impl fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// Without the key.
impl fmt::Debug for NewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRequest").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

fn falcon_key(path: &Path, text: &[u8]) -> Result<FalconKey, TlsError> {
    match x509::private_key_from_pkcs8(&pem::private_key(path, text)?) {
        Ok(PrivateKey::Falcon(falcon)) => Ok(falcon),
        Ok(PrivateKey::Other) => Err(TlsError::NotFalcon { path: path.into() }),
        Err(source) => Err(TlsError::Key { path: path.into(), source }),
    }
}

fn new_key(algorithm: FalconAlgorithm) -> Result<FalconKey, TlsError> {
    Ok(FalconKey::generate(algorithm).map_err(IssueError::from)?)
}

fn key_pem(key: &FalconKey) -> Result<Zeroizing<String>, TlsError> {
    let der = x509::private_key_to_pkcs8(key).map_err(IssueError::from)?;
    Ok(Zeroizing::new(pem::encode(pem::PRIVATE_KEY, &der).map_err(IssueError::from)?))
}

fn leaf_node_id(path: &Path, chain: &[CertificateDer<'_>]) -> Result<NodeId, TlsError> {
    let malformed = |source| TlsError::Certificate { path: path.into(), number: 1, source };
    let leaf = chain.first().ok_or_else(|| malformed(MalformedCertificate::missing()))?;
    NodeId::from_certificate(leaf).map_err(malformed)
}

/// Drops certificates that a peer must hold already. A peer ignores a root, and the root costs 1.6 kB or more
/// of the flight that a server may send before the client's address is validated.
fn wire_chain(mut chain: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    let self_issued = |der: &CertificateDer<'_>| {
        Certificate::from_der(der)
            .is_ok_and(|parsed| parsed.tbs_certificate().subject() == parsed.tbs_certificate().issuer())
    };
    while chain.len() > 1 && chain.last().is_some_and(self_issued) {
        chain.pop();
    }
    chain
}

/// Writes a certificate or a request. Does not overwrite.
pub fn write_public(path: &Path, public_pem: &str) -> Result<(), TlsError> {
    Ok(pem::write_new(path, public_pem.as_bytes(), false)?)
}

/// Writes a private key, readable only by its owner, and its certificate or request. Overwrites neither.
pub fn write_key_and(key: PemText<'_>, certificate_or_request: PemText<'_>) -> Result<(), TlsError> {
    pem::write_new(key.path, key.text, true)?;
    pem::write_new(certificate_or_request.path, certificate_or_request.text, false).inspect_err(|_| {
        // A key without its certificate is of no use, and would be in the way of the next attempt.
        let _ = std::fs::remove_file(key.path);
    })?;
    Ok(())
}
