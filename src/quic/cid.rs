//! Connection IDs that name the worker that issued them.
//!
//! Outside a fleet a connection ID is 8 bytes: 6 random ones, then the worker's index under a mask. SipHash makes the mask of
//! the random bytes and of a key that all workers of the process share. Any worker can tell the owner of a
//! datagram, and an observer cannot tell which connection IDs belong together (RFC 9000 §5.1). In a fleet they have 17 bytes
//! ([`super::routable`]). A process has one of the two forms, since a short header does not tell the length.

use super::fleet::{FleetKeys, FleetRing, RESET_TOKEN_LEN};
use super::routable::{ROUTABLE_CID_LEN, RoutableCid, ServerId};
use crate::limits::{CID_LIFETIME_S, WORKERS_MAX};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{Rng, RngCore};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

/// Bytes of a connection ID outside a fleet.
pub const CID_LEN: usize = 8;
const NONCE_LEN: usize = 6;

/// The key that obscures worker indices; one for all workers of a process.
#[derive(Clone, PartialEq, Eq)]
pub struct CidKey([u8; 16]);

impl std::fmt::Debug for CidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CidKey(..)")
    }
}

impl CidKey {
    /// A given key.
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// A fresh key from the operating system's generator.
    pub fn random() -> Self {
        let mut key = [0; 16];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    fn mask(&self, nonce: &[u8]) -> u16 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(nonce);
        hasher.finish() as u16
    }

    fn issue(&self, worker: u16, nonce: [u8; NONCE_LEN]) -> [u8; CID_LEN] {
        let mut cid = [0; CID_LEN];
        cid[..NONCE_LEN].copy_from_slice(&nonce);
        cid[NONCE_LEN..].copy_from_slice(&(worker ^ self.mask(&nonce)).to_be_bytes());
        cid
    }

    /// The worker that issued this connection ID. For a foreign one, any number.
    fn worker(&self, cid: &[u8; CID_LEN]) -> u16 {
        let (nonce, masked) = cid.split_at(NONCE_LEN);
        u16::from_be_bytes([masked[0], masked[1]]) ^ self.mask(nonce)
    }
}

/// The connection IDs of a node: how they are issued and read.
#[derive(Clone, Debug)]
pub enum NodeCids {
    /// Of 8 bytes, of a node alone.
    Masked(CidKey),
    /// Of 17 bytes, of a gateway in a fleet. A reload may change their keys.
    Routable(FleetRing),
}

impl NodeCids {
    /// How they are read until the next reload.
    pub fn reader(&self) -> CidReader {
        match self {
            Self::Masked(key) => CidReader::Masked(key.clone()),
            Self::Routable(ring) => CidReader::Routable(RoutableReader::new(ring.now())),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Masked(_) => CID_LEN,
            Self::Routable(_) => ROUTABLE_CID_LEN,
        }
    }
}

/// Reads the connection IDs of a node, as they are until the next reload.
#[derive(Clone, Debug)]
pub enum CidReader {
    /// Of 8 bytes.
    Masked(CidKey),
    /// Of 17 bytes.
    Routable(RoutableReader),
}

/// Reads connection IDs of 17 bytes by these keys, and remembers the last one: packets of a connection often arrive one after another, and each would be
/// decrypted.
#[derive(Clone, Debug)]
pub struct RoutableReader {
    keys: Arc<FleetKeys>,
    /// Zeros are no ID of this form.
    last: RoutableCid,
    last_place: Option<(ServerId, u16)>,
}

impl RoutableReader {
    fn new(keys: Arc<FleetKeys>) -> Self {
        Self { keys, last: [0; ROUTABLE_CID_LEN], last_place: None }
    }

    /// See [`FleetKeys::place`].
    #[inline]
    fn place(&mut self, cid: &RoutableCid) -> Option<(ServerId, u16)> {
        if self.last != *cid {
            (self.last, self.last_place) = (*cid, self.keys.place(cid));
        }
        self.last_place
    }

    /// See [`FleetKeys::worker`].
    #[inline]
    fn worker(&mut self, cid: &RoutableCid) -> Option<u16> {
        let (server_id, worker) = self.place(cid)?;
        (server_id == self.keys.server_id()).then_some(worker)
    }
}

impl CidReader {
    /// The worker, below `workers`, that must see this datagram. `None` if any worker will do: for connection
    /// IDs that no worker here issued, such as a client's choice for its first packets.
    #[inline]
    pub fn owner(&mut self, datagram: &[u8], workers: usize) -> Option<u16> {
        let worker = match self {
            Self::Masked(key) => key.worker(issued_id(datagram)?),
            Self::Routable(reader) => reader.worker(issued_id(datagram)?)?,
        };
        (usize::from(worker) < workers).then_some(worker)
    }
}

