//! X.509: self-signed certificates, requests, summaries of certificates, and PKCS#8 keys.

use crate::peer_text::PeerText;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Any, BitString, Ia5String, OctetString, OctetStringRef, SetOfVec, Utf8StringRef};
use x509_cert::der::{DateTime, Decode, Document, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::request::RequestBuilder;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{
    self, AlgorithmIdentifierOwned, AlgorithmIdentifierRef, DynSignatureAlgorithmIdentifier, EncodePublicKey,
    ObjectIdentifier, SignatureBitStringEncoding, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, attr::AttributeTypeAndValue};
use zeroize::Zeroizing;

use super::{FalconAlgorithm, FalconKey, FalconKeyError, MalformedCertificate, NodeId, TlsError, pem};

/// How far a new certificate's validity reaches back, for peers whose clocks are late.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
/// Common names, characters (RFC 5280, appendix A: ub-common-name).
const COMMON_NAME_LEN_MAX: usize = 64;
/// Random bytes of a serial number: under the 20 octets of RFC 5280 §4.1.2.2 even with a sign octet.
const SERIAL_BYTES: usize = 16;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// Why a certificate cannot have these names or this lifetime.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The common name is empty or too long.
    #[error("the common name must have 1 to {COMMON_NAME_LEN_MAX} characters")]
    CommonName,
    /// A subject alternative name is neither an IP address nor a DNS name.
    #[error("{0:?} is neither an IP address nor a DNS name in ASCII")]
    AlternativeName(String),
    /// The lifetime is zero or ends past the last date of a certificate.
    #[error("a lifetime of {0} days cannot be written in a certificate; use 1 to 36500")]
    Lifetime(u32),
    /// The key cannot sign.
    #[error(transparent)]
    Key(#[from] FalconKeyError),
    /// The certificate cannot be built.
    #[error("the certificate cannot be built: {0}")]
    Build(x509_cert::builder::Error),
}

impl From<x509_cert::builder::Error> for IssueError {
    fn from(error: x509_cert::builder::Error) -> Self {
        Self::Build(error)
    }
}

impl From<x509_cert::der::Error> for IssueError {
    fn from(error: x509_cert::der::Error) -> Self {
        Self::Build(error.into())
    }
}

/// The subject of a certificate.
pub(super) struct Subject {
    name: Name,
    alternatives: Vec<GeneralName>,
}

impl Subject {
    pub(super) fn new(common_name: &str, alternative_names: &[String]) -> Result<Self, IssueError> {
        if !(1..=COMMON_NAME_LEN_MAX).contains(&common_name.chars().count()) {
            return Err(IssueError::CommonName);
        }
        let value = Any::encode_from(&Utf8StringRef::new(common_name)?)?;
        let attribute = AttributeTypeAndValue { oid: COMMON_NAME, value };
        let mut names = RdnSequence::default();
        names.push(RelativeDistinguishedName::from(SetOfVec::try_from(vec![attribute])?));
        let name = Name::from_der(&names.to_der()?)?;
        let alternatives =
            alternative_names.iter().map(|text| alternative_name(text)).collect::<Result<_, _>>()?;
        Ok(Self { name, alternatives })
    }

    /// The extensions of a leaf for both sides of a connection.
    fn extensions(&self) -> Result<Vec<Extension>, x509_cert::der::Error> {
        let mut list = Vec::new();
        list.push(BasicConstraints { ca: false, path_len_constraint: None }.to_extension(&self.name, &list)?);
        list.push(KeyUsage(KeyUsages::DigitalSignature.into()).to_extension(&self.name, &list)?);
        list.push(ExtendedKeyUsage(vec![SERVER_AUTH, CLIENT_AUTH]).to_extension(&self.name, &list)?);
        if !self.alternatives.is_empty() {
            list.push(SubjectAltName(self.alternatives.clone()).to_extension(&self.name, &list)?);
        }
        Ok(list)
    }
}

fn alternative_name(text: &str) -> Result<GeneralName, IssueError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        return Ok(GeneralName::IpAddress(OctetString::new(octets)?));
    }
    if rustls::pki_types::DnsName::try_from(text).is_err() {
        return Err(IssueError::AlternativeName(text.into()));
    }
    Ok(GeneralName::DnsName(Ia5String::new(text)?))
}

