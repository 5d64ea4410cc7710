//! Receive-side scaling: the queue that a device chooses for a frame, computed as the device computes it.
//!
//! The hash is Toeplitz's over addresses and UDP ports, as Microsoft's "RSS hashing types" describes it and NICs have it. The key is drawn
//! anew at each start: a peer that does not know it cannot aim its connections at one worker.

use crate::wire::ChecksumBy;
use crate::wire::ethernet::Ethernet;
use crate::wire::ip::{Addresses, Ip};
use smoltcp::wire::{EthernetProtocol, IpProtocol};
use std::fmt;

/// Bytes of a key: of the longest that drivers ask for. The hash uses the first 40.
pub const RSS_KEY_BYTES: usize = 52;
/// Entries of the table from hashes to queues where no device has one.
pub const RSS_TABLE_LEN: u16 = 128;
/// Bytes of what is hashed for IPv6: two addresses and two ports.
const INPUT_BYTES_MAX: usize = 16 + 16 + 2 + 2;

/// The key of the hash.
#[derive(Clone, PartialEq, Eq)]
pub struct RssKey([u8; RSS_KEY_BYTES]);

impl RssKey {
    /// A key that no peer knows.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Microsoft's key for the verification of the hash, which the simulated link uses: tests predict its queues.
    pub const fn known() -> Self {
        let mut key = [0; RSS_KEY_BYTES];
        let known = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
            0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let mut at = 0;
        while at < known.len() {
            key[at] = known[at];
            at += 1;
        }
        Self(key)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; RSS_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for RssKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RssKey(..)")
    }
}

/// The hash by one key, and the table behind it: entry `i` names queue `i` modulo the number of queues.
#[derive(Clone)]
pub struct Rss {
    /// What each value of each half of an input's byte adds to the hash.
    terms: Box<[[u32; 16]; 2 * INPUT_BYTES_MAX]>,
    table_len: u32,
}

impl fmt::Debug for Rss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rss").field("table_len", &self.table_len).finish_non_exhaustive()
    }
}

impl Rss {
    /// The hash by `key`, with a table of `table_len` entries.
    pub fn new(key: &RssKey, table_len: u16) -> Self {
        let mut terms = Box::new([[0; 16]; 2 * INPUT_BYTES_MAX]);
        for (half, terms) in terms.iter_mut().enumerate() {
            for (value, term) in terms.iter_mut().enumerate() {
                let set = (0..4).filter(|bit| value & (8 >> bit) != 0);
                *term = set.fold(0, |sum, bit| sum ^ window(key, 4 * half + bit));
            }
        }
        Self { terms, table_len: table_len.max(1).into() }
    }

    /// The hash of a UDP datagram's frame; `None` for other frames, which have no flow.
    pub fn hash(&self, frame: &[u8]) -> Option<u32> {
        let (ethernet, payload) = Ethernet::parse(frame).ok()?;
        let (ip, payload) = match ethernet.protocol {
            EthernetProtocol::Ipv4 => Ip::parse_v4(payload, ChecksumBy::Device).ok()?,
            EthernetProtocol::Ipv6 => Ip::parse_v6(payload).ok()?,
            _ => return None,
        };
        let ports = payload.first_chunk::<4>().filter(|_| ip.protocol == IpProtocol::Udp)?;
        let mut input = [0; INPUT_BYTES_MAX];
        let len = match ip.addresses {
            Addresses::V4 { source, destination } => {
                input[..4].copy_from_slice(&source.octets());
                input[4..8].copy_from_slice(&destination.octets());
                8
            }
            Addresses::V6 { source, destination } => {
                input[..16].copy_from_slice(&source.octets());
                input[16..32].copy_from_slice(&destination.octets());
                32
            }
        };
        input[len..len + 4].copy_from_slice(ports);
        Some(self.hash_of(&input[..len + 4]))
    }

    /// The queue of a UDP datagram's frame among `queues`; `None` for other frames.
    pub fn queue(&self, frame: &[u8], queues: usize) -> Option<usize> {
        Some((self.hash(frame)? % self.table_len) as usize % queues)
    }

    fn hash_of(&self, input: &[u8]) -> u32 {
        input.iter().zip(self.terms.chunks_exact(2)).fold(0, |sum, (&byte, terms)| {
            sum ^ terms[0][usize::from(byte >> 4)] ^ terms[1][usize::from(byte & 15)]
        })
    }
}