impl CidReader {
    /// The gateway that issued the connection ID of a datagram, and the ID, if that is another one than this. It may be none of the fleet:
    /// the ID that a client chose for its first packets can look like any.
    pub fn elsewhere<'a>(&mut self, datagram: &'a [u8]) -> Option<(ServerId, &'a RoutableCid)> {
        let Self::Routable(reader) = self else { return None };
        let cid = issued_id(datagram)?;
        let (server_id, _) = reader.place(cid)?;
        (server_id != reader.keys.server_id()).then_some((server_id, cid))
    }

    /// The stateless reset token that another gateway gave to its peer with this connection ID.
    pub fn reset_of(&self, server_id: ServerId, cid: &RoutableCid) -> Option<[u8; RESET_TOKEN_LEN]> {
        match self {
            Self::Masked(_) => None,
            Self::Routable(reader) => reader.keys.reset_of(server_id, cid),
        }
    }
}

/// The connection ID of a datagram, of this length, if its receiver has issued it.
#[inline]
fn issued_id<const LEN: usize>(datagram: &[u8]) -> Option<&[u8; LEN]> {
    let rest = match *datagram.first()? {
        // RFC 9000 §17.3: short header, then the destination connection ID without a length.
        first if first & 0x80 == 0 => datagram.get(1..)?,
        // RFC 9000 §17.2: Handshake packets, a server's packets, and Initial packets after the server's
        // answer carry a connection ID that their receiver issued. 0-RTT packets carry the client's
        // choice.
        first if first & 0x30 != 0x10 && datagram.get(5) == Some(&(LEN as u8)) => datagram.get(6..)?,
        _ => return None,
    };
    rest.first_chunk()
}

/// Issues one worker's connection IDs to its quinn-proto endpoint.
#[derive(Debug)]
pub struct WorkerCids {
    node: NodeCids,
    /// The worker's own index, but for a Retry packet that sends a client to another worker.
    named: Arc<AtomicU16>,
}

impl WorkerCids {
    /// The connection IDs of the worker whose index `named` holds, whenever one is issued.
    ///
    /// # Panics
    /// When the index is not below [`WORKERS_MAX`].
    pub fn new(node: NodeCids, named: Arc<AtomicU16>) -> Self {
        assert!(usize::from(named.load(Relaxed)) < WORKERS_MAX);
        Self { node, named }
    }
}

