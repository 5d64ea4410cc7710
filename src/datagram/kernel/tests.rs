//! Sockets on the loopback interface.

use super::bind::{make, open_all};
use super::*;
use socket2::{Domain, Socket};
use std::net::UdpSocket;

type Received = (SocketAddr, Option<IpAddr>, Option<EcnCodepoint>, Vec<u8>);

fn bind(address: &str) -> KernelUdp {
    KernelUdp::bind(&[address.parse().unwrap()], KernelUdpConfig::default()).unwrap()
}

fn local(network: &KernelUdp) -> SocketAddr {
    network.info().local[0]
}

fn transmit(to: SocketAddr, segment_size: Option<usize>) -> Transmit {
    Transmit { destination: to, ecn: Some(EcnCodepoint::Ect0), size: 0, segment_size, src_ip: None }
}

fn receive(network: &mut KernelUdp, counters: &Counters, count: usize) -> Vec<Received> {
    let mut received = Vec::new();
    let give_up = Instant::now() + Duration::from_secs(60);
    while received.len() < count && Instant::now() < give_up {
        network.wait(Duration::from_millis(100));
        network.receive(Instant::now(), counters, |datagram| {
            received.push((datagram.remote, datagram.local_ip, datagram.ecn, datagram.payload.to_vec()));
        });
    }
    received
}

#[test]
fn batches_arrive_byte_exact_over_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut a, mut b) = (bind(address), bind(address));
        let counters = Counters::default();
        let now = Instant::now();
        let contents: Vec<u8> = (0..64 * 1200 - 500).map(|i: usize| (i / 3) as u8).collect();
        assert!(a.can_send());
        a.send(now, &counters, &transmit(local(&b), Some(1200)), &contents);
        while a.flush(now, &counters) > 0 {
            a.wait(Duration::from_millis(100));
        }
        let received = receive(&mut b, &counters, 64);
        assert_eq!(received.len(), 64);
        for ((remote, local_ip, ecn, payload), sent) in received.iter().zip(contents.chunks(1200)) {
            assert_eq!((*remote, *local_ip), (local(&a), Some(local(&b).ip())));
            assert_eq!(*ecn, Some(EcnCodepoint::Ect0));
            assert_eq!(payload, sent);
        }
        assert_eq!(counters.get(Counter::TxPackets), 64);
        assert_eq!(counters.get(Counter::RxPackets), 64);
        assert_eq!(counters.get(Counter::RxBytes), contents.len() as u64);
    }
}

#[test]
fn a_socket_on_the_unspecified_ipv6_address_speaks_both_families() {
    let mut server = bind("[::]:0");
    let counters = Counters::default();
    let port = local(&server).port();
    for (client, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
        let mut client = bind(client);
        let to: IpAddr = to.parse().unwrap();
        let now = Instant::now();
        client.send(now, &counters, &transmit(SocketAddr::new(to, port), None), b"question");
        let received = receive(&mut server, &counters, 1);
        let expected = (local(&client), Some(to), Some(EcnCodepoint::Ect0), b"question".to_vec());
        assert_eq!(received, [expected]);
        let answer = Transmit { src_ip: Some(to), ..transmit(local(&client), None) };
        server.send(now, &counters, &answer, b"answer");
        let received = receive(&mut client, &counters, 1);
        assert_eq!(received[0].0, SocketAddr::new(to, port));
        assert_eq!(received[0].2, Some(EcnCodepoint::Ect0));
    }
}

#[test]
fn the_socket_of_the_chosen_source_sends() {
    let addresses = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"].map(|text| text.parse().unwrap());
    let mut network = KernelUdp::bind(&addresses, KernelUdpConfig::default()).unwrap();
    let mut peer = bind("127.0.0.1:0");
    let counters = Counters::default();
    let from =
        |source: &str| Transmit { src_ip: Some(source.parse().unwrap()), ..transmit(local(&peer), None) };
    let (second, unknown) = (from("127.0.0.2"), from("192.0.2.1"));
    network.send(Instant::now(), &counters, &second, b"x");
    network.send(Instant::now(), &counters, &unknown, b"x");
    assert_eq!(receive(&mut peer, &counters, 1)[0].0, network.info().local[1]);
    assert_eq!(counters.get(Counter::DropNoRoute), 1);
}

#[test]
fn a_source_of_the_other_family_leaves_the_choice_to_the_destination() {
    let addresses = ["127.0.0.1:0", "[::1]:0"].map(|text| text.parse().unwrap());
    let mut network = KernelUdp::bind(&addresses, KernelUdpConfig::default()).unwrap();
    let mut peer = bind("[::1]:0");
    let counters = Counters::default();
    let answer = Transmit { src_ip: Some("127.0.0.1".parse().unwrap()), ..transmit(local(&peer), None) };
    network.send(Instant::now(), &counters, &answer, b"x");
    assert_eq!(receive(&mut peer, &counters, 1)[0].0, network.info().local[1]);
}

