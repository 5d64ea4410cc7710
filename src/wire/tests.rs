//! Known frames in, fields out; random bytes in, an error out.

use super::*;
use crate::nic::TxKind;
use checksum::Sum;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use udp::{Udp, UdpTemplate};

const OURS: Mac = [0x02, 0, 0, 0, 0, 0x01];
const THEIRS: Mac = [0x02, 0, 0, 0, 0, 0x02];
const V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// A parsed frame, a datagram's parts included.
#[derive(Debug, PartialEq, Eq)]
enum Received<'a> {
    Udp { source: SocketAddr, destination: IpAddr, ecn: u8, payload: &'a [u8] },
    Control(ControlFrame<'a>),
}

impl Station {
    fn receive<'a>(&self, frame: &'a [u8], checksum: RxChecksum) -> Result<Received<'a>, WireError> {
        let mut datagram = None;
        let control = self.parse(frame, checksum, |source, destination, ecn, payload| {
            datagram = Some(Received::Udp { source, destination, ecn, payload });
        })?;
        Ok(control.map(Received::Control).or(datagram).expect("either is shown"))
    }
}

fn station() -> Station {
    Station { mac: OURS, vlan: None, addresses: vec![V4.into(), V6.into()], udp_port: 4433, takes_gue: false }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.chars().filter(|c| !c.is_whitespace()).collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

/// 10.77.0.2:50000 to 10.77.0.1:4433, ECT(0), "hello", padded to 60 bytes. Checksums by another program.
const UDP_V4: &str = "020000000001 020000000002 0800
    4502 0021 0000 4000 4011 262e 0a4d0002 0a4d0001
    c350 1151 000d d2c3 68656c6c6f
    00000000 00000000 000000";

/// fd00::2 port 50000 to fd00::1 port 4433, CE, "hello".
const UDP_V6: &str = "020000000001 020000000002 86dd
    60300000 000d 11 40
    fd000000000000000000000000000002 fd000000000000000000000000000001
    c350 1151 000d ed5b 68656c6c6f";

const ARP_REQUEST: &str = "ffffffffffff 020000000002 0806
    0001 0800 06 04 0001 020000000002 0a4d0002 000000000000 0a4d0001";

const ECHO_V4: &str = "020000000001 020000000002 0800
    4500 0020 1234 0000 4001 540d 0a4d0002 0a4d0001
    0800 3234 0102 0003 61626364";

fn parse(hex: &str) -> Result<(), WireError> {
    station().receive(&bytes(hex), RxChecksum::Unknown).map(|_| ())
}

/// The frame with the bytes from `at` on replaced, and the IPv4 header checksum made right again.
fn altered(hex: &str, at: usize, with: &[u8]) -> Vec<u8> {
    let mut frame = bytes(hex);
    frame[at..at + with.len()].copy_from_slice(with);
    if frame[12..14] == [0x08, 0x00] {
        let header_end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
        frame[24..26].fill(0);
        let checksum = Sum::default().bytes(&frame[14..header_end]).checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

fn error_of(frame: &[u8]) -> WireError {
    station().receive(frame, RxChecksum::Unknown).unwrap_err()
}

#[test]
fn a_udp_datagram_over_ipv4_gives_its_fields() {
    let frame = bytes(UDP_V4);
    let received = station().receive(&frame, RxChecksum::Unknown).unwrap();
    assert_eq!(
        received,
        Received::Udp {
            source: "10.77.0.2:50000".parse().unwrap(),
            destination: V4.into(),
            ecn: 0b10,
            payload: b"hello"
        }
    );
}

#[test]
fn a_udp_datagram_over_ipv6_gives_its_fields() {
    let frame = bytes(UDP_V6);
    let received = station().receive(&frame, RxChecksum::Unknown).unwrap();
    assert_eq!(
        received,
        Received::Udp {
            source: "[fd00::2]:50000".parse().unwrap(),
            destination: V6.into(),
            ecn: 0b11,
            payload: b"hello"
        }
    );
}

#[test]
fn udp_behind_ipv4_options_is_taken() {
    let mut frame = altered(UDP_V4, 14, &[0x46]);
    frame[17] += 4;
    frame.splice(34..34, [1, 1, 1, 0]);
    let frame = altered(&data_encoding::HEXLOWER.encode(&frame), 14, &[0x46]);
    assert!(matches!(
        station().receive(&frame, RxChecksum::Unknown),
        Ok(Received::Udp { payload: b"hello", .. })
    ));
}

#[test]
fn an_arp_request_gives_its_fields() {
    let frame = bytes(ARP_REQUEST);
    let arp = Arp {
        reply: false,
        source_mac: THEIRS,
        source: Ipv4Addr::new(10, 77, 0, 2),
        target_mac: [0; 6],
        target: V4,
    };
    assert_eq!(
        station().receive(&frame, RxChecksum::Unknown),
        Ok(Received::Control(ControlFrame::Arp { source_mac: THEIRS, arp }))
    );
    let mut again = [0; arp::PACKET_BYTES];
    arp.emit(&mut again);
    assert_eq!(again, frame[14..]);
}

#[test]
fn an_echo_request_gives_its_fields() {
    let frame = bytes(ECHO_V4);
    let echo = IcmpEcho { reply: false, identifier: 0x0102, sequence: 3, data: b"abcd" };
    let addresses = Addresses::V4 { source: Ipv4Addr::new(10, 77, 0, 2), destination: V4 };
    assert_eq!(
        station().receive(&frame, RxChecksum::Unknown),
        Ok(Received::Control(ControlFrame::EchoRequest {
            source_mac: THEIRS,
            destination_mac: OURS,
            addresses,
            echo
        }))
    );
}

#[test]
fn a_frame_shorter_than_its_headers_is_malformed() {
    for hex in [UDP_V4, UDP_V6, ARP_REQUEST, ECHO_V4] {
        let frame = bytes(hex);
        let used = if hex == UDP_V4 { 47 } else { frame.len() };
        for len in 0..used {
            assert_eq!(error_of(&frame[..len]), WireError::Malformed, "{len} bytes of {hex}");
        }
    }
}

#[test]
fn headers_that_contradict_each_other_are_malformed() {
    assert_eq!(error_of(&altered(UDP_V4, 14, &[0x55])), WireError::Malformed);
    assert_eq!(error_of(&altered(UDP_V4, 14, &[0x44])), WireError::Malformed);
    assert_eq!(error_of(&altered(UDP_V4, 38, &[0, 7])), WireError::Malformed);
    assert_eq!(error_of(&altered(UDP_V4, 38, &[0, 14])), WireError::Malformed);
    assert_eq!(error_of(&altered(UDP_V4, 26, &[224, 0, 0, 1])), WireError::Malformed);
}

#[test]
fn frames_for_others_are_foreign() {
    assert_eq!(error_of(&altered(UDP_V4, 0, &THEIRS)), WireError::Foreign);
    assert_eq!(error_of(&altered(UDP_V4, 33, &[9])), WireError::Foreign);
    assert_eq!(error_of(&altered(UDP_V6, 53, &[9])), WireError::Foreign);
    assert_eq!(error_of(&altered(UDP_V4, 0, &[0x33, 0x33, 0xff, 0, 0, 9])), WireError::Foreign);
}

#[test]
fn fragments_are_refused() {
    assert_eq!(error_of(&altered(UDP_V4, 20, &[0x20, 0])), WireError::Fragment);
    assert_eq!(error_of(&altered(UDP_V4, 20, &[0, 1])), WireError::Fragment);
    assert_eq!(error_of(&altered(UDP_V6, 20, &[44])), WireError::Fragment);
}

#[test]
fn protocols_that_nothing_speaks_are_unwanted() {
    assert_eq!(error_of(&altered(UDP_V4, 12, &[0x88, 0xcc])), WireError::Unwanted);
    assert_eq!(error_of(&altered(UDP_V4, 23, &[6])), WireError::Unwanted);
    assert_eq!(error_of(&altered(UDP_V6, 20, &[0])), WireError::Unwanted);
}

#[test]
fn a_closed_port_is_told_from_the_open_one() {
    let mut other = station();
    other.udp_port = 4434;
    assert_eq!(other.receive(&bytes(UDP_V4), RxChecksum::Unknown), Err(WireError::Port));
}

#[test]
fn a_wrong_checksum_is_refused_unless_the_device_vouches_for_it() {
    let mut frame = bytes(UDP_V6);
    frame[66] ^= 1;
    assert_eq!(error_of(&frame), WireError::Checksum);
    assert!(station().receive(&frame, RxChecksum::Good).is_ok());
    let mut frame = bytes(UDP_V4);
    frame[22] -= 1;
    assert_eq!(error_of(&frame), WireError::Checksum);
    let mut frame = bytes(ECHO_V4);
    frame[43] ^= 1;
    assert_eq!(station().receive(&frame, RxChecksum::Good), Err(WireError::Checksum));
    assert_eq!(station().receive(&bytes(UDP_V4), RxChecksum::Bad), Err(WireError::Checksum));
}

#[test]
fn no_checksum_at_all_is_fine_over_ipv4_only() {
    assert!(station().receive(&altered(UDP_V4, 40, &[0, 0]), RxChecksum::Unknown).is_ok());
    assert_eq!(error_of(&altered(UDP_V6, 60, &[0, 0])), WireError::Malformed);
    assert_eq!(error_of(&altered(UDP_V4, 40, &[0, 1])), WireError::Checksum);
}

#[test]
fn only_the_configured_vlan_is_taken() {
    let mut tagged = bytes(UDP_V4);
    tagged.splice(12..12, [0x81, 0x00, 0x60, 0x07]);
    assert_eq!(error_of(&tagged), WireError::Foreign);
    let mut member = station();
    member.vlan = Some(7);
    assert!(member.receive(&tagged, RxChecksum::Unknown).is_ok());
    assert_eq!(member.receive(&bytes(UDP_V4), RxChecksum::Unknown), Err(WireError::Foreign));
    // A tag without a VLAN carries a priority only.
    tagged[15] = 0;
    assert!(station().receive(&tagged, RxChecksum::Unknown).is_ok());
}

#[test]
fn a_solicitation_from_beyond_a_router_is_malformed() {
    let source = "fd00::2".parse().unwrap();
    let addresses = Addresses::V6 { source, destination: ndp::solicited_node(V6) };
    let solicit = Ndp::Solicit { target: V6, source_mac: Some(THEIRS) };
    let mut message = vec![0; solicit.encoded_len()];
    solicit.emit(&addresses, &mut message);
    let mut ip = Ip::outgoing(addresses, IpProtocol::Icmpv6);
    assert_eq!(Ndp::parse(&ip, &message), Err(WireError::Malformed));
    ip.hop_limit = ndp::NDP_HOP_LIMIT;
    assert_eq!(Ndp::parse(&ip, &message), Ok(solicit));
}

#[test]
fn the_link_local_address_is_the_stations_own_with_the_local_bit_turned() {
    assert_eq!(ndp::link_local([0x00, 0x1b, 0x21, 0xaa, 0xbb, 0xcc]).to_string(), "fe80::21b:21ff:feaa:bbcc");
    assert_eq!(ndp::solicited_node(V6).to_string(), "ff02::1:ff00:1");
}

#[test]
fn every_hand_written_frame_is_taken() {
    for hex in [UDP_V4, UDP_V6, ARP_REQUEST, ECHO_V4] {
        assert_eq!(parse(hex), Ok(()), "{hex}");
    }
}

fn any_addresses() -> impl Strategy<Value = (Addresses, Udp)> {
    let ports = (1u16.., any::<u16>())
        .prop_map(|(source_port, destination_port)| Udp { source_port, destination_port });
    let v4 = (1u32..0x7f00_0000, any::<u32>())
        .prop_map(|(s, d)| Addresses::V4 { source: s.into(), destination: d.into() });
    let v6 = (2u128..0xff << 120, any::<u128>())
        .prop_map(|(s, d)| Addresses::V6 { source: s.into(), destination: d.into() });
    (prop_oneof![v4, v6], ports)
}

proptest! {
    #[test]
    fn random_bytes_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = station().receive(&frame, RxChecksum::Unknown);
        let _ = station().receive(&frame, RxChecksum::Good);
        let _ = Arp::parse(&frame);
        for addresses in [
            Addresses::V4 { source: V4, destination: V4 },
            Addresses::V6 { source: V6, destination: V6 },
        ] {
            let _ = IcmpEcho::parse(&addresses, &frame);
            let _ = Udp::parse(&addresses, &frame, ChecksumBy::Device);
        }
    }

    #[test]
    fn random_changes_to_known_frames_never_panic(
        which in 0usize..4, changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut: u16,
    ) {
        let mut frame = bytes([UDP_V4, UDP_V6, ARP_REQUEST, ECHO_V4][which]);
        for (at, to) in changes {
            let at = usize::from(at) % frame.len();
            frame[at] = to;
        }
        frame.truncate(usize::from(cut) % 120);
        let _ = station().receive(&frame, RxChecksum::Good);
    }

    #[test]
    fn random_icmpv6_with_a_right_checksum_never_panics(
        mut message in proptest::collection::vec(any::<u8>(), 4..120),
        kind in prop_oneof![Just(128u8), Just(129), Just(135), Just(136)], code in 0u8..2,
    ) {
        let addresses = Addresses::V6 { source: "fd00::2".parse().unwrap(), destination: V6 };
        message[0] = kind;
        message[1] = code;
        icmp::fill_checksum(&addresses, &mut message);
        let ip = Ip { hop_limit: 255, ..Ip::outgoing(addresses, IpProtocol::Icmpv6) };
        let _ = Ndp::parse(&ip, &message);
        let _ = IcmpEcho::parse(&addresses, &message);
    }

    #[test]
    fn a_datagram_written_is_the_datagram_read(
        (addresses, ports) in any_addresses(), vlan in proptest::option::of(1u16..4095),
        ecn in 0u8..4, payload in proptest::collection::vec(any::<u8>(), 0..1500), left_out: bool,
    ) {
        let template = UdpTemplate::new(THEIRS, OURS, vlan, addresses, ports);
        let template = if left_out { template.without_udp_checksum() } else { template };
        let mut frame = vec![0xee; template.header_len() + payload.len()];
        template.emit(ecn, &payload, ChecksumBy::Software, &mut frame);
        let host = Station {
            mac: OURS, vlan, addresses: vec![addresses.destination()], udp_port: ports.destination_port,
            takes_gue: false,
        };
        prop_assert_eq!(
            host.receive(&frame, RxChecksum::Unknown),
            Ok(Received::Udp {
                source: SocketAddr::new(addresses.source(), ports.source_port),
                destination: addresses.destination(), ecn, payload: &payload,
            })
        );
        let (ethernet, _) = Ethernet::parse(&frame).unwrap();
        prop_assert_eq!(ethernet.source, THEIRS);
        let mut again = vec![0; frame.len()];
        let other = Udp { source_port: !ports.source_port, ..ports };
        let other = UdpTemplate::new(THEIRS, OURS, vlan, addresses, other);
        let other = if left_out { other.without_udp_checksum() } else { other };
        other.from_port(ports.source_port).emit(ecn, &payload, ChecksumBy::Software, &mut again);
        prop_assert_eq!(&again, &frame);
        prop_assert_eq!(template.kind(ChecksumBy::Software), TxKind::Plain);
        let checksum = &frame[template.header_len() - 2..template.header_len()];
        prop_assert_eq!(checksum == [0, 0], left_out && matches!(addresses, Addresses::V4 { .. }));
    }

    #[test]
    fn a_device_that_fills_in_checksums_gets_the_pseudo_header_sum(
        (addresses, ports) in any_addresses(), payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let template = UdpTemplate::new(THEIRS, OURS, None, addresses, ports);
        let mut frame = vec![0xee; template.header_len() + payload.len()];
        template.emit(1, &payload, ChecksumBy::Device, &mut frame);
        let udp_at = template.header_len() - udp::HEADER_BYTES;
        let udp_len = (frame.len() - udp_at) as u16;
        let found = u16::from_be_bytes([frame[udp_at + 6], frame[udp_at + 7]]);
        let expected = addresses.pseudo_sum(IpProtocol::Udp).word(udp_len).fold();
        // Zero and 0xffff are the same number in one's complement.
        prop_assert_eq!(found % 0xffff, expected % 0xffff);
        if let TxKind::UdpV4 { l2_len } = template.kind(ChecksumBy::Device) {
            let at = usize::from(l2_len) + 10;
            prop_assert_eq!(&frame[at..at + 2], &[0, 0]);
        }
    }

    #[test]
    fn echoes_and_neighbor_messages_read_back(
        data in proptest::collection::vec(any::<u8>(), 0..300), reply: bool, target in 1u128..0xff << 120,
        mac in proptest::option::of(any::<Mac>()), flags: (bool, bool, bool),
    ) {
        let v6 = Addresses::V6 { source: "fd00::2".parse().unwrap(), destination: V6 };
        let v4 = Addresses::V4 { source: Ipv4Addr::new(10, 77, 0, 2), destination: V4 };
        let echo = IcmpEcho { reply, identifier: 1, sequence: 2, data: &data };
        for addresses in [v4, v6] {
            let mut out = vec![0xee; echo.encoded_len()];
            echo.emit(&addresses, &mut out);
            prop_assert_eq!(IcmpEcho::parse(&addresses, &out), Ok(echo));
        }
        let target = Ipv6Addr::from(target);
        let (router, solicited, overrides) = flags;
        let ip = Ip { hop_limit: 255, ..Ip::outgoing(v6, IpProtocol::Icmpv6) };
        for message in [
            Ndp::Solicit { target, source_mac: mac },
            Ndp::Advertise { target, target_mac: mac, router, solicited, overrides },
        ] {
            let mut out = vec![0xee; message.encoded_len()];
            message.emit(&v6, &mut out);
            prop_assert_eq!(Ndp::parse(&ip, &out), Ok(message));
        }
    }
}
