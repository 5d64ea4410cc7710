//! Falcon (round 3) signatures: the algorithms, their names on the wire, and keys that sign.
//!
//! Code points and object identifiers are those of the Open Quantum Safe provider for OpenSSL, so that both
//! sides accept each other's certificates and handshakes. FIPS 206 (FN-DSA) is unpublished: when it is final
//! it becomes one more variant here, with its own code point.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::falcon_long;
use crossbeam_queue::ArrayQueue;
use fn_dsa::{
    CryptoRng, DOMAIN_NONE, FN_DSA_LOGN_512, FN_DSA_LOGN_1024, HASH_ID_ORIGINAL_FALCON, KeyPairGenerator,
    KeyPairGenerator512, KeyPairGenerator1024, RngCore, RngError, SigningKey as _, SigningKey512,
    SigningKey1024, VerifyingKey, VerifyingKey512, VerifyingKey1024, sign_key_size, signature_size,
    vrfy_key_size,
};
use rustls::SignatureScheme;
use rustls::pki_types::{AlgorithmIdentifier, SubjectPublicKeyInfoDer};
use x509_cert::spki::ObjectIdentifier;
use zeroize::Zeroizing;

/// The Falcon signature algorithms that STOQ speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FalconAlgorithm {
    /// Degree 512, signatures padded to 666 bytes. Signs and verifies.
    #[default]
    FalconPadded512,
    /// Degree 1024, signatures padded to 1280 bytes. Signs and verifies.
    FalconPadded1024,
    /// Degree 512, signatures of varying length, at most 752 bytes. Only verified.
    Falcon512,
    /// Degree 1024, signatures of varying length, at most 1462 bytes. Only verified.
    Falcon1024,
}

/// A message, and its Falcon signature as a peer claims it.
#[derive(Clone, Copy, Debug)]
pub struct SignedMessage<'a> {
    /// The signed message.
    pub message: &'a [u8],
    /// The signature's bytes.
    pub signature: &'a [u8],
}

impl FalconAlgorithm {
    /// Every algorithm, the preferred first.
    pub const ALL: [Self; 4] =
        [Self::FalconPadded512, Self::FalconPadded1024, Self::Falcon512, Self::Falcon1024];