impl BuilderProfile for Subject {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.name.clone()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        _certificate: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(self.extensions()?)
    }
}

/// A certificate that `key` signs for itself, in DER.
pub(super) fn self_signed(
    key: &FalconKey,
    subject: Subject,
    now: SystemTime,
    days: u32,
) -> Result<CertificateDer<'static>, IssueError> {
    let mut serial = [0; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| FalconKeyError::NoRandomness)?;
    serial[0] |= 1; // neither zero nor shortened by leading zeros
    let lifetime = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    let end = now.checked_add(lifetime).filter(|_| days > 0).ok_or(IssueError::Lifetime(days))?;
    let bounds = (Time::try_from(now - CLOCK_SKEW), Time::try_from(end));
    let (Ok(start), Ok(end)) = bounds else { return Err(IssueError::Lifetime(days)) };
    let public_key = SubjectPublicKeyInfoOwned::from_der(&key.public_key_info())?;
    let validity = Validity::new(start, end);
    let builder = CertificateBuilder::new(subject, SerialNumber::new(&serial)?, validity, public_key)?;
    let certificate = builder.build::<_, FalconSignature>(key)?;
    Ok(CertificateDer::from(certificate.to_der()?))
}

/// A certificate request (PKCS#10) for `key`, in DER, for any authority to sign.
pub(super) fn request(key: &FalconKey, subject: Subject) -> Result<Vec<u8>, IssueError> {
    let mut builder = RequestBuilder::new(subject.name.clone())?;
    builder.add_extension(&KeyUsage(KeyUsages::DigitalSignature.into()))?;
    builder.add_extension(&ExtendedKeyUsage(vec![SERVER_AUTH, CLIENT_AUTH]))?;
    if !subject.alternatives.is_empty() {
        builder.add_extension(&SubjectAltName(subject.alternatives))?;
    }
    Ok(builder.build::<_, FalconSignature>(key)?.to_der()?)
}

/// A Falcon signature in the form for X.509 builders.
pub struct FalconSignature(Vec<u8>);

impl SignatureBitStringEncoding for FalconSignature {
    fn to_bitstring(&self) -> x509_cert::der::Result<BitString> {
        BitString::from_bytes(&self.0)
    }
}

/// A Falcon public key in the form for X.509 builders.
#[derive(Clone)]
pub struct FalconPublicKey(Vec<u8>);

impl EncodePublicKey for FalconPublicKey {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(self.0.as_slice())?)
    }
}

impl signature::Keypair for FalconKey {
    type VerifyingKey = FalconPublicKey;

    fn verifying_key(&self) -> FalconPublicKey {
        FalconPublicKey(self.public_key_info().to_vec())
    }
}

impl signature::Signer<FalconSignature> for FalconKey {
    fn try_sign(&self, message: &[u8]) -> Result<FalconSignature, signature::Error> {
        self.sign(message).map(FalconSignature).map_err(|_| signature::Error::new())
    }
}

impl DynSignatureAlgorithmIdentifier for FalconKey {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(AlgorithmIdentifierOwned { oid: self.algorithm().oid(), parameters: None })
    }
}

/// The contents of a PKCS#8 document.
pub(super) enum PrivateKey {
    Falcon(FalconKey),
    /// A key of another algorithm, which aws-lc-rs judges.
    Other,
}

/// Reads PKCS#8 (RFC 5958) as the Open Quantum Safe provider writes it: the privateKey OCTET STRING holds an OCTET
/// STRING of the secret key and the public key, one after the other.
pub(super) fn private_key_from_pkcs8(der: &[u8]) -> Result<PrivateKey, Pkcs8Error> {
    let (algorithm, key) = pkcs8_fields(der).map_err(|error| Pkcs8Error::Malformed(error.to_string()))?;
    let Some(algorithm) = FalconAlgorithm::from_oid(algorithm.oid) else { return Ok(PrivateKey::Other) };
    let (secret, public) =
        key.split_at_checked(algorithm.secret_key_len()).ok_or(FalconKeyError::Malformed(algorithm))?;
    if public.len() != algorithm.public_key_len() {
        return Err(FalconKeyError::Malformed(algorithm).into());
    }
    Ok(PrivateKey::Falcon(FalconKey::from_parts(algorithm, secret, Some(public))?))
}

