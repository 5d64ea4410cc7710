//! The keys by which a node recognizes packets of its earlier processes. A process that starts with the same
//! identity on the same address answers them with stateless resets (RFC 9000 §10.3): peers then learn at
//! once that their connections are gone.
//!
//! Both keys derive from the identity's private key and the node's own addresses. The addresses separate
//! nodes that share an identity: with one key, a reset of either would end the other's connections (RFC 9000
//! §21.11). The keys of Retry and NEW_TOKEN tokens are not derived: a restart forgets which tokens were used,
//! and an unreadable token costs one round trip.

use super::cid::CidKey;
use aws_lc_rs::hmac;
use quinn_proto::crypto::HmacKey;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Contexts of BLAKE3's key derivation: each key has its own.
const ROOT_CONTEXT: &str = "stoq 2026-11 identity private key -> restart secret";
const RESET_CONTEXT: &str = "stoq 2026-11 restart secret -> stateless reset key";
const CID_CONTEXT: &str = "stoq 2026-11 restart secret -> connection ID mask";

/// The secret from which [`NodeKeys`] derive; it does not reveal the identity's private key. Wiped when
/// dropped.
#[derive(Clone)]
pub struct RestartSecret(Arc<Zeroizing<[u8; 32]>>);

impl fmt::Debug for RestartSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestartSecret(..)")
    }
}

impl RestartSecret {
    /// The secret of this private key, whatever its encoding: the same bytes give the same secret.
    pub fn of(private_key: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(blake3::derive_key(ROOT_CONTEXT, private_key))))
    }

    fn derive(&self, context: &str, addresses: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(self.0.as_slice()).update(addresses);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

/// The keys that all workers of a node share.
#[derive(Clone)]
pub struct NodeKeys {
    /// Hides worker indices in connection IDs.
    pub cid: CidKey,
    /// Derives stateless reset tokens from connection IDs.
    pub reset: Arc<dyn HmacKey>,
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys(..)")
    }
}

impl NodeKeys {
    /// Random keys: packets of an earlier process are not recognized.
    pub fn random() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut *key);
        Self::of(CidKey::random(), &key)
    }

    /// The keys of a node with this secret that sends from these addresses, in any order. Link-local addresses do
    /// not count: they derive from the device's MAC, which may change from one start to the next.
    pub fn derived(secret: &RestartSecret, local: &[SocketAddr]) -> Self {
        let mut own: Vec<_> = local.iter().filter(|at| !is_link_local(at.ip())).map(encoded).collect();
        own.sort_unstable();
        own.dedup();
        let addresses = own.concat();
        let cid = secret.derive(CID_CONTEXT, &addresses);
        let mut mask = [0; 16];
        mask.copy_from_slice(&cid[..16]);
        Self::of(CidKey::new(mask), &secret.derive(RESET_CONTEXT, &addresses))
    }

    fn of(cid: CidKey, reset: &[u8; 32]) -> Self {
        Self { cid, reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset)) }
    }
}

/// An address in one form of fixed length: IPv6, then the port.
fn encoded(at: &SocketAddr) -> [u8; 18] {
    let ip = match at.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&at.port().to_be_bytes());
    bytes
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(keys: &NodeKeys) -> [u8; 32] {
        let mut out = [0; 32];
        keys.reset.sign(b"a connection ID", &mut out);
        out
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_same_identity_on_the_same_addresses_has_the_same_keys() {
        let secret = RestartSecret::of(b"a private key");
        let once = NodeKeys::derived(
            &secret,
            &addresses(&["192.0.2.1:4433", "[2001:db8::1]:4433", "[fe80::1]:4433"]),
        );
        let again = RestartSecret::of(b"a private key");
        let again = NodeKeys::derived(
            &again,
            &addresses(&["[fe80::2]:4433", "[2001:db8::1]:4433", "192.0.2.1:4433"]),
        );
        assert_eq!(token(&once), token(&again));
        assert_eq!(once.cid, again.cid);
    }

    #[test]
    fn another_identity_or_another_address_has_other_keys() {
        let secret = RestartSecret::of(b"a private key");
        let here = addresses(&["192.0.2.1:4433"]);
        let keys = [
            NodeKeys::derived(&secret, &here),
            NodeKeys::derived(&RestartSecret::of(b"another"), &here),
            NodeKeys::derived(&secret, &addresses(&["192.0.2.2:4433"])),
            NodeKeys::derived(&secret, &addresses(&["192.0.2.1:4434"])),
            NodeKeys::random(),
            NodeKeys::random(),
        ];
        let tokens: std::collections::HashSet<_> = keys.iter().map(token).collect();
        assert_eq!(tokens.len(), keys.len());
        assert!(keys.iter().skip(1).all(|other| other.cid != keys[0].cid));
    }

    #[test]
    fn debug_output_shows_neither_the_private_key_nor_a_key_derived_from_it() {
        let secret = RestartSecret::of(b"a private key");
        assert_eq!(
            format!("{secret:?} {:?}", NodeKeys::derived(&secret, &[])),
            "RestartSecret(..) NodeKeys(..)"
        );
    }
}