    /// The Open Quantum Safe provider's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FalconPadded512 => "falconpadded512",
            Self::FalconPadded1024 => "falconpadded1024",
            Self::Falcon512 => "falcon512",
            Self::Falcon1024 => "falcon1024",
        }
    }

    /// The TLS 1.3 SignatureScheme code point (RFC 8446 §4.2.3; from the range for private use).
    pub const fn code_point(self) -> u16 {
        match self {
            Self::FalconPadded512 => 0xfedc,
            Self::FalconPadded1024 => 0xfedf,
            Self::Falcon512 => 0xfed7,
            Self::Falcon1024 => 0xfeda,
        }
    }

    /// The code point as rustls names it.
    pub const fn scheme(self) -> SignatureScheme {
        SignatureScheme::Unknown(self.code_point())
    }

    /// The object identifier, both of keys and of signatures.
    pub const fn oid(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Self::FalconPadded512 => "1.3.9999.3.16",
            Self::FalconPadded1024 => "1.3.9999.3.19",
            Self::Falcon512 => "1.3.9999.3.11",
            Self::Falcon1024 => "1.3.9999.3.14",
        })
    }

    /// The algorithm with this object identifier.
    pub fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.oid() == oid)
    }

    /// The body of the X.509 AlgorithmIdentifier: the object identifier in DER, no parameters.
    pub const fn identifier(self) -> AlgorithmIdentifier {
        AlgorithmIdentifier::from_slice(match self {
            Self::FalconPadded512 => &[0x06, 5, 0x2b, 0xce, 0x0f, 3, 16],
            Self::FalconPadded1024 => &[0x06, 5, 0x2b, 0xce, 0x0f, 3, 19],
            Self::Falcon512 => &[0x06, 5, 0x2b, 0xce, 0x0f, 3, 11],
            Self::Falcon1024 => &[0x06, 5, 0x2b, 0xce, 0x0f, 3, 14],
        })
    }

    /// Whether keys of this algorithm may sign. The forms of varying length are only verified.
    pub const fn signs(self) -> bool {
        matches!(self, Self::FalconPadded512 | Self::FalconPadded1024)
    }

    const fn log_degree(self) -> u32 {
        match self {
            Self::FalconPadded512 | Self::Falcon512 => FN_DSA_LOGN_512,
            Self::FalconPadded1024 | Self::Falcon1024 => FN_DSA_LOGN_1024,
        }
    }

    /// A public key, bytes.
    pub const fn public_key_len(self) -> usize {
        vrfy_key_size(self.log_degree())
    }

    /// A secret key, bytes.
    pub const fn secret_key_len(self) -> usize {
        sign_key_size(self.log_degree())
    }

    /// A padded signature, bytes.
    pub const fn signature_len(self) -> usize {
        signature_size(self.log_degree())
    }

    /// The longest accepted signature, bytes: that of liboqs for those of varying length.
    pub const fn signature_len_max(self) -> usize {
        match self {
            Self::FalconPadded512 | Self::FalconPadded1024 => self.signature_len(),
            Self::Falcon512 => 752,
            Self::Falcon1024 => 1462,
        }
    }

    /// Whether the owner of `public_key` signed the message. False for anything malformed.
    pub fn verify(self, public_key: &[u8], signed: SignedMessage<'_>) -> bool {
        let SignedMessage { message, signature } = signed;
        let padded_len = self.signature_len();
        if self.signs() {
            return signature.len() == padded_len && self.verify_padded(public_key, message, signature);
        }
        // The last byte of Falcon's compressed form holds the last coefficient's terminating 1, so a zero
        // there is added padding: refusing it keeps one encoding a signature.
        if signature.len() > self.signature_len_max() || signature.last().is_none_or(|&last| last == 0) {
            return false;
        }
        if signature.len() > padded_len {
            return falcon_long::verify(self.log_degree(), public_key, (message, signature));
        }
        let mut padded = signature.to_vec();
        padded.resize(padded_len, 0);
        self.verify_padded(public_key, message, &padded)
    }

    fn verify_padded(self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        fn check<K: VerifyingKey>(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
            K::decode(public_key)
                .is_some_and(|key| key.verify(signature, &DOMAIN_NONE, &HASH_ID_ORIGINAL_FALCON, message))
        }
        match self {
            Self::FalconPadded512 | Self::Falcon512 => {
                check::<VerifyingKey512>(public_key, message, signature)
            }
            Self::FalconPadded1024 | Self::Falcon1024 => {
                check::<VerifyingKey1024>(public_key, message, signature)
            }
        }
    }
}

impl fmt::Display for FalconAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no Falcon algorithm.
#[derive(Debug, thiserror::Error)]
#[error("no Falcon algorithm is called {0:?}; use falconpadded512 or falconpadded1024")]
pub struct UnknownAlgorithm(String);

impl FromStr for FalconAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| UnknownAlgorithm(text.into()))
    }
}

/// Why a Falcon key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FalconKeyError {
    /// The algorithm is only verified.
    #[error("{0} keys are verified only; make a falconpadded512 or falconpadded1024 key")]
    VerifyOnly(FalconAlgorithm),
    /// The bytes are no secret key of the algorithm.
    #[error("this is no {0} secret key, or it is damaged")]
    Malformed(FalconAlgorithm),
    /// The given public key belongs to another secret key.
    #[error("the public key beside the secret key belongs to another key")]
    Inconsistent,
    /// The operating system gave no random bytes.
    #[error("the operating system's random generator failed")]
    NoRandomness,
}

