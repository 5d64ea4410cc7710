//! Falcon signatures of STOQ's engine against pqcrypto-falcon, an independent implementation in C.

use std::sync::LazyLock;

use pqcrypto_falcon::{falcon512, falcon1024, falconpadded512, falconpadded1024};
use pqcrypto_traits::sign::{DetachedSignature as _, PublicKey as _, SecretKey as _};
use proptest::prelude::*;
use stoq::tls::{FalconAlgorithm, FalconKey, SignedMessage};

const SIGNATURES: usize = 60;

fn message(i: usize) -> Vec<u8> {
    format!("message {i} ").repeat(i % 7).into_bytes()
}

fn verifies(algorithm: FalconAlgorithm, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    algorithm.verify(public, SignedMessage { message, signature })
}

macro_rules! cross_check {
    ($test:ident, $oracle:ident, $algorithm:expr) => {
        #[test]
        fn $test() {
            let algorithm = $algorithm;
            let (their_public, their_secret) = $oracle::keypair();
            for i in 0..SIGNATURES {
                let message = message(i);
                let signature = $oracle::detached_sign(&message, &their_secret);
                let signature = signature.as_bytes();
                assert!(verifies(algorithm, their_public.as_bytes(), &message, signature));
                assert!(!verifies(algorithm, their_public.as_bytes(), b"another message", signature));
                if !algorithm.signs() {
                    let padded = [signature, &[0]].concat();
                    assert!(!verifies(algorithm, their_public.as_bytes(), &message, &padded));
                }
            }
            if !algorithm.signs() {
                return;
            }
            // A key of either makes signatures that the other accepts, through the same encoding.
            let adopted =
                FalconKey::from_parts(algorithm, their_secret.as_bytes(), Some(their_public.as_bytes()))
                    .unwrap();
            for key in [adopted, FalconKey::generate(algorithm).unwrap()] {
                let public = $oracle::PublicKey::from_bytes(key.public_key()).unwrap();
                for i in 0..SIGNATURES {
                    let message = message(i);
                    let signature = key.sign(&message).unwrap();
                    let signature = $oracle::DetachedSignature::from_bytes(&signature).unwrap();
                    assert!($oracle::verify_detached_signature(&signature, &message, &public).is_ok());
                }
            }
        }
    };
}

cross_check!(padded_512_agrees_with_the_oracle, falconpadded512, FalconAlgorithm::FalconPadded512);
cross_check!(padded_1024_agrees_with_the_oracle, falconpadded1024, FalconAlgorithm::FalconPadded1024);
cross_check!(unpadded_512_of_the_oracle_is_verified, falcon512, FalconAlgorithm::Falcon512);
cross_check!(unpadded_1024_of_the_oracle_is_verified, falcon1024, FalconAlgorithm::Falcon1024);

/// An algorithm, a public key, and a signature over [`MESSAGE`].
type Sample = (FalconAlgorithm, Vec<u8>, Vec<u8>);

/// One sample of each algorithm, the unpadded ones by the oracle.
static SAMPLES: LazyLock<[Sample; 4]> = LazyLock::new(|| {
    let ours = |algorithm| {
        let key = FalconKey::generate(algorithm).unwrap();
        (algorithm, key.public_key().to_vec(), key.sign(MESSAGE).unwrap())
    };
    let (public_512, secret_512) = falcon512::keypair();
    let (public_1024, secret_1024) = falcon1024::keypair();
    // Until a signature has no more bytes than a padded one: nearly every one has not.
    let readable = |algorithm: FalconAlgorithm, public: &[u8], sign: &dyn Fn() -> Vec<u8>| {
        let mut signatures = std::iter::repeat_with(sign);
        let signature = signatures.find(|signature| signature.len() <= algorithm.signature_len());
        (algorithm, public.to_vec(), signature.unwrap())
    };
    [
        ours(FalconAlgorithm::FalconPadded512),
        ours(FalconAlgorithm::FalconPadded1024),
        readable(FalconAlgorithm::Falcon512, public_512.as_bytes(), &|| {
            falcon512::detached_sign(MESSAGE, &secret_512).as_bytes().to_vec()
        }),
        readable(FalconAlgorithm::Falcon1024, public_1024.as_bytes(), &|| {
            falcon1024::detached_sign(MESSAGE, &secret_1024).as_bytes().to_vec()
        }),
    ]
});