#[test]
fn several_workers_share_an_address_when_asked_to() {
    let config = KernelUdpConfig { reuse_port: true, ..KernelUdpConfig::default() };
    let first = KernelUdp::bind(&["127.0.0.1:0".parse().unwrap()], config).unwrap();
    assert!(KernelUdp::bind(&[local(&first)], config).is_ok());
    let error = KernelUdp::bind(&[local(&first)], KernelUdpConfig::default()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&local(&first).to_string()));
    assert!(KernelUdp::bind(&[], config).is_err());
}

#[test]
fn a_datagram_larger_than_the_interface_takes_is_dropped_and_counted() {
    let mut network = bind("127.0.0.1:0");
    let counters = Counters::default();
    let to = local(&network);
    network.send(Instant::now(), &counters, &transmit(to, None), &vec![0; 65_508]);
    assert_eq!(counters.get(Counter::DropTooBig), 1);
    assert!(network.can_send());
}

#[test]
fn sends_that_wait_for_the_kernel_are_bounded() {
    let mut network = bind("127.0.0.1:0");
    let counters = Counters::default();
    let destination = local(&network);
    for _ in 0..2 {
        let contents = vec![0; 1000];
        let send = PendingSend {
            socket: 0,
            destination,
            ecn: None,
            src_ip: None,
            segment_size: 1,
            contents,
            sent: 0,
        };
        network.keep(&counters, send);
    }
    assert!(!network.can_send());
    assert_eq!(counters.get(Counter::DropTxStalled), 1000);
    assert_eq!(network.flush(Instant::now(), &counters), 0);
    assert!(network.can_send());
}

#[test]
fn waiting_ends_at_its_limit_when_no_datagram_arrives() {
    let mut network = bind("127.0.0.1:0");
    let start = Instant::now();
    assert!(network.wait(Duration::from_millis(20)));
    assert!(start.elapsed() >= Duration::from_millis(19));
    let buffers = network.buffers();
    assert!(buffers.send_bytes > 0 && buffers.receive_bytes > 0);
}

/// A host that has no IPv6 at all, as with `ipv6.disable=1`, or no IPv4.
fn without(family: Domain) -> impl Fn(Domain) -> io::Result<Socket> {
    move |wanted| {
        if wanted == family { Err(Errno::AFNOSUPPORT.into()) } else { make(wanted) }
    }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_host_with_one_family_opens_that_one_and_reports_the_missing_one() {
    let config = KernelUdpConfig::default();
    for (family, there, missing) in [(Domain::IPV6, "0.0.0.0", "[::]:0"), (Domain::IPV4, "[::]", "0.0.0.0:0")]
    {
        for order in [["0.0.0.0:0", "[::]:0"], ["[::]:0", "0.0.0.0:0"]] {
            let network =
                KernelUdp::of(open_all(&addresses(&order), config, without(family)).unwrap(), config)
                    .unwrap();
            assert_eq!(network.missing(), addresses(&[missing]));
            let local = network.info().local;
            assert!(local.len() == 1 && local[0].to_string().starts_with(there), "{local:?}");
        }
    }
    // [::] on a host without IPv6 is IPv4 alone.
    let alone = addresses(&["[::]:0"]);
    let network = KernelUdp::of(open_all(&alone, config, without(Domain::IPV6)).unwrap(), config).unwrap();
    assert!(network.info().local[0].is_ipv4() && network.missing() == alone);
    // An address that the configuration names must be bound.
    let error =
        open_all(&addresses(&["127.0.0.1:0", "[::1]:0"]), config, without(Domain::IPV6)).err().unwrap();
    assert!(error.to_string().contains("[::1]:0") && error.to_string().contains("no IPv6"), "{error}");
    let none = |_: Domain| -> io::Result<Socket> { Err(Errno::AFNOSUPPORT.into()) };
    assert!(open_all(&addresses(&["0.0.0.0:0", "[::]:0"]), config, none).is_err());
}

#[test]
fn both_wildcards_share_a_port_whichever_comes_first() {
    // Free of both families: [::] takes both.
    let port = local(&bind("[::]:0")).port();
    for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"], ["[::]", "127.0.0.1"], ["[::1]", "127.0.0.1"]] {
        let listen: Vec<_> = order.iter().map(|ip| format!("{ip}:{port}").parse().unwrap()).collect();
        let network = KernelUdp::bind(&listen, KernelUdpConfig::default()).unwrap();
        assert_eq!(network.info().local, listen);
    }
    let mapped = KernelUdp::bind(&addresses(&["[::ffff:127.0.0.1]:0"]), KernelUdpConfig::default()).unwrap();
    assert!(local(&mapped).is_ipv4());
}

