//! Connection IDs that name a gateway of a fleet and its worker, by draft-ietf-quic-load-balancers-21.
//!
//! ```text
//! octet 0: rotation (3 bits), 16 (5 bits)    octets 1 to 16: one AES-128 block of
//!                                            server ID (3 octets) | worker (2) | random (11)
//! ```
//!
//! The server ID and the draft's nonce have 16 octets together, so the draft has them encrypted in a single pass (§5.4.1 there). To a
//! balancer the nonce is 13 octets; its first two are the worker, which the balancer need not know. 16 is the draft's length in the first
//! octet: the octets after it. A node with the key reads the gateway and the worker with one decryption. Without it, IDs of one gateway
//! look unrelated (RFC 9000 §5.1).

use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey};
use std::fmt;

/// Octets of such a connection ID.
pub const ROUTABLE_CID_LEN: usize = 17;
/// The highest rotation: the first octet has 3 bits for it, and 7 is no rotation (§3 of the draft).
pub const CID_ROTATION_MAX: u8 = 6;
/// Octets of a block of AES.
const BLOCK_LEN: usize = 16;
/// The lower five bits of the first octet: the octets after it.
const LENGTH_BITS: u8 = BLOCK_LEN as u8;
const LENGTH_MASK: u8 = 0x1f;
const ROTATION_SHIFT: u32 = 5;
/// Octets of a server ID.
pub const SERVER_ID_LEN: usize = 3;
/// Random octets of an ID.
pub const ROUTABLE_NONCE_LEN: usize = BLOCK_LEN - SERVER_ID_LEN - 2;

/// A connection ID of this form.
pub type RoutableCid = [u8; ROUTABLE_CID_LEN];

/// The number of a gateway in its fleet. As text it is six hexadecimal digits of lower case, the only accepted form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub [u8; SERVER_ID_LEN]);

/// What a connection ID says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutableParts {
    /// The gateway that issued it.
    pub server_id: ServerId,
    /// The gateway's worker that issued it. Of a foreign ID, any number.
    pub worker: u16,
    /// Random octets.
    pub nonce: [u8; ROUTABLE_NONCE_LEN],
}

/// The key of the connection IDs of one rotation.
pub struct RoutableKey {
    encrypt: EncryptingKey,
    decrypt: DecryptingKey,
}

impl fmt::Debug for RoutableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoutableKey(..)")
    }
}

impl RoutableKey {
    /// This key.
    pub fn new(key: &[u8; 16]) -> Self {
        let unbound = || UnboundCipherKey::new(&AES_128, key).expect("AES-128 has keys of 16 octets");
        Self {
            encrypt: EncryptingKey::ecb(unbound()).expect("AES-128 has this mode"),
            decrypt: DecryptingKey::ecb(unbound()).expect("AES-128 has this mode"),
        }
    }

    /// The connection ID of these parts in this rotation.
    ///
    /// # Panics
    /// If the rotation is above [`CID_ROTATION_MAX`].
    pub fn encode(&self, rotation: u8, parts: &RoutableParts) -> RoutableCid {
        let mut block = [0; BLOCK_LEN];
        block[..SERVER_ID_LEN].copy_from_slice(&parts.server_id.0);
        block[SERVER_ID_LEN..SERVER_ID_LEN + 2].copy_from_slice(&parts.worker.to_be_bytes());
        block[SERVER_ID_LEN + 2..].copy_from_slice(&parts.nonce);
        self.encode_block(rotation, block)
    }

    /// The parts of a connection ID of the rotation that has this key. One of another key has random parts.
    #[inline]
    pub fn decode(&self, cid: &RoutableCid) -> RoutableParts {
        let [a, b, c, high, low, nonce @ ..] = self.decode_block(cid);
        RoutableParts { server_id: ServerId([a, b, c]), worker: u16::from_be_bytes([high, low]), nonce }
    }

    fn encode_block(&self, rotation: u8, mut block: [u8; BLOCK_LEN]) -> RoutableCid {
        assert!(rotation <= CID_ROTATION_MAX, "the draft has no rotation {rotation}");
        // The mode takes any number of whole blocks, and has no vector that a caller would need.
        self.encrypt.encrypt(&mut block).expect("one whole block");
        let mut cid = [rotation << ROTATION_SHIFT | LENGTH_BITS; ROUTABLE_CID_LEN];
        cid[1..].copy_from_slice(&block);
        cid
    }

    #[inline]
    fn decode_block(&self, cid: &RoutableCid) -> [u8; BLOCK_LEN] {
        let [_, mut block @ ..] = *cid;
        self.decrypt.decrypt(&mut block, DecryptionContext::None).expect("one whole block");
        block
    }
}

/// The rotation that the first octet of a connection ID names; `None`: no ID of this form begins in this way.
#[inline]
pub fn rotation_of(first: u8) -> Option<u8> {
    let rotation = first >> ROTATION_SHIFT;
    (first & LENGTH_MASK == LENGTH_BITS && rotation <= CID_ROTATION_MAX).then_some(rotation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use serde_json::Value;

    fn octets(entry: &Value, key: &str) -> Vec<u8> {
        HEXLOWER.decode(entry[key].as_str().unwrap().as_bytes()).unwrap()
    }

    fn block(entry: &Value, key: &str) -> [u8; 16] {
        octets(entry, key).try_into().unwrap()
    }

    proptest! {
        #[test]
        fn a_routable_id_names_its_rotation_gateway_and_worker(
            key: [u8; 16], rotation in 0..=CID_ROTATION_MAX, server_id: [u8; 3], worker: u16, nonce: [u8; 11],
        ) {
            let parts = RoutableParts { server_id: ServerId(server_id), worker, nonce };
            let key = RoutableKey::new(&key);
            let cid = key.encode(rotation, &parts);
            prop_assert_eq!(rotation_of(cid[0]), Some(rotation));
            prop_assert_eq!(key.decode(&cid), parts);
        }
    }

    #[test]
    fn only_a_first_octet_of_a_rotation_and_this_length_begins_a_routable_id() {
        let known: Vec<u8> = (0..=255).filter(|&first| rotation_of(first).is_some()).collect();
        assert_eq!(known, [0x10, 0x30, 0x50, 0x70, 0x90, 0xb0, 0xd0]);
    }

    #[test]
    fn the_single_pass_vectors_of_the_draft_and_of_this_format_hold_both_ways() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/cid.json")).unwrap();
        let (mut of_draft, mut own) = (0, 0);
        for entry in vectors["cids"].as_array().unwrap().iter().filter(|entry| entry["passes"] == 1) {
            let key = RoutableKey::new(&block(entry, "key"));
            let rotation = u8::try_from(entry["rotation"].as_u64().unwrap()).unwrap();
            let plain: [u8; 16] =
                [octets(entry, "server_id"), octets(entry, "nonce")].concat().try_into().unwrap();
            let cid: RoutableCid = octets(entry, "cid").try_into().unwrap();
            assert_eq!(key.encode_block(rotation, plain), cid, "{entry}");
            assert_eq!(key.decode_block(&cid), plain, "{entry}");
            assert_eq!(rotation_of(cid[0]), Some(rotation), "{entry}");
            of_draft += 1;
            let Some(worker) = entry.get("worker") else { continue };
            let parts = key.decode(&cid);
            assert_eq!(parts.server_id.0[..], octets(entry, "server_id"));
            assert_eq!(u64::from(parts.worker), worker.as_u64().unwrap());
            assert_eq!(key.encode(rotation, &parts), cid);
            own += 1;
        }
        assert!(of_draft > own && own >= 2, "{of_draft} vectors, {own} of them with a worker");
    }
}
