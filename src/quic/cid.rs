//! Connection IDs that name the worker that issued them.
//!
//! A connection ID is 8 bytes: 6 random ones, then the worker's index under a mask. SipHash makes the mask of
//! the random bytes and of a key that all workers of the process share. Any worker can tell the owner of a
//! datagram, and an observer cannot tell which connection IDs belong together (RFC 9000 §5.1).

use crate::limits::WORKERS_MAX;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{Rng, RngCore};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

/// Bytes of a connection ID.
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

    /// The worker, below `workers`, that must see this datagram. `None` if any worker will do: for connection
    /// IDs that no worker here issued, such as a client's choice for its first packets.
    pub fn owner(&self, datagram: &[u8], workers: usize) -> Option<u16> {
        let cid = match *datagram.first()? {
            // RFC 9000 §17.3: short header, then the destination connection ID without a length.
            first if first & 0x80 == 0 => datagram.get(1..1 + CID_LEN)?,
            // RFC 9000 §17.2: Handshake packets, a server's packets, and Initial packets after the server's
            // answer carry a connection ID that their receiver issued. 0-RTT packets carry the client's
            // choice.
            first if first & 0x30 != 0x10 && datagram.get(5) == Some(&(CID_LEN as u8)) => {
                datagram.get(6..6 + CID_LEN)?
            }
            _ => return None,
        };
        let worker = self.worker(cid.try_into().ok()?);
        (usize::from(worker) < workers).then_some(worker)
    }
}

/// Issues one worker's connection IDs to its quinn-proto endpoint.
#[derive(Debug)]
pub struct WorkerCids {
    key: CidKey,
    /// The worker's own index, but for a Retry packet that sends a client to another worker.
    named: Arc<AtomicU16>,
}

impl WorkerCids {
    /// The connection IDs of the worker whose index `named` holds, whenever one is issued.
    ///
    /// # Panics
    /// When the index is not below [`WORKERS_MAX`].
    pub fn new(key: CidKey, named: Arc<AtomicU16>) -> Self {
        assert!(usize::from(named.load(Relaxed)) < WORKERS_MAX);
        Self { key, named }
    }
}

impl ConnectionIdGenerator for WorkerCids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.key.issue(self.named.load(Relaxed), rand::rng().random()))
    }

    /// One in 64 foreign connection IDs passes, and every one that an earlier process of this node issued.
    /// QUIC answers packets that pass with a stateless reset.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let cid = <&[u8; CID_LEN]>::try_from(&cid[..]).map_err(|_| InvalidCid)?;
        // The number of workers is not the bound: an earlier process may have had more.
        if usize::from(self.key.worker(cid)) < WORKERS_MAX { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_connection_id_names_its_worker_in_short_and_handshake_headers(worker in 0u16..1024, first in 0u8..0x80) {
            let key = CidKey::random();
            let cid = WorkerCids::new(key.clone(), Arc::new(worker.into())).generate_cid();
            let mut short = vec![first];
            short.extend_from_slice(&cid);
            short.extend_from_slice(&[0; 30]);
            prop_assert_eq!(key.owner(&short, 1024), Some(worker));

            let mut handshake = vec![0xe0, 0, 0, 0, 1, CID_LEN as u8];
            handshake.extend_from_slice(&cid);
            prop_assert_eq!(key.owner(&handshake, 1024), Some(worker));
        }

        #[test]
        fn any_bytes_name_a_worker_that_exists_or_none(datagram in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = CidKey::random();
            prop_assert!(key.owner(&datagram, 3).is_none_or(|w| w < 3));
        }
    }

    #[test]
    fn connection_ids_of_this_key_are_valid_and_few_others_are() {
        let cids = |key: &CidKey, worker: u16| WorkerCids::new(key.clone(), Arc::new(worker.into()));
        let key = CidKey::random();
        let mut last = cids(&key, WORKERS_MAX as u16 - 1);
        assert!((0..1000).all(|_| cids(&key, 0).validate(&last.generate_cid()).is_ok()));
        let mut strange = cids(&CidKey::random(), 0);
        let passed = (0..6400).filter(|_| last.validate(&strange.generate_cid()).is_ok()).count();
        assert!((20..300).contains(&passed), "{passed} of 6400 pass; one of 64 is expected to");
    }

    #[test]
    fn initial_packets_with_the_clients_own_choice_stay_where_they_arrived() {
        let key = CidKey::random();
        let mut initial = vec![0xc0, 0, 0, 0, 1, 20];
        initial.extend_from_slice(&[7; 20]);
        assert_eq!(key.owner(&initial, 2), None);
    }

    #[test]
    fn answers_to_a_clients_first_packets_find_the_worker_that_sent_those() {
        let key = CidKey::random();
        for first in [0xc0, 0xe0, 0xf0] {
            let mut answer = vec![first, 0, 0, 0, 1, CID_LEN as u8];
            answer.extend_from_slice(&key.issue(1, [7; 6]));
            assert_eq!(key.owner(&answer, 2), Some(1));
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
