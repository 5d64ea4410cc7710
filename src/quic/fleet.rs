//! The keys of a gateway in a fleet. All gateways of a fleet have one secret and differ by their server IDs.
//!
//! Every key is HKDF-SHA256 (RFC 5869) of the secret, with the salt of a rotation: the key of connection IDs, the key of address tokens, and the
//! key of a gateway's stateless resets, which depends on the server ID too. Each gateway can compute the resets of each other one.

use super::fleet_settings::{FleetSecret, FleetSettings, RotationSalt, RotationState};
use super::routable::{CID_ROTATION_MAX, RoutableCid, RoutableKey, RoutableParts, ServerId, rotation_of};
use crate::limits::WORKERS_MAX;
use aws_lc_rs::{hkdf, hmac};
use quinn_proto::ConnectionId;
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};
use rand::Rng;
use std::sync::{Arc, PoisonError, RwLock};

/// What each key is for: the info of HKDF. The server ID follows that of the reset key.
const CID_INFO: &[u8] = b"stoq fleet 1 cid";
const TOKEN_INFO: &[u8] = b"stoq fleet 1 token";
const RESET_INFO: &[u8] = b"stoq fleet 1 reset";

/// Octets of a stateless reset token (RFC 9000 §10.3).
pub const RESET_TOKEN_LEN: usize = 16;

const ROTATIONS_LEN: usize = CID_ROTATION_MAX as usize + 1;

/// The keys of one rotation.
#[derive(Debug)]
struct RotationKeys {
    salt: RotationSalt,
    cid: RoutableKey,
    reset: hmac::Key,
    tokens: hkdf::Prk,
}

/// The keys of a gateway in a fleet, as they are at one time.
#[derive(Debug)]
pub struct FleetKeys {
    secret: FleetSecret,
    server_id: ServerId,
    rotations: [Option<Box<RotationKeys>>; ROTATIONS_LEN],
    issuing: u8,
}

impl FleetKeys {
    /// The keys of these settings.
    pub fn new(settings: &FleetSettings) -> Self {
        let FleetSettings { secret, server_id, rotations, .. } = settings;
        let mut keys =
            Self { secret: secret.clone(), server_id: *server_id, rotations: Default::default(), issuing: 0 };
        for rotation in rotations {
            let salt = rotation.salt;
            let tokens = secret.derive::<32>(salt, &[TOKEN_INFO]);
            keys.rotations[usize::from(rotation.number)] = Some(Box::new(RotationKeys {
                salt,
                cid: RoutableKey::new(&secret.derive(salt, &[CID_INFO])),
                reset: reset_key(secret, salt, *server_id),
                tokens: hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&*tokens),
            }));
            if rotation.state == RotationState::Issue {
                keys.issuing = rotation.number;
            }
        }
        keys
    }

    /// A new connection ID of this gateway's worker.
    pub fn issue(&self, worker: u16) -> RoutableCid {
        let parts = RoutableParts { server_id: self.server_id, worker, nonce: rand::rng().random() };
        self.issuing().cid.encode(self.issuing, &parts)
    }

    /// The worker of this gateway that issued a connection ID; `None`: it was issued by another gateway, by an unknown rotation or not
    /// by the fleet. A former process may have had more workers than this one.
    #[inline]
    pub fn worker(&self, cid: &RoutableCid) -> Option<u16> {
        let (server_id, worker) = self.place(cid)?;
        (server_id == self.server_id).then_some(worker)
    }

    /// The gateway and its worker that issued a connection ID, if the fleet did; `None`: it is of an unknown rotation.
    #[inline]
    pub fn place(&self, cid: &RoutableCid) -> Option<(ServerId, u16)> {
        let parts = self.rotation(rotation_of(cid[0])?)?.cid.decode(cid);
        Some((parts.server_id, parts.worker))
    }

    /// The number of this gateway.
    pub fn server_id(&self) -> ServerId {
        self.server_id
    }

    /// The stateless reset token of a connection ID that the gateway of this number issued.
    pub fn reset_of(&self, server_id: ServerId, cid: &RoutableCid) -> Option<[u8; RESET_TOKEN_LEN]> {
        let rotation = self.rotation(rotation_of(cid[0])?)?;
        let tag = hmac::sign(&reset_key(&self.secret, rotation.salt, server_id), cid);
        tag.as_ref().first_chunk().copied()
    }

    /// Whether this gateway, now or in a former process, issued a connection ID.
    pub fn has_issued(&self, cid: &ConnectionId) -> bool {
        let cid = <&RoutableCid>::try_from(&cid[..]).ok();
        cid.and_then(|cid| self.worker(cid)).is_some_and(|worker| usize::from(worker) < WORKERS_MAX)
    }

    #[inline]
    fn rotation(&self, number: u8) -> Option<&RotationKeys> {
        self.rotations.get(usize::from(number))?.as_deref()
    }

    fn issuing(&self) -> &RotationKeys {
        self.rotation(self.issuing).expect("a rotation issues")
    }

    /// The reset key for a connection ID that this gateway issued.
    fn reset(&self, cid: &[u8]) -> &hmac::Key {
        let rotation = cid.first().and_then(|first| self.rotation(rotation_of(*first)?));
        &rotation.unwrap_or_else(|| self.issuing()).reset
    }
}