const MESSAGE: &[u8] = b"what both sides have seen of the handshake";

fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    let bit = bit % (bytes.len() * 8);
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_signature_key_or_message_that_was_altered_is_refused(
        sample in 0usize..4,
        bit: usize,
        cut: usize,
        tail in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let (algorithm, public, signature) = &SAMPLES[sample];
        prop_assert!(verifies(*algorithm, public, MESSAGE, signature));
        prop_assert!(!verifies(*algorithm, public, MESSAGE, &flip(signature, bit)));
        prop_assert!(!verifies(*algorithm, public, &flip(MESSAGE, bit), signature));
        prop_assert!(!verifies(*algorithm, &flip(public, bit), MESSAGE, signature));
        prop_assert!(!verifies(*algorithm, public, MESSAGE, &signature[..cut % signature.len()]));
        prop_assert!(!verifies(*algorithm, public, MESSAGE, &[&signature[..], &tail].concat()));
        prop_assert!(!verifies(*algorithm, public, MESSAGE, &[&signature[..], &vec![0; tail.len()]].concat()));
        prop_assert!(!verifies(*algorithm, &public[..cut % public.len()], MESSAGE, signature));
    }

    #[test]
    fn random_bytes_are_judged_without_panic(
        sample in 0usize..4,
        key in proptest::collection::vec(any::<u8>(), 0..2400),
        signature in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let (algorithm, public, _) = &SAMPLES[sample];
        prop_assert!(!verifies(*algorithm, &key, MESSAGE, &signature));
        prop_assert!(!verifies(*algorithm, public, MESSAGE, &signature));
        prop_assert!(FalconKey::from_parts(*algorithm, &key, None).is_err());
    }
}

/// About one of 1,400 signatures of liboqs' falcon1024 has more bytes than a padded one.
#[test]
fn a_signature_longer_than_a_padded_one_is_verified() {
    let algorithm = FalconAlgorithm::Falcon1024;
    let (public, secret) = falcon1024::keypair();
    let (_, other) = falcon1024::keypair();
    let (message, signature) = (0_u32..)
        .map(|i| i.to_be_bytes())
        .map(|message| (message, falcon1024::detached_sign(&message, &secret).as_bytes().to_vec()))
        .find(|(_, signature)| signature.len() > algorithm.signature_len())
        .unwrap();
    let (public, message) = (public.as_bytes(), &message[..]);
    assert!(signature.len() <= algorithm.signature_len_max());
    assert!(verifies(algorithm, public, message, &signature));
    assert!(!verifies(algorithm, public, b"another", &signature));
    assert!(!verifies(FalconAlgorithm::Falcon512, public, message, &signature));
    let other = falcon1024::detached_sign(message, &other);
    assert!(!verifies(algorithm, public, message, other.as_bytes()));
    for at in [0, 1, 40, 41, 600, signature.len() - 1] {
        let mut altered = signature.clone();
        altered[at] ^= 0x10;
        assert!(!verifies(algorithm, public, message, &altered), "byte {at}");
    }
    for wrong in [
        [&signature[..], &[0]].concat(),
        [&signature[..], &[1]].concat(),
        signature[..signature.len() - 1].to_vec(),
    ] {
        assert!(!verifies(algorithm, public, message, &wrong));
    }
    for key in [&public[1..], &public[..1792], &[]] {
        assert!(!verifies(algorithm, key, message, &signature));
    }
}