/// The 32 bits of the key from `bit` on.
fn window(key: &RssKey, bit: usize) -> u32 {
    (bit..bit + 32).fold(0, |bits, at| bits << 1 | u32::from(key.0[at / 8] >> (7 - at % 8) & 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HOP_LIMIT;
    use std::net::IpAddr;

    /// Microsoft, "Verifying the RSS hash calculation": destination, source, the hash of the addresses, and of addresses and ports.
    const VECTORS: [(&str, u16, &str, u16, u32, u32); 8] = [
        ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e_8fc2, 0x51cc_c178),
        ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718_262a, 0xc626_b0ea),
        ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0_a5de, 0x5c2b_394a),
        ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x8298_9176, 0xafc7_327f),
        ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d18_09c5, 0x10e8_28a2),
        ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc1_8cd5, 0x4020_7d3d),
        ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c_461c, 0xdde5_1bbf),
        (
            "fe80::200:f8ff:fe21:67cf",
            38024,
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    fn frame(
        source: IpAddr,
        destination: IpAddr,
        ports: (u16, u16),
        vlan: Option<u16>,
        protocol: IpProtocol,
    ) -> Vec<u8> {
        let addresses = Addresses::new(source, destination).unwrap();
        let ethernet =
            Ethernet { destination: [2; 6], source: [4; 6], vlan, protocol: addresses.ethernet_protocol() };
        let ip = Ip { hop_limit: HOP_LIMIT, ..Ip::outgoing(addresses, protocol) };
        let (l2, l3) = (ethernet.encoded_len(), ip.encoded_len());
        let mut frame = vec![0; l2 + l3 + 8];
        ethernet.emit(&mut frame);
        ip.emit(8, &mut frame[l2..]);
        frame[l2 + l3..l2 + l3 + 2].copy_from_slice(&ports.0.to_be_bytes());
        frame[l2 + l3 + 2..l2 + l3 + 4].copy_from_slice(&ports.1.to_be_bytes());
        frame
    }

    #[test]
    fn the_hash_is_that_of_microsofts_verification_suite() {
        let rss = Rss::new(&RssKey::known(), RSS_TABLE_LEN);
        for (destination, to, source, from, of_addresses, of_flow) in VECTORS {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let input = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
                (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
                _ => unreachable!("one family"),
            };
            assert_eq!(rss.hash_of(&input), of_addresses, "{source}");
            for vlan in [None, Some(7)] {
                let frame = frame(source, destination, (from, to), vlan, IpProtocol::Udp);
                assert_eq!(rss.hash(&frame), Some(of_flow), "{source} {vlan:?}");
                assert_eq!(rss.queue(&frame, 3), Some((of_flow % 128 % 3) as usize));
            }
        }
    }

    #[test]
    fn frames_that_are_no_udp_datagrams_have_no_queue() {
        let rss = Rss::new(&RssKey::random(), RSS_TABLE_LEN);
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let udp = frame(a, b, (1, 2), None, IpProtocol::Udp);
        assert!(rss.hash(&udp).is_some());
        assert_eq!(rss.hash(&frame(a, b, (1, 2), None, IpProtocol::Icmp)), None);
        for len in 0..udp.len() - 4 {
            assert_eq!(rss.queue(&udp[..len], 4), None, "{len} bytes");
        }
        let mut arp = udp;
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(rss.hash(&arp), None);
    }

    #[test]
    fn each_start_spreads_flows_in_its_own_way_and_evenly() {
        let place = |rss: &Rss| -> Vec<_> {
            let of =
                |port| frame([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), (port, 4433), None, IpProtocol::Udp);
            (1000..5000).map(|port| rss.queue(&of(port), 4).unwrap()).collect()
        };
        let [one, two] = [(); 2].map(|()| place(&Rss::new(&RssKey::random(), RSS_TABLE_LEN)));
        assert_ne!(one, two);
        let known = place(&Rss::new(&RssKey::known(), RSS_TABLE_LEN));
        for queue in 0..4 {
            let count = known.iter().filter(|&&at| at == queue).count();
            assert!((900..=1100).contains(&count), "{count} of 4000 flows at queue {queue}");
        }
    }
}