/// A Falcon key pair that signs, cheap to clone and shared by all workers.
///
/// Decoding a secret key costs about as much as signing with it, and each signature needs a decoded key. Decoded
/// keys therefore wait in a lock-free pool with one for each core. A signer takes one, or decodes another, and
/// puts it back. The pool belongs to the key and not to a thread: a key that a reload has replaced is
/// wiped with its last owner, and does not stay in every worker's thread-local memory.
#[derive(Clone)]
pub struct FalconKey(Arc<KeyPair>);

struct KeyPair {
    algorithm: FalconAlgorithm,
    secret: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
    idle: ArrayQueue<DecodedKey>,
}

/// A secret key made ready to sign. Both kinds wipe themselves when dropped.
enum DecodedKey {
    Degree512(Box<SigningKey512>),
    Degree1024(Box<SigningKey1024>),
}

impl DecodedKey {
    fn decode(algorithm: FalconAlgorithm, secret: &[u8]) -> Option<Self> {
        match algorithm {
            FalconAlgorithm::FalconPadded512 => {
                SigningKey512::decode(secret).map(|key| Self::Degree512(Box::new(key)))
            }
            FalconAlgorithm::FalconPadded1024 => {
                SigningKey1024::decode(secret).map(|key| Self::Degree1024(Box::new(key)))
            }
            FalconAlgorithm::Falcon512 | FalconAlgorithm::Falcon1024 => None,
        }
    }

    fn public_key(&self, out: &mut [u8]) {
        match self {
            Self::Degree512(key) => key.to_verifying_key(out),
            Self::Degree1024(key) => key.to_verifying_key(out),
        }
    }

    fn sign(&mut self, rng: &mut OsRng, message: &[u8], out: &mut [u8]) {
        match self {
            Self::Degree512(key) => key.sign(rng, &DOMAIN_NONE, &HASH_ID_ORIGINAL_FALCON, message, out),
            Self::Degree1024(key) => key.sign(rng, &DOMAIN_NONE, &HASH_ID_ORIGINAL_FALCON, message, out),
        }
    }
}

impl FalconKey {
    /// Makes a new key pair from the operating system's randomness.
    pub fn generate(algorithm: FalconAlgorithm) -> Result<Self, FalconKeyError> {
        let mut secret = Zeroizing::new(vec![0; algorithm.secret_key_len()]);
        let mut public = vec![0; algorithm.public_key_len()];
        let mut rng = OsRng::default();
        let degree = algorithm.log_degree();
        match algorithm {
            FalconAlgorithm::FalconPadded512 => {
                KeyPairGenerator512::default().keygen(degree, &mut rng, &mut secret, &mut public);
            }
            FalconAlgorithm::FalconPadded1024 => {
                KeyPairGenerator1024::default().keygen(degree, &mut rng, &mut secret, &mut public);
            }
            FalconAlgorithm::Falcon512 | FalconAlgorithm::Falcon1024 => {
                return Err(FalconKeyError::VerifyOnly(algorithm));
            }
        }
        rng.finish()?;
        Self::from_parts(algorithm, &secret, Some(&public))
    }

    /// Takes a secret key in Falcon's own encoding; a public key given beside it must be its own.
    pub fn from_parts(
        algorithm: FalconAlgorithm,
        secret: &[u8],
        public: Option<&[u8]>,
    ) -> Result<Self, FalconKeyError> {
        if !algorithm.signs() {
            return Err(FalconKeyError::VerifyOnly(algorithm));
        }
        let decoded = DecodedKey::decode(algorithm, secret).ok_or(FalconKeyError::Malformed(algorithm))?;
        let mut own_public = vec![0; algorithm.public_key_len()];
        decoded.public_key(&mut own_public);
        if public.is_some_and(|given| given != own_public) {
            return Err(FalconKeyError::Inconsistent);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let idle = ArrayQueue::new(cores);
        let _ = idle.push(decoded);
        let secret = Zeroizing::new(secret.to_vec());
        Ok(Self(Arc::new(KeyPair { algorithm, secret, public: own_public, idle })))
    }

    /// The algorithm that this key signs by.
    pub fn algorithm(&self) -> FalconAlgorithm {
        self.0.algorithm
    }

    /// The public key in Falcon's own encoding.
    pub fn public_key(&self) -> &[u8] {
        &self.0.public
    }

    /// The secret key in Falcon's own encoding.
    pub(crate) fn secret_key(&self) -> &[u8] {
        &self.0.secret
    }

    /// The public key as X.509 carries it, in DER.
    pub fn public_key_info(&self) -> SubjectPublicKeyInfoDer<'static> {
        rustls::sign::public_key_to_spki(&self.0.algorithm.identifier(), self.public_key())
    }