/// The obstacle reported for this destination within a long time.
fn heard(network: &mut KernelUdp, to: SocketAddr) -> Obstacle {
    let counters = Counters::default();
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        network.send(Instant::now(), &counters, &transmit(to, None), b"question");
        network.wait(Duration::from_millis(10));
        network.receive(Instant::now(), &counters, |_| {});
        if let Some(unreachable) = network.poll_unreachable() {
            assert_eq!(unreachable.destination, to);
            return unreachable.obstacle;
        }
        assert!(Instant::now() < give_up, "no error is reported for {to}");
    }
}

#[test]
fn a_closed_port_is_reported_for_its_own_address_alone() {
    let (mut dual, counters) = (bind("[::]:0"), Counters::default());
    let (mut other, answer_to) = (bind("127.0.0.1:0"), Instant::now());
    for ip in ["127.0.0.1", "::1"] {
        let closed = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
        let obstacle = heard(&mut dual, closed);
        assert!(matches!(obstacle, Obstacle::PortClosed), "{obstacle:?}");
        assert!(!obstacle.is_local());
        // Datagrams to other peers arrive meanwhile.
        dual.send(answer_to, &counters, &transmit(closed, None), b"lost");
        dual.send(answer_to, &counters, &transmit(local(&other), None), b"arrives");
        assert_eq!(receive(&mut other, &counters, 1)[0].3, b"arrives");
    }
    let silent = KernelUdpConfig { hear_errors: false, ..KernelUdpConfig::default() };
    let mut gateway = KernelUdp::bind(&addresses(&["127.0.0.1:0"]), silent).unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    gateway.send(answer_to, &counters, &transmit(closed, None), b"question");
    gateway.receive(answer_to, &counters, |_| {});
    assert_eq!(gateway.poll_unreachable(), None, "a gateway does not ask for errors");
}

#[test]
fn a_local_obstacle_is_reported_at_the_first_send() {
    let (mut v4, mut v6) = (bind("127.0.0.1:0"), bind("[::1]:0"));
    let obstacle = heard(&mut v4, "[2001:db8::1]:4433".parse().unwrap());
    assert!(obstacle == Obstacle::NoFamily { v6: true } && obstacle.is_local());
    let obstacle = heard(&mut v6, "192.0.2.1:4433".parse().unwrap());
    assert!(obstacle == Obstacle::NoFamily { v6: false } && obstacle.to_string().contains("no IPv4"));
    let obstacle = heard(&mut v6, "[fe80::1]:4433".parse().unwrap());
    assert!(obstacle == Obstacle::NoZone && obstacle.to_string().contains("%eth0"));
    // A socket on the loopback interface has no way to other networks.
    let obstacle = heard(&mut v4, "192.0.2.1:4433".parse().unwrap());
    assert!(obstacle.is_local(), "{obstacle:?}");
}

#[test]
fn packets_of_gue_have_a_socket_of_their_own_beside_that_of_quic() {
    // Addresses that no other test has: the port is one.
    let counters = Counters::default();
    let (mut one, mut other) = (bind("127.20.0.1:0"), bind("127.20.0.2:0"));
    for network in [&mut one, &mut other] {
        network.open_gue().unwrap();
    }
    let (from, to) = (local(&one).ip(), local(&other).ip());
    let outer =
        GueTransmit { destination: to, source: from, ecn: Some(EcnCodepoint::Ect0), source_port: 50_000 };
    one.send_gue(Instant::now(), &counters, &outer, b"a packet");
    one.send(Instant::now(), &counters, &transmit(local(&other), None), b"a datagram");
    let mut received = Vec::new();
    let give_up = Instant::now() + Duration::from_secs(60);
    while received.len() < 2 && Instant::now() < give_up {
        other.wait(Duration::from_millis(100));
        other.receive(Instant::now(), &counters, |datagram| {
            received.push((
                datagram.is_gue,
                datagram.remote.ip(),
                datagram.local_ip,
                datagram.payload.to_vec(),
            ));
        });
    }
    received.sort_unstable();
    assert_eq!(
        received,
        [(false, from, Some(to), b"a datagram".to_vec()), (true, from, Some(to), b"a packet".to_vec())]
    );
    // Quiet sockets are looked at again.
    one.send_gue(Instant::now(), &counters, &outer, b"another");
    assert_eq!(receive(&mut other, &counters, 1)[0].3, b"another");
    assert_eq!(other.info().local.len(), 1, "it is no address to connect to");
    let unknown = GueTransmit { source: "127.20.0.3".parse().unwrap(), ..outer };
    one.send_gue(Instant::now(), &counters, &unknown, b"from an address of none");
    assert_eq!(counters.get(Counter::DropNoRoute), 1);
}
