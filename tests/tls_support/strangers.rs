//! Peers that STOQ itself never builds: with other key exchanges, protocols, certificates and signatures.

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use stoq::tls::FalconAlgorithm;

const FALCON: FalconAlgorithm = FalconAlgorithm::FalconPadded512;

pub type KeyExchange = &'static dyn rustls::crypto::SupportedKxGroup;
pub static KX_HYBRID: KeyExchange = rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
pub static KX_CLASSICAL: KeyExchange = rustls::crypto::aws_lc_rs::kx_group::X25519;

fn provider(kx: &[KeyExchange]) -> Arc<rustls::crypto::CryptoProvider> {
    let base = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(rustls::crypto::CryptoProvider { kx_groups: kx.to_vec(), ..base })
}

pub fn custom_server(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    kx: KeyExchange,
    alpn: &[u8],
) -> Arc<QuicServerConfig> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider(&[kx]))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(QuicServerConfig::try_from(config).unwrap())
}

/// A client that verifies nothing and claims that it verifies these signatures.
pub fn custom_client(schemes: &[SignatureScheme], kx: &[KeyExchange], alpn: &[u8]) -> Arc<QuicClientConfig> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider(kx))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(schemes.to_vec())))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(QuicClientConfig::try_from(config).unwrap())
}

#[derive(Debug)]
struct Credulous(Vec<SignatureScheme>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

pub fn classical_key() -> (Vec<CertificateDer<'static>>, Arc<dyn SigningKey>) {
    let issued = rcgen::generate_simple_self_signed(["server.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    (vec![issued.cert.der().clone()], key)
}

/// Signs with any scheme that the peer offers; wrongly if it is set to.
#[derive(Debug)]
pub struct Liar {
    pub key: Arc<dyn SigningKey>,
    pub alter: bool,
}

#[derive(Debug)]
struct LiarSigner(Box<dyn Signer>, bool);

impl SigningKey for Liar {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let own = [FALCON.scheme(), SignatureScheme::ECDSA_NISTP256_SHA256];
        Some(Box::new(LiarSigner(self.key.choose_scheme(&own)?, self.alter)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl Signer for LiarSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut signature = self.0.sign(message)?;
        if self.1 {
            signature[100] ^= 1;
        }
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
