//! Falcon signatures of varying length that are longer than padded ones.
//!
//! Falcon's compressed form has no bound but that of its coefficients. The engine verifies the padded length alone, to which its signer keeps;
//! other signers may exceed it, rarely. This is the verification of Falcon's specification (round 3, algorithm 16), of the engine's parts.

use fn_dsa_comm::{DOMAIN_NONE, HASH_ID_ORIGINAL_FALCON, codec, hash_to_point, mq, vrfy_key_size};

/// The nonce before the compressed form, bytes.
const NONCE_BYTES: usize = 40;
/// The most coefficients of a polynomial: degree 1024.
const DEGREE_MAX: usize = 1024;
/// The first byte of a signature is this and the degree's logarithm; a public key's is the logarithm alone.
const SIGNATURE_HEAD: u32 = 0x30;

/// Whether the owner of `public_key`, of degree two to the power of `log_degree`, signed the message. False for anything malformed.
pub(super) fn verify(log_degree: u32, public_key: &[u8], (message, signature): (&[u8], &[u8])) -> bool {
    let degree = 1 << log_degree;
    let (mut h, mut s2) = ([0; DEGREE_MAX], [0; DEGREE_MAX]);
    let (h, s2) = (&mut h[..degree], &mut s2[..degree]);
    let Some((&head, rest)) = signature.split_first() else { return false };
    let Some((nonce, compressed)) = rest.split_at_checked(NONCE_BYTES) else { return false };
    if u32::from(head) != SIGNATURE_HEAD + log_degree
        || public_key.len() != vrfy_key_size(log_degree)
        || u32::from(public_key[0]) != log_degree
        || codec::modq_decode(&public_key[1..], h).is_none()
        || !codec::comp_decode(compressed, s2)
    {
        return false;
    }
    mq::mqpoly_ext_to_int(log_degree, h);
    mq::mqpoly_int_to_NTT(log_degree, h);
    // Falcon of round 3 hashes nonce and message alone; the hash of the key does not enter.
    let mut s1 = [0; DEGREE_MAX];
    let s1 = &mut s1[..degree];
    hash_to_point(nonce, &[0; 64], &DOMAIN_NONE, &HASH_ID_ORIGINAL_FALCON, message, s1);
    mq::mqpoly_ext_to_int(log_degree, s1);
    let mut product = [0; DEGREE_MAX];
    let product = &mut product[..degree];
    mq::mqpoly_signed_to_ext(log_degree, s2, product);
    mq::mqpoly_ext_to_int(log_degree, product);
    mq::mqpoly_int_to_NTT(log_degree, product);
    mq::mqpoly_mul_ntt(log_degree, product, h);
    mq::mqpoly_NTT_to_int(log_degree, product);
    mq::mqpoly_sub_int(log_degree, s1, product);
    mq::mqpoly_int_to_ext(log_degree, s1);
    // A sum past 32 bits is no short vector: mqpoly_sqnorm saturates.
    let norm = mq::mqpoly_sqnorm(log_degree, s1).checked_add(mq::signed_poly_sqnorm(log_degree, s2));
    norm.is_some_and(|norm| norm <= mq::SQBETA[log_degree as usize])
}