fn reset_key(secret: &FleetSecret, salt: RotationSalt, server_id: ServerId) -> hmac::Key {
    let key = secret.derive::<32>(salt, &[RESET_INFO, &server_id.0]);
    hmac::Key::new(hmac::HMAC_SHA256, &*key)
}

/// The keys of a gateway in a fleet, shared by all that use them. A reload changes them.
#[derive(Clone, Debug)]
pub struct FleetRing(Arc<RwLock<Arc<FleetKeys>>>);

impl FleetRing {
    /// The keys of these settings.
    pub fn new(settings: &FleetSettings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(FleetKeys::new(settings)))))
    }

    /// The keys now.
    pub fn now(&self) -> Arc<FleetKeys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the keys of other settings.
    pub fn renew(&self, settings: &FleetSettings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(FleetKeys::new(settings));
    }
}

/// What is signed is a connection ID, whose first octet names the rotation.
impl HmacKey for FleetRing {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        HmacKey::sign(self.now().reset(data), data, out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        HmacKey::verify(self.now().reset(data), data, signature)
    }
}

impl HandshakeTokenKey for FleetRing {
    fn aead_from_hkdf(&self, random: &[u8]) -> Box<dyn AeadKey> {
        Box::new(TokenKey { keys: self.now(), random: random.into() })
    }
}

/// The key of one address token. The octet after the sealed text is the number of its rotation.
struct TokenKey {
    keys: Arc<FleetKeys>,
    random: Box<[u8]>,
}