impl ConnectionIdGenerator for WorkerCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let worker = self.named.load(Relaxed);
        match &self.node {
            NodeCids::Masked(key) => ConnectionId::new(&key.issue(worker, rand::rng().random())),
            NodeCids::Routable(ring) => ConnectionId::new(&ring.now().issue(worker)),
        }
    }

    /// QUIC answers packets that pass with a stateless reset: those with IDs that this process or an earlier one of this node issued. Of
    /// foreign IDs of 8 bytes one in 64 passes, of 17 bytes one in 2^30.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let is_own = match &self.node {
            // The number of workers is not the bound: an earlier process may have had more.
            NodeCids::Masked(key) => <&[u8; CID_LEN]>::try_from(&cid[..])
                .is_ok_and(|cid| usize::from(key.worker(cid)) < WORKERS_MAX),
            NodeCids::Routable(ring) => ring.now().has_issued(cid),
        };
        if is_own { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        self.node.len()
    }

    /// In a fleet IDs end, so that a rotation can: long connections would have its IDs for weeks.
    fn cid_lifetime(&self) -> Option<Duration> {
        match &self.node {
            NodeCids::Masked(_) => None,
            NodeCids::Routable(_) => Some(Duration::from_secs(CID_LIFETIME_S)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet_settings::{
        CidRotation, FleetSecret, FleetSettings, RotationSalt, RotationState,
    };
    use super::*;
    use proptest::prelude::*;

    fn reader(key: &CidKey) -> CidReader {
        NodeCids::Masked(key.clone()).reader()
    }

    proptest! {
        #[test]
        fn a_connection_id_names_its_worker_in_short_and_handshake_headers(worker in 0u16..1024, first in 0u8..0x80) {
            let key = CidKey::random();
            let cid = WorkerCids::new(NodeCids::Masked(key.clone()), Arc::new(worker.into())).generate_cid();
            let mut short = vec![first];
            short.extend_from_slice(&cid);
            short.extend_from_slice(&[0; 30]);
            prop_assert_eq!(reader(&key).owner(&short, 1024), Some(worker));

            let mut handshake = vec![0xe0, 0, 0, 0, 1, CID_LEN as u8];
            handshake.extend_from_slice(&cid);
            prop_assert_eq!(reader(&key).owner(&handshake, 1024), Some(worker));
        }

        #[test]
        fn any_bytes_name_a_worker_that_exists_or_none(datagram in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = CidKey::random();
            prop_assert!(reader(&key).owner(&datagram, 3).is_none_or(|w| w < 3));
        }
    }

    #[test]
    fn connection_ids_of_this_key_are_valid_and_few_others_are() {
        let cids = |key: &CidKey, worker: u16| {
            WorkerCids::new(NodeCids::Masked(key.clone()), Arc::new(worker.into()))
        };
        let key = CidKey::random();
        let mut last = cids(&key, WORKERS_MAX as u16 - 1);
        assert!((0..1000).all(|_| cids(&key, 0).validate(&last.generate_cid()).is_ok()));
        let mut strange = cids(&CidKey::random(), 0);
        let passed = (0..6400).filter(|_| last.validate(&strange.generate_cid()).is_ok()).count();
        assert!((20..300).contains(&passed), "{passed} of 6400 pass; one of 64 is expected to");
    }

    #[test]
    fn what_is_remembered_of_an_id_is_said_of_no_other_one_and_by_no_other_keys() {
        let fleet = |server_id, rotations: &[u8], issuing| {
            let rotation = |&number| CidRotation {
                number,
                salt: RotationSalt([number; 16]),
                state: if number == issuing { RotationState::Issue } else { RotationState::Accept },
            };
            let secret = FleetSecret::new(zeroize::Zeroizing::new([1; 32]));
            let rotations = rotations.iter().map(rotation).collect();
            FleetSettings::new(secret, ServerId([0, 0, server_id]), rotations).unwrap()
        };
        let packet = |cid: &[u8]| [&[0x40], cid, &[0; 30]].concat();
        let ring = FleetRing::new(&fleet(1, &[0, 1], 0));
        let node = NodeCids::Routable(ring.clone());
        let (own, other) = (packet(&ring.now().issue(1)), packet(&ring.now().issue(2)));
        let elsewhere = packet(&FleetKeys::new(&fleet(2, &[0], 0)).issue(1));
        let of_next_rotation = packet(&FleetKeys::new(&fleet(1, &[1], 1)).issue(3));
        let unknown = packet(&FleetKeys::new(&fleet(1, &[2], 2)).issue(1));
        let mut reader = node.reader();
        for _ in 0..2 {
            for _ in 0..2 {
                assert_eq!(reader.owner(&own, 8), Some(1));
            }
            assert_eq!(reader.owner(&other, 8), Some(2));
            assert_eq!(reader.owner(&other, 2), None, "of a former process with more workers");
            for _ in 0..2 {
                assert_eq!(reader.owner(&elsewhere, 8), None);
                assert_eq!(reader.elsewhere(&elsewhere).map(|(id, _)| id), Some(ServerId([0, 0, 2])));
                assert_eq!(reader.elsewhere(&own), None);
            }
            for _ in 0..2 {
                assert_eq!((reader.owner(&unknown, 8), reader.elsewhere(&unknown)), (None, None));
                assert_eq!(reader.owner(&packet(&[0; 17]), 8), None);
            }
            assert_eq!(reader.owner(&of_next_rotation, 8), Some(3));
        }
        // The last octet differs alone, and the first one.
        for at in [1, ROUTABLE_CID_LEN] {
            let mut near = own.clone();
            near[at] ^= if at == 1 { 0x20 } else { 1 };
            assert_eq!(reader.owner(&own, 8), Some(1));
            let mut fresh = node.reader();
            assert_eq!(reader.elsewhere(&near), fresh.elsewhere(&near));
        }
        assert_eq!(reader.owner(&own, 8), Some(1));
        ring.renew(&fleet(1, &[1], 1));
        let mut renewed = node.reader();
        assert_eq!(renewed.owner(&own, 8), None, "its rotation is removed");
        assert_eq!(renewed.owner(&of_next_rotation, 8), Some(3));
    }

    #[test]
    fn initial_packets_with_the_clients_own_choice_stay_where_they_arrived() {
        let key = CidKey::random();
        let mut initial = vec![0xc0, 0, 0, 0, 1, 20];
        initial.extend_from_slice(&[7; 20]);
        assert_eq!(reader(&key).owner(&initial, 2), None);
    }

    #[test]
    fn answers_to_a_clients_first_packets_find_the_worker_that_sent_those() {
        let key = CidKey::random();
        for first in [0xc0, 0xe0, 0xf0] {
            let mut answer = vec![first, 0, 0, 0, 1, CID_LEN as u8];
            answer.extend_from_slice(&key.issue(1, [7; 6]));
            assert_eq!(reader(&key).owner(&answer, 2), Some(1));
        }
    }

    #[test]
    fn the_worker_does_not_show_in_the_bytes() {
        let key = CidKey::random();
        let tails: std::collections::HashSet<[u8; 2]> =
            (0..64u8).map(|n| key.issue(5, [n; 6])[NONCE_LEN..].try_into().unwrap()).collect();
        assert!(tails.len() > 32, "64 connection IDs of one worker end in {} tails", tails.len());
    }
}