    /// Signs `message`, randomized, with a signature of [`FalconAlgorithm::signature_len`] bytes.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, FalconKeyError> {
        let pair = &*self.0;
        let mut key = match pair.idle.pop() {
            Some(key) => key,
            None => DecodedKey::decode(pair.algorithm, &pair.secret)
                .ok_or(FalconKeyError::Malformed(pair.algorithm))?,
        };
        let mut signature = vec![0; pair.algorithm.signature_len()];
        let mut rng = OsRng::default();
        key.sign(&mut rng, message, &mut signature);
        // A full pool drops the key, which wipes it.
        let _ = pair.idle.push(key);
        rng.finish()?;
        Ok(signature)
    }
}

impl fmt::Debug for FalconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FalconKey").field(&self.0.algorithm).finish_non_exhaustive()
    }
}

impl rustls::sign::SigningKey for FalconKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered.contains(&self.algorithm().scheme()).then(|| Box::new(self.clone()) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.public_key_info())
    }

    /// A concept of TLS 1.2, which has no name for Falcon.
    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::Unknown(0xff)
    }
}

impl rustls::sign::Signer for FalconKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.algorithm().scheme()
    }
}

/// The operating system's generator behind the Falcon engine's interface.
///
/// That interface cannot fail. A failure is noted, and [`OsRng::finish`] reports it: a signature or key
/// made from missing bytes never leaves this file.
#[derive(Default)]
struct OsRng {
    failed: bool,
}

impl OsRng {
    fn finish(self) -> Result<(), FalconKeyError> {
        if self.failed { Err(FalconKeyError::NoRandomness) } else { Ok(()) }
    }
}

impl CryptoRng for OsRng {}

impl RngCore for OsRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        self.failed |= aws_lc_rs::rand::fill(out).is_err();
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), RngError> {
        self.fill_bytes(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_is_the_der_of_the_object_identifier() {
        use x509_cert::der::Encode;
        for algorithm in FalconAlgorithm::ALL {
            assert_eq!(algorithm.identifier().as_ref(), algorithm.oid().to_der().unwrap());
            assert_eq!(algorithm.name().parse::<FalconAlgorithm>().unwrap(), algorithm);
            assert_eq!(FalconAlgorithm::from_oid(algorithm.oid()), Some(algorithm));
        }
    }

    #[test]
    fn verify_only_algorithms_make_no_keys() {
        for algorithm in [FalconAlgorithm::Falcon512, FalconAlgorithm::Falcon1024] {
            assert_eq!(FalconKey::generate(algorithm).unwrap_err(), FalconKeyError::VerifyOnly(algorithm));
        }
    }

    #[test]
    fn signing_is_randomized_and_shared_between_threads() {
        let key = FalconKey::generate(FalconAlgorithm::FalconPadded512).unwrap();
        let signatures: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| key.sign(b"once").unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (i, signature) in signatures.iter().enumerate() {
            assert!(key.algorithm().verify(key.public_key(), SignedMessage { message: b"once", signature }));
            assert!(!signatures[..i].contains(signature));
        }
    }

    #[test]
    fn a_foreign_public_key_is_refused() {
        let (one, two) = (FalconKey::generate(Default::default()), FalconKey::generate(Default::default()));
        let (one, two) = (one.unwrap(), two.unwrap());
        let mixed = FalconKey::from_parts(one.algorithm(), one.secret_key(), Some(two.public_key()));
        assert_eq!(mixed.unwrap_err(), FalconKeyError::Inconsistent);
    }
}