/// Why a PKCS#8 document is refused.
#[derive(Debug, thiserror::Error)]
pub enum Pkcs8Error {
    /// It is no PKCS#8.
    #[error("this is no PKCS#8 private key ({0})")]
    Malformed(String),
    /// Its Falcon key is not usable.
    #[error(transparent)]
    Key(#[from] FalconKeyError),
}

fn pkcs8_fields(der: &[u8]) -> Result<(AlgorithmIdentifierRef<'_>, &[u8]), x509_cert::der::Error> {
    let mut reader = SliceReader::new(der)?;
    let fields = reader.sequence(|body| {
        let _version = u8::decode(body)?;
        let algorithm = AlgorithmIdentifierRef::decode(body)?;
        let key = <&OctetStringRef>::decode(body)?;
        // Attributes and a second copy of the public key may follow (RFC 5958 §2).
        while !body.is_finished() {
            let _ = x509_cert::der::asn1::AnyRef::decode(body)?;
        }
        Ok::<_, x509_cert::der::Error>((algorithm, key.as_bytes()))
    })?;
    reader.finish()?;
    let (algorithm, wrapped) = fields;
    let inner = <&OctetStringRef>::from_der(wrapped).map_or(wrapped, OctetStringRef::as_bytes);
    Ok((algorithm, inner))
}

/// Writes PKCS#8 as the Open Quantum Safe provider does.
pub(super) fn private_key_to_pkcs8(key: &FalconKey) -> Result<Zeroizing<Vec<u8>>, x509_cert::der::Error> {
    let pair = Zeroizing::new([key.secret_key(), key.public_key()].concat());
    let inner = Zeroizing::new(OctetStringRef::new(&pair)?.to_der()?);
    let algorithm = AlgorithmIdentifierRef { oid: key.algorithm().oid(), parameters: None };
    let version = 0u8.to_der()?;
    let wrapped = Zeroizing::new(OctetStringRef::new(&inner)?.to_der()?);
    let body = Zeroizing::new([&version[..], &algorithm.to_der()?, &wrapped].concat());
    let header = x509_cert::der::Header::new(x509_cert::der::Tag::Sequence, body.len().try_into()?);
    Ok(Zeroizing::new([&header.to_der()?[..], &body].concat()))
}

/// A certificate's contents, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateSummary {
    /// The ID of the certificate's key.
    pub node_id: NodeId,
    /// The algorithm of the certificate's key: a Falcon algorithm's name, or an object identifier.
    pub algorithm: String,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Valid from, in RFC 3339 form, UTC.
    pub not_before: String,
    /// Valid until, in RFC 3339 form, UTC.
    pub not_after: String,
    /// Valid from, seconds since the Unix epoch.
    pub not_before_s: u64,
    /// Valid until, seconds since the Unix epoch.
    pub not_after_s: u64,
    /// Subject alternative names.
    pub alternative_names: Vec<String>,
    /// BLAKE3-256 of the certificate in DER, in hexadecimal.
    pub fingerprint: String,
    /// Whether it was valid when it was read.
    pub valid_now: bool,
}

