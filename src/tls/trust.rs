//! A node's trust, and the judgment of a peer's certificate.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::refusal::CertificateRefusal;
use super::{MalformedCertificate, NodeId, TlsError, pem};

/// The peers that a node trusts: those of a CA bundle's authorities, those with pinned node IDs, or, if there are both, the
/// peers that satisfy both.
///
/// With authorities a certificate must chain to one of them (RFC 5280 as rustls-webpki checks it: signatures,
/// dates, constraints, extended key usage). With pins alone the key is trusted: its certificate must be
/// within its dates, and its issuer does not matter. Either way the peer proves in the handshake that it
/// holds the key. There is no revocation: removing its pin or its authority disables a key.
#[derive(Clone, Debug)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    pins: BTreeSet<NodeId>,
    /// Shared by all clones.
    judged: Arc<AtomicU64>,
}

/// The input of [`Trust::load`]: at least one certificate file or node ID.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrustFiles<'a> {
    /// A PEM file of authorities' certificates.
    pub ca: Option<&'a Path>,
    /// Pinned node IDs.
    pub node_ids: &'a [NodeId],
}

impl Trust {
    /// Reads the authorities' certificates from a PEM file, if one is given, and adds the pins.
    pub fn load(files: &TrustFiles<'_>) -> Result<Self, TlsError> {
        let pins = files.node_ids.iter().copied();
        match files.ca {
            Some(path) => Self::with_roots(path, &pem::certificates(path, &pem::read(path)?)?, pins),
            None => Self::with_roots(Path::new(""), &[], pins),
        }
    }

    /// Reads the authorities' certificates from a PEM text in memory, and adds the pins; the path only appears in messages.
    ///
    /// # Errors
    /// A text without a certificate, or with one that cannot be read.
    pub fn from_pem(
        path: &Path,
        authorities_pem: &[u8],
        pins: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, TlsError> {
        Self::with_roots(path, &pem::certificates(path, authorities_pem)?, pins)
    }

    /// Trusts the keys with these node IDs, whatever their certificates' issuers.
    pub fn pinned(pins: impl IntoIterator<Item = NodeId>) -> Result<Self, TlsError> {
        Self::with_roots(Path::new(""), &[], pins)
    }

    /// Trusts these authorities' certificates and, with pins, only those of their certificates that are
    /// pinned.
    pub fn new(
        roots: &[CertificateDer<'_>],
        pins: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, TlsError> {
        Self::with_roots(Path::new("(CA certificates in memory)"), roots, pins)
    }

    fn with_roots(
        path: &Path,
        roots: &[CertificateDer<'_>],
        pins: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, TlsError> {
        let anchor = |(i, root)| match webpki::anchor_from_trusted_cert(root) {
            Ok(anchor) => Ok(anchor.to_owned()),
            Err(error) => Err(TlsError::Certificate {
                path: path.into(),
                number: i + 1,
                source: MalformedCertificate::from(error),
            }),
        };
        let anchors = roots.iter().enumerate().map(anchor).collect::<Result<Vec<_>, _>>()?;
        let pins: BTreeSet<_> = pins.into_iter().collect();
        if anchors.is_empty() && pins.is_empty() {
            return Err(TlsError::NothingTrusted);
        }
        Ok(Self { anchors, pins, judged: Arc::default() })
    }

    /// This trust with the authorities and the pins of `other` added to its own.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.anchors.extend(other.anchors);
        self.pins.extend(other.pins);
        self
    }

    /// Certificates that this trust and its clones have judged: one for each full handshake whose peer shows
    /// one, and none for a resumed session.
    pub fn judged(&self) -> u64 {
        self.judged.load(Ordering::Relaxed)
    }

    /// The pinned node IDs.
    pub fn pins(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.pins.iter().copied()
    }
}

thread_local! {
    /// The node ID of the client's certificate that this thread refused last: rustls forgets it.
    static REFUSED: Cell<Option<NodeId>> = const { Cell::new(None) };
}

/// The node ID of the client's certificate that this thread has refused since the last call. A worker asks after each datagram of a handshake.
pub(crate) fn take_refused() -> Option<NodeId> {
    REFUSED.take()
}

/// Judges the certificates of servers and of clients by a [`Trust`].
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Whether keys other than Falcon's are accepted.
    pub(super) allow_classical: bool,
    /// The name that a server's certificate must carry, if any.
    pub(super) server_name: Option<ServerName<'static>>,
    /// Whether a client must present a certificate.
    pub(super) client_required: bool,
}

impl PeerVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
        name: Option<&ServerName<'_>>,
    ) -> Result<(), Error> {
        self.trust.judged.fetch_add(1, Ordering::Relaxed);
        REFUSED.set(None);
        let parsed = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
        let key_info = parsed.subject_public_key_info();
        if !self.allow_classical && !is_falcon(&key_info) {
            return Err(CertificateRefusal::ClassicalKey.into());
        }
        let node_id = NodeId::from_public_key_info(&key_info);
        if !self.trust.pins.is_empty() && !self.trust.pins.contains(&node_id) {
            return Err(CertificateRefusal::NotPinned(node_id).into());
        }
        if self.trust.anchors.is_empty() {
            check_dates(leaf, now)?;
        } else {
            parsed
                .verify_for_usage(
                    self.algorithms.all,
                    &self.trust.anchors,
                    intermediates,
                    now,
                    usage,
                    None,
                    None,
                )
                .map_err(certificate_error)?;
        }
        match name {
            Some(name) => parsed.verify_is_valid_for_subject_name(name).map_err(certificate_error),
            None => Ok(()),
        }
    }
}

fn is_falcon(key_info: &[u8]) -> bool {
    SubjectPublicKeyInfoRef::from_der(key_info)
        .is_ok_and(|info| super::FalconAlgorithm::from_oid(info.algorithm.oid).is_some())
}

fn check_dates(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let parsed = Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate().validity();
    let not_before = UnixTime::since_unix_epoch(validity.not_before.to_unix_duration());
    let not_after = UnixTime::since_unix_epoch(validity.not_after.to_unix_duration());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

/// rustls' own mapping is private; this one separates the errors that have different fixes.
fn certificate_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after }.into(),
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        E::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        E::InvalidSignatureForPublicKey => CertificateRefusal::ForgedCertificate.into(),
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            CertificateRefusal::ClassicalIssuer.into()
        }
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => CertificateError::InvalidPurpose.into(),
        E::CertNotValidForName(_) => CertificateError::NotValidForName.into(),
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding.into(),
        other => CertificateRefusal::Invalid(other).into(),
    }
}

const NO_TLS12: Error = Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic);

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialed_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, intermediates, now, KeyUsage::server_auth(), self.server_name.as_ref())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    /// No names of authorities: they would take room in the first flight, and a node has only one identity.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.client_required
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, intermediates, now, KeyUsage::client_auth(), None)
            .inspect_err(|_| REFUSED.set(NodeId::from_certificate(leaf).ok()))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl From<CertificateRefusal> for Error {
    fn from(refusal: CertificateRefusal) -> Self {
        CertificateError::Other(rustls::OtherError(Arc::new(refusal))).into()
    }
}
