//! The keys by which a node recognizes packets and tokens of its earlier processes. A process that starts with the same
//! identity on the same address answers them with stateless resets (RFC 9000 §10.3): peers then learn at
//! once that their connections are gone.
//!
//! The keys derive from the identity's private key and the node's own addresses. The addresses separate
//! nodes that share an identity: with one key, a reset of either would end the other's connections (RFC 9000
//! §21.11). A client that was sent a Retry packet before a restart may go on with its token: without the key, its handshake would fail
//! (RFC 9000 §7.3). A restart forgets which NEW_TOKEN tokens were used: each is good once at each process that has the key, for
//! [`ADDRESS_TOKEN_S`](crate::limits::ADDRESS_TOKEN_S). The keys of a gateway in a fleet come from the fleet's secret instead ([`super::fleet`]).

use super::cid::{CidKey, NodeCids};
use super::fleet::FleetRing;
use super::fleet_settings::FleetSettings;
use aws_lc_rs::{hkdf, hmac};
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey};
use quinn_proto::{BloomTokenLog, TokenLog, TokenReuseError};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Contexts of BLAKE3's key derivation: each key has its own.
const ROOT_CONTEXT: &str = "stoq 2026-11 identity private key -> restart secret";
const RESET_CONTEXT: &str = "stoq 2026-11 restart secret -> stateless reset key";
const TOKEN_CONTEXT: &str = "stoq 2026-11 restart secret -> address token key";
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
    /// Connection IDs, which name workers.
    pub cids: NodeCids,
    /// Derives stateless reset tokens from connection IDs.
    pub reset: Arc<dyn HmacKey>,
    /// Encrypts the tokens of Retry and NEW_TOKEN.
    pub tokens: Arc<dyn HandshakeTokenKey>,
}

/// The NEW_TOKEN tokens that were used with any worker of this process.
#[derive(Default)]
pub struct UsedTokens(BloomTokenLog);

impl fmt::Debug for UsedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UsedTokens(..)")
    }
}

impl TokenLog for UsedTokens {
    fn check_and_insert(
        &self,
        nonce: u128,
        issued: SystemTime,
        lifetime: Duration,
    ) -> Result<(), TokenReuseError> {
        self.0.check_and_insert(nonce, issued, lifetime)
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys(..)")
    }
}

impl NodeKeys {
    /// Random keys: packets of an earlier process are not recognized.
    pub fn random() -> Self {
        let mut keys = [(); 2].map(|()| Zeroizing::new([0; 32]));
        keys.iter_mut().for_each(|key| rand::RngCore::fill_bytes(&mut rand::rng(), &mut **key));
        Self::of(CidKey::random(), &keys[0], &keys[1])
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
        let derive = |context| secret.derive(context, &addresses);
        Self::of(CidKey::new(mask), &derive(RESET_CONTEXT), &derive(TOKEN_CONTEXT))
    }

    /// The keys of a gateway in a fleet. They depend on its server ID, and not on its addresses.
    pub fn of_fleet(settings: &FleetSettings) -> Self {
        let ring = FleetRing::new(settings);
        Self { cids: NodeCids::Routable(ring.clone()), reset: Arc::new(ring.clone()), tokens: Arc::new(ring) }
    }

    /// Takes other rotations of the fleet, everywhere at once. The keys of a node alone stay.
    pub fn renew(&self, settings: &FleetSettings) {
        if let NodeCids::Routable(ring) = &self.cids {
            ring.renew(settings);
        }
    }

    fn of(cid: CidKey, reset: &[u8; 32], tokens: &[u8; 32]) -> Self {
        let tokens = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(tokens);
        let cids = NodeCids::Masked(cid);
        Self { cids, reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset)), tokens: Arc::new(tokens) }
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

    fn masked(keys: &NodeKeys) -> &CidKey {
        match &keys.cids {
            NodeCids::Masked(key) => key,
            NodeCids::Routable(_) => panic!("it is in no fleet"),
        }
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
        assert_eq!(masked(&once), masked(&again));
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
        assert!(keys.iter().skip(1).all(|other| masked(other) != masked(&keys[0])));
    }

    #[test]
    fn an_address_token_is_good_once_at_a_process_whichever_process_issued_it() {
        let (used, now) = (UsedTokens::default(), SystemTime::now());
        let lifetime = Duration::from_secs(1000);
        let take = |nonce: u128, issued| used.check_and_insert(nonce << 64 | nonce, issued, lifetime).is_ok();
        let before = now - Duration::from_secs(1);
        assert!(take(1, before), "of an earlier process");
        assert!(!take(1, before));
        assert!(take(2, now + Duration::from_secs(1)));
        assert!(!take(2, now + Duration::from_secs(1)));
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
