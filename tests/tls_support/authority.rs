//! A certificate authority for tests. The product has none.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use stoq::tls::{FalconAlgorithm, FalconKey, FalconSignature, Identity};
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::Ia5String;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The time in which a certificate is valid, relative to now.
#[derive(Clone, Copy)]
pub enum Lifetime {
    Current,
    Expired,
    Future,
}

/// An authority, or an intermediate one, with the chain that leads to it.
pub struct Authority {
    pub name: String,
    pub certificate: CertificateDer<'static>,
    key: FalconKey,
    /// Certificates between this authority and its root, this one's first; empty for a root.
    chain: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// A root that signs itself.
    pub fn new(name: &str, algorithm: FalconAlgorithm) -> Self {
        let key = FalconKey::generate(algorithm).unwrap();
        let certificate = certify(name, true, &key, name, &key, Lifetime::Current);
        Self { name: name.into(), certificate, key, chain: vec![] }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = FalconKey::generate(self.key.algorithm()).unwrap();
        let certificate = certify(name, true, &key, &self.name, &self.key, Lifetime::Current);
        let chain = [vec![certificate.clone()], self.chain.clone()].concat();
        Self { name: name.into(), certificate, key, chain }
    }

    /// A node's identity, valid now, with a key of this authority's algorithm.
    pub fn issue(&self, name: &str) -> Identity {
        self.issue_with(name, Lifetime::Current, |der| der)
    }

    /// A node's identity, valid in `lifetime`; its certificate is passed through `alter`.
    pub fn issue_with(
        &self,
        name: &str,
        lifetime: Lifetime,
        alter: impl FnOnce(CertificateDer<'static>) -> CertificateDer<'static>,
    ) -> Identity {
        let key = FalconKey::generate(self.key.algorithm()).unwrap();
        let leaf = alter(certify(name, false, &key, &self.name, &self.key, lifetime));
        Identity::new([vec![leaf], self.chain.clone()].concat(), key).unwrap()
    }
}

/// The certificate with one bit of its signature flipped.
pub fn flip_signature(certificate: CertificateDer<'static>) -> CertificateDer<'static> {
    let mut der = certificate.to_vec();
    let in_signature = der.len() - 300;
    der[in_signature] ^= 1;
    der.into()
}

/// A node's certificate that its own key signs.
pub fn self_signed(name: &str, key: &FalconKey) -> CertificateDer<'static> {
    certify(name, false, key, name, key, Lifetime::Current)
}

fn certify(
    name: &str,
    ca: bool,
    key: &FalconKey,
    issuer: &str,
    issuer_key: &FalconKey,
    lifetime: Lifetime,
) -> CertificateDer<'static> {
    let now = SystemTime::now();
    let (start, end) = match lifetime {
        Lifetime::Current => (now - DAY, now + 30 * DAY),
        Lifetime::Expired => (now - 30 * DAY, now - DAY),
        Lifetime::Future => (now + DAY, now + 30 * DAY),
    };
    let profile = Profile { name: name.into(), issuer: issuer.into(), ca };
    let public_key = SubjectPublicKeyInfoOwned::from_der(&key.public_key_info()).unwrap();
    let validity = Validity::new(Time::try_from(start).unwrap(), Time::try_from(end).unwrap());
    let serial = SerialNumber::from(7u32);
    let builder = CertificateBuilder::new(profile, serial, validity, public_key).unwrap();
    let certificate = builder.build::<_, FalconSignature>(issuer_key).unwrap();
    certificate.to_der().unwrap().into()
}

struct Profile {
    name: String,
    issuer: String,
    ca: bool,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        Name::from_str(&format!("CN={}", self.issuer)).unwrap()
    }

    fn get_subject(&self) -> Name {
        Name::from_str(&format!("CN={}", self.name)).unwrap()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        certificate: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let subject = certificate.subject();
        let mut list = Vec::new();
        list.push(BasicConstraints { ca: self.ca, path_len_constraint: None }.to_extension(subject, &list)?);
        let usage = if self.ca { KeyUsages::KeyCertSign } else { KeyUsages::DigitalSignature };
        list.push(KeyUsage(usage.into()).to_extension(subject, &list)?);
        if !self.ca {
            let name = GeneralName::DnsName(Ia5String::new(&format!("{}.example", self.name))?);
            list.push(SubjectAltName(vec![name]).to_extension(subject, &list)?);
        }
        Ok(list)
    }
}