impl AeadKey for TokenKey {
    fn seal(&self, data: &mut Vec<u8>, additional: &[u8]) -> Result<(), CryptoError> {
        self.keys.issuing().tokens.aead_from_hkdf(&self.random).seal(data, additional)?;
        data.push(self.keys.issuing);
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], additional: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let (number, sealed) = data.split_last_mut().ok_or(CryptoError)?;
        let rotation = self.keys.rotation(*number).ok_or(CryptoError)?;
        // The key that opens the text is gone before its borrow ends: only the length of the text is taken from it.
        let len = rotation.tokens.aead_from_hkdf(&self.random).open(sealed, additional)?.len();
        Ok(&mut sealed[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet_settings::{CidRotation, FleetSecret, RotationSalt};
    use super::super::routable::ROUTABLE_CID_LEN;
    use super::*;
    use data_encoding::HEXLOWER;
    use serde_json::Value;
    use zeroize::Zeroizing;

    fn settings(secret: u8, server_id: u8, issuing: u8) -> FleetSettings {
        let rotation = |number| CidRotation {
            number,
            salt: RotationSalt([number; 16]),
            state: if number == issuing { RotationState::Issue } else { RotationState::Accept },
        };
        let secret = FleetSecret::new(Zeroizing::new([secret; 32]));
        FleetSettings::new(secret, ServerId([0, 0, server_id]), vec![rotation(0), rotation(4)]).unwrap()
    }

    fn reset_token(ring: &FleetRing, cid: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        ring.sign(cid, &mut out);
        out
    }

    #[test]
    fn a_gateway_knows_the_ids_of_its_former_process_and_of_each_rotation_and_no_others() {
        let (before, after) = (FleetRing::new(&settings(1, 7, 0)), FleetRing::new(&settings(1, 7, 4)));
        let mut seen = std::collections::HashSet::new();
        for worker in [0, 1, WORKERS_MAX as u16 - 1] {
            let cid = before.now().issue(worker);
            assert_eq!(after.now().worker(&cid), Some(worker));
            assert!(after.now().has_issued(&ConnectionId::new(&cid)));
            assert_eq!(reset_token(&before, &cid), reset_token(&after, &cid));
            assert!(seen.insert(after.now().issue(worker)) && seen.insert(cid));
        }
        let cid = before.now().issue(3);
        for other in [settings(1, 8, 0), settings(2, 7, 0)] {
            let other = FleetRing::new(&other);
            assert_eq!(other.now().worker(&cid), None);
            assert!(!other.now().has_issued(&ConnectionId::new(&cid)));
            assert_ne!(reset_token(&other, &cid), reset_token(&before, &cid));
            let reset = other.now().reset_of(ServerId([0, 0, 7]), &cid);
            let is_of_fleet = reset.unwrap() == reset_token(&before, &cid)[..16];
            assert_eq!(is_of_fleet, other.now().place(&cid) == Some((ServerId([0, 0, 7]), 3)));
        }
        assert!(!before.now().has_issued(&ConnectionId::new(&cid[..8])));
        let unknown: RoutableCid = std::array::from_fn(|at| if at == 0 { 0x30 } else { cid[at] });
        assert_eq!(before.now().worker(&unknown), None, "no rotation 1 is configured");
    }

    #[test]
    fn an_address_token_is_read_while_its_rotation_is_accepted() {
        let ring = FleetRing::new(&settings(1, 7, 0));
        let mut token = b"an address".to_vec();
        ring.aead_from_hkdf(b"random").seal(&mut token, b"").unwrap();
        let open = |ring: &FleetRing, random: &[u8]| {
            let mut sealed = token.clone();
            ring.aead_from_hkdf(random).open(&mut sealed, b"").map(|text| text.to_vec()).ok()
        };
        // Any gateway of the fleet reads it, before and after a rotation.
        for settings in [settings(1, 7, 0), settings(1, 9, 4)] {
            assert_eq!(open(&FleetRing::new(&settings), b"random").unwrap(), b"an address");
        }
        assert_eq!(open(&ring, b"other"), None);
        assert_eq!(open(&FleetRing::new(&settings(2, 7, 0)), b"random"), None);
        for damaged in [&b""[..], &[0], &[9; 40], &[4; 40]] {
            assert!(ring.aead_from_hkdf(b"random").open(&mut damaged.to_vec(), b"").is_err());
        }
    }

    #[test]
    fn the_keys_of_the_vectors_follow_from_their_secrets() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/cid.json")).unwrap();
        let octets =
            |entry: &Value, key: &str| HEXLOWER.decode(entry[key].as_str().unwrap().as_bytes()).unwrap();
        for entry in vectors["keys"].as_array().unwrap() {
            let rotation = CidRotation {
                number: u8::try_from(entry["rotation"].as_u64().unwrap()).unwrap(),
                salt: entry["salt"].as_str().unwrap().parse().unwrap(),
                state: RotationState::Issue,
            };
            let secret: [u8; 32] = octets(entry, "secret").try_into().unwrap();
            let secret = FleetSecret::new(Zeroizing::new(secret));
            assert_eq!(secret.derive::<16>(rotation.salt, &[CID_INFO])[..], octets(entry, "cid_key"));
            assert_eq!(secret.derive::<32>(rotation.salt, &[TOKEN_INFO])[..], octets(entry, "token_key"));
            let server_id: ServerId = entry["server_id"].as_str().unwrap().parse().unwrap();
            let ring = FleetRing::new(&FleetSettings::new(secret, server_id, vec![rotation]).unwrap());
            let cid: [u8; ROUTABLE_CID_LEN] = octets(entry, "cid").try_into().unwrap();
            assert_eq!(ring.now().worker(&cid).map(u64::from), entry["worker"].as_u64());
            assert_eq!(reset_token(&ring, &cid)[..16], octets(entry, "reset_token"));
        }
    }

    #[test]
    fn debug_output_shows_neither_the_secret_nor_a_key() {
        let settings = settings(0xab, 7, 0);
        let text = format!("{settings:?} {:?}", FleetKeys::new(&settings));
        assert!(text.contains("FleetSecret(..)") && text.contains("RoutableKey(..)"), "{text}");
        assert!(!text.contains("171, 171") && !text.contains("abab"), "{text}");
    }
}
