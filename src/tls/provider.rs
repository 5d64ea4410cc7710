//! The cryptography for rustls: aws-lc-rs, with Falcon signatures and a post-quantum key exchange.

use super::falcon::SignedMessage;
use std::fmt;
use std::str::FromStr;

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use rustls::{SignatureScheme, SupportedCipherSuite};
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519};

use super::FalconAlgorithm;

/// A node's policy for handshakes, apart from identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicy {
    /// Refuse every key exchange but X25519MLKEM768. Default true.
    pub require_post_quantum: bool,
    /// Accept peers that authenticate by ECDSA or Ed25519 instead of Falcon. Default false.
    pub allow_classical_peers: bool,
    /// Cipher suites, the preferred first. Default AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
    pub cipher_suites: Vec<CipherSuite>,
}

impl Default for TlsPolicy {
    fn default() -> Self {
        Self {
            require_post_quantum: true,
            allow_classical_peers: false,
            cipher_suites: CipherSuite::ALL.to_vec(),
        }
    }
}

/// A TLS 1.3 cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CipherSuite {
    /// TLS_AES_128_GCM_SHA256: the fastest where the CPU has AES instructions.
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384.
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256: for CPUs without AES instructions.
    ChaCha20Poly1305,
}

impl From<CipherSuite> for String {
    fn from(suite: CipherSuite) -> Self {
        suite.to_string()
    }
}

impl CipherSuite {
    /// Every suite, in the default order.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    fn supported(self) -> SupportedCipherSuite {
        match self {
            Self::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
            Self::ChaCha20Poly1305 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<String> for CipherSuite {
    type Error = UnknownCipherSuite;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A text that names no cipher suite.
#[derive(Debug, thiserror::Error)]
#[error("no cipher suite is called {0:?}; use aes-128-gcm, aes-256-gcm or chacha20-poly1305")]
pub struct UnknownCipherSuite(String);

impl FromStr for CipherSuite {
    type Err = UnknownCipherSuite;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.name() == text)
            .ok_or_else(|| UnknownCipherSuite(text.into()))
    }
}

/// The provider that follows `policy`.
pub(crate) fn crypto_provider(policy: &TlsPolicy) -> CryptoProvider {
    // Hybrid first: a client that offers both sends both shares in one hello, so either choice takes one
    // round trip.
    let kx_groups = if policy.require_post_quantum {
        vec![kx_group::X25519MLKEM768]
    } else {
        vec![kx_group::X25519MLKEM768, kx_group::X25519]
    };
    CryptoProvider {
        cipher_suites: policy.cipher_suites.iter().map(|suite| suite.supported()).collect(),
        kx_groups,
        signature_verification_algorithms: verification_algorithms(policy),
        ..aws_lc_rs::default_provider()
    }
}

/// The signatures accepted from peers, in certificates and in handshakes.
pub(crate) fn verification_algorithms(policy: &TlsPolicy) -> WebPkiSupportedAlgorithms {
    if policy.allow_classical_peers {
        WebPkiSupportedAlgorithms { all: WITH_CLASSICAL, mapping: SCHEMES_WITH_CLASSICAL }
    } else {
        WebPkiSupportedAlgorithms { all: FALCON_ONLY, mapping: FALCON_SCHEMES }
    }
}

#[derive(Debug)]
struct FalconVerification(FalconAlgorithm);

impl SignatureVerificationAlgorithm for FalconVerification {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        if self.0.verify(public_key, SignedMessage { message, signature }) {
            Ok(())
        } else {
            Err(InvalidSignature)
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.identifier()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.identifier()
    }
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;
type Scheme = (SignatureScheme, &'static [Algorithm]);

static PADDED_512: Algorithm = &FalconVerification(FalconAlgorithm::FalconPadded512);
static PADDED_1024: Algorithm = &FalconVerification(FalconAlgorithm::FalconPadded1024);
static UNPADDED_512: Algorithm = &FalconVerification(FalconAlgorithm::Falcon512);
static UNPADDED_1024: Algorithm = &FalconVerification(FalconAlgorithm::Falcon1024);

static FALCON_ONLY: &[Algorithm] = &[PADDED_512, PADDED_1024, UNPADDED_512, UNPADDED_1024];
static WITH_CLASSICAL: &[Algorithm] =
    &[PADDED_512, PADDED_1024, UNPADDED_512, UNPADDED_1024, ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519];

const fn falcon_scheme(algorithm: FalconAlgorithm, verification: &'static [Algorithm]) -> Scheme {
    (algorithm.scheme(), verification)
}

static FALCON_SCHEMES: &[Scheme] = &[
    falcon_scheme(FalconAlgorithm::FalconPadded512, &[PADDED_512]),
    falcon_scheme(FalconAlgorithm::FalconPadded1024, &[PADDED_1024]),
    falcon_scheme(FalconAlgorithm::Falcon512, &[UNPADDED_512]),
    falcon_scheme(FalconAlgorithm::Falcon1024, &[UNPADDED_1024]),
];
static SCHEMES_WITH_CLASSICAL: &[Scheme] = &[
    falcon_scheme(FalconAlgorithm::FalconPadded512, &[PADDED_512]),
    falcon_scheme(FalconAlgorithm::FalconPadded1024, &[PADDED_1024]),
    falcon_scheme(FalconAlgorithm::Falcon512, &[UNPADDED_512]),
    falcon_scheme(FalconAlgorithm::Falcon1024, &[UNPADDED_1024]),
    (SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256]),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &[ECDSA_P384_SHA384]),
    (SignatureScheme::ED25519, &[ED25519]),
];