impl CertificateSummary {
    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// The file is missing or wrong; the text names the fix.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        let malformed = |source| TlsError::Certificate { path: path.into(), number: 1, source };
        let chain = pem::certificates(path, &pem::read(path)?)?;
        let leaf = chain.first().ok_or_else(|| malformed(MalformedCertificate::missing()))?;
        Self::of(leaf).map_err(malformed)
    }

    /// Reads a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, MalformedCertificate> {
        let parsed = Certificate::from_der(certificate)?;
        let body = parsed.tbs_certificate();
        let oid = body.subject_public_key_info().algorithm.oid;
        let names = body.get_extension::<SubjectAltName>()?;
        Ok(Self {
            node_id: NodeId::from_certificate(certificate)?,
            algorithm: FalconAlgorithm::from_oid(oid)
                .map_or_else(|| oid.to_string(), |known| known.name().into()),
            subject: PeerText::from(&*body.subject().to_string()).into_string(),
            issuer: PeerText::from(&*body.issuer().to_string()).into_string(),
            not_before: body.validity().not_before.to_date_time().to_string(),
            not_after: body.validity().not_after.to_date_time().to_string(),
            not_before_s: body.validity().not_before.to_unix_duration().as_secs(),
            not_after_s: body.validity().not_after.to_unix_duration().as_secs(),
            alternative_names: names
                .map_or_else(Vec::new, |(_, names)| names.0.iter().map(name_text).collect()),
            fingerprint: blake3::hash(certificate).to_hex().to_string(),
            valid_now: {
                let validity = body.validity();
                let now = SystemTime::now();
                validity.not_before.to_system_time() <= now && now <= validity.not_after.to_system_time()
            },
        })
    }

    /// Why peers whose clocks say `now` refuse this certificate, and the fix; `None` while it is within its
    /// dates. Peers judge dates whether they trust an authority or a node ID.
    pub fn out_of_dates(&self, now: SystemTime) -> Option<String> {
        const RENEW: &str = "have it issued again for the same key (`stoq identity renew` where it is self-signed), then reload";
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let clock = || {
            let at = DateTime::from_unix_duration(Duration::from_secs(now_s));
            at.map_or_else(|_| format!("{now_s} s after 1970"), |at| at.to_string())
        };
        let subject = &self.subject;
        if now_s < self.not_before_s {
            let (from, clock) = (&self.not_before, clock());
            return Some(format!(
                "the certificate of {subject} is not valid before {from}, or this host's clock is wrong: it says {clock}; \
                 set the clock, or have a certificate issued that is valid now"
            ));
        }
        (now_s > self.not_after_s).then(|| {
            let (until, clock) = (&self.not_after, clock());
            format!(
                "the certificate of {subject} has expired: it was valid until {until}, and this host's clock says {clock}; {RENEW}"
            )
        })
    }
}

impl fmt::Display for CertificateSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node id      {}", self.node_id)?;
        writeln!(f, "algorithm    {}", self.algorithm)?;
        writeln!(f, "subject      {}", self.subject)?;
        writeln!(f, "issuer       {}", self.issuer)?;
        writeln!(f, "valid        {} to {}", self.not_before, self.not_after)?;
        writeln!(f, "names        {}", self.alternative_names.join(", "))?;
        write!(f, "fingerprint  {}", self.fingerprint)
    }
}

fn name_text(name: &GeneralName) -> String {
    match name {
        GeneralName::DnsName(text) => PeerText::from(text.as_str()).into_string(),
        GeneralName::IpAddress(octets) => match *octets.as_bytes() {
            [a, b, c, d] => IpAddr::from([a, b, c, d]).to_string(),
            ref bytes => <[u8; 16]>::try_from(bytes)
                .map_or_else(|_| "malformed IP address".into(), |v6| IpAddr::from(v6).to_string()),
        },
        GeneralName::UniformResourceIdentifier(text) => PeerText::from(text.as_str()).into_string(),
        _ => "a name of another kind".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of the Open Quantum Safe provider: version 0, the algorithm without parameters, and an
    /// OCTET STRING within an OCTET STRING.
    #[test]
    fn pkcs8_has_the_layout_of_the_open_quantum_safe_provider() {
        let key = FalconKey::generate(FalconAlgorithm::FalconPadded512).unwrap();
        let der = private_key_to_pkcs8(&key).unwrap();
        let head = [
            &[0x30, 0x82, 0x08, 0x96, 0x02, 1, 0, 0x30, 7, 0x06, 5, 0x2b, 0xce, 0x0f, 3, 16][..],
            &[0x04, 0x82, 0x08, 0x86, 0x04, 0x82, 0x08, 0x82],
        ]
        .concat();
        assert_eq!(&der[..head.len()], head);
        assert_eq!(&der[head.len()..], [key.secret_key(), key.public_key()].concat());
        let Ok(PrivateKey::Falcon(read)) = private_key_from_pkcs8(&der) else { panic!("not read back") };
        assert_eq!((read.secret_key(), read.public_key()), (key.secret_key(), key.public_key()));
    }
}
