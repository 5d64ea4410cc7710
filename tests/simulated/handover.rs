//! Gateways of a fleet on one anycast address, behind a router that moves flows from one to the other.

use crate::support::caller::Peer;
use crate::support::{
    ECHO, ROUTER_MAC, SEED, Setup, UDP_PORT, World, anycast_v4, anycast_v6, joined, payload,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{HANDOVER_ANSWER_MS_MAX, HANDOVERS_PER_S};
use stoq::nic::simulated::SimulatedNic;
use stoq::nic::{Nic as _, TxKind};
use stoq::node::{HandoverConfig, NodeConfig};
use stoq::quic::fleet::FleetKeys;
use stoq::quic::fleet_members::{FleetMembers, OtherGateway};
use stoq::quic::fleet_settings::{CidRotation, FleetSecret, FleetSettings, RotationSalt, RotationState};
use stoq::quic::routable::ServerId;
use stoq::token::Ranges;
use stoq::wire::gue::{GUE_PORT, Gue, InnerDatagram};
use stoq::wire::ip::Addresses;
use stoq::wire::udp::{Udp, UdpTemplate};
use stoq::wire::{ChecksumBy, Mac};

fn server_id(gateway: u8) -> ServerId {
    ServerId([0, 0, gateway + 1])
}

pub(crate) fn settings(gateway: u8) -> FleetSettings {
    let secret = FleetSecret::read(&[1; 32][..]).unwrap().unwrap();
    let rotation = CidRotation { number: 0, salt: RotationSalt([9; 16]), state: RotationState::Issue };
    FleetSettings::new(secret, server_id(gateway), vec![rotation]).unwrap()
}

pub(crate) fn mac(gateway: u8) -> Mac {
    [2, 0, 0, 0, 0, gateway + 1]
}

/// A gateway's own addresses.
fn own(gateway: u8) -> Vec<IpAddr> {
    vec![[10, 77, 0, gateway + 1].into(), format!("fd77::{:x}", gateway + 1).parse().unwrap()]
}

/// A fleet on one address, and the gateway to which its router sends all flows.
pub(crate) struct Fleet {
    pub(crate) world: World,
    ingress: Arc<AtomicU8>,
    gateways: u8,
    /// Whether gateways reach each other over IPv6.
    over_v6: bool,
}

impl Fleet {
    pub(crate) fn new(gateways: u8, workers: usize) -> Self {
        Self::over(gateways, workers, false)
    }

    fn over(gateways: u8, workers: usize, over_v6: bool) -> Self {
        let world = World::new(Self::setup(gateways, workers));
        let ingress = Arc::<AtomicU8>::default();
        let chosen = ingress.clone();
        world.link.route(ROUTER_MAC, move |_| mac(chosen.load(Relaxed)));
        for gateway in 0..gateways {
            world.link.steer(mac(gateway), |_, _| 0);
        }
        let mut fleet = Self { world, ingress, gateways, over_v6 };
        fleet.tell(&[]);
        // Each has asked for the others' stations.
        fleet.world.pass(Duration::from_millis(5));
        fleet
    }

    fn setup(gateways: u8, gateway_workers: usize) -> Setup {
        let anycast = (0..gateways).map(settings).collect();
        Setup { gateways: gateways.into(), gateway_workers, anycast, ..Setup::default() }
    }

    /// Starts the first gateway anew, after it was killed. It has a table in which all others have leases.
    pub(crate) fn restart(&mut self, workers: usize) {
        self.world.kill_and_restart_gateway_as(&Self::setup(self.gateways, workers));
        self.world.link.unmute(mac(0));
        self.tell_one(0, &[], HANDOVERS_PER_S);
    }

    /// Gives all gateways a table in which these have no lease.
    pub(crate) fn tell(&mut self, gone: &[u8]) {
        self.tell_with(gone, HANDOVERS_PER_S);
    }

    fn tell_with(&mut self, gone: &[u8], pps_max: u32) {
        for gateway in 0..self.gateways {
            self.tell_one(gateway, gone, pps_max);
        }
    }

    fn tell_one(&mut self, gateway: u8, gone: &[u8], pps_max: u32) {
        let others = (0..self.gateways).filter(|&other| other != gateway);
        let others: Vec<_> = others
            .map(|other| OtherGateway {
                server_id: server_id(other),
                addresses: self.addresses(other),
                is_gone: gone.contains(&other),
            })
            .collect();
        let members = FleetMembers::new(&own(gateway), &others, pps_max);
        self.world.gateway(gateway.into()).shared.set_members(members);
    }

    /// The addresses of a gateway, in the order of its row.
    fn addresses(&self, gateway: u8) -> Vec<IpAddr> {
        let mut addresses = own(gateway);
        addresses.rotate_left(usize::from(self.over_v6));
        addresses
    }

    /// Moves all flows to this gateway.
    pub(crate) fn rehash(&self, gateway: u8) {
        self.ingress.store(gateway, Relaxed);
    }

    /// Kills a gateway.
    pub(crate) fn kill(&mut self, gateway: u8) {
        self.world.gateway(gateway.into()).dead = true;
        self.world.link.mute(mac(gateway));
    }

    pub(crate) fn count(&self, counter: Counter) -> Vec<u64> {
        self.world.counts(counter)
    }

    pub(crate) fn until_closed(&mut self, peer: &Peer, limit: Duration) -> (Duration, String) {
        let (begun, waiting) = (self.world.now, peer.clone());
        self.world
            .run(limit, "the client hears of it", |world| world.caller(&waiting).closed(&waiting).is_some());
        (self.world.now - begun, self.world.caller(peer).closed(peer).unwrap().to_owned())
    }
}

#[test]
fn a_flow_that_moves_to_another_gateway_in_the_middle_of_a_transfer_loses_nothing() {
    for (remote, workers, over_v6) in
        [(anycast_v4(), 1, true), (anycast_v6(), 1, true), (anycast_v4(), 3, false), (anycast_v6(), 3, false)]
    {
        let mut fleet = Fleet::over(2, workers, over_v6);
        let peer = fleet.world.connect(0, remote);
        let bytes = payload(3_000_000);
        let put = fleet.world.caller(&peer).put(&peer, SEED, &bytes);
        let moved = |world: &World| world.gateway.count(Counter::RxBytes) > 1_000_000;
        fleet.world.run(Duration::from_secs(20), "half of it is there", |world| moved(world));
        fleet.rehash(1);
        fleet.world.finish(&peer, put);
        let token = fleet.world.put(&peer, &payload(100_000));
        assert_eq!(joined(&fleet.world.get(&peer, token, Ranges::all())), payload(100_000));
        fleet.world.pass(Duration::from_millis(50));
        let (out, taken) = (fleet.count(Counter::HandoversNetOut), fleet.count(Counter::HandoversNetIn));
        assert!(out[1] > 1000 && out[0] == 0, "{out:?}");
        assert_eq!((taken[0], taken[1]), (out[1], 0));
        let client = &fleet.world.clients[0];
        assert_eq!(client.count(Counter::QuicPacketsLost), 0);
        for dropped in [Counter::DropTooBig, Counter::DropNoConnection, Counter::DropHandoverFull] {
            assert_eq!(fleet.count(dropped), [0, 0], "{dropped:?}");
        }
        assert_eq!(fleet.count(Counter::ConnectionsOpened), [1, 0]);
        // Back again, and a new connection where the router leads.
        fleet.rehash(0);
        fleet.world.echo(&peer, b"back");
        fleet.world.pass(Duration::from_millis(50));
        assert_eq!(fleet.count(Counter::HandoversNetOut)[1], out[1]);
        fleet.rehash(1);
        let other = fleet.world.connect(0, remote);
        fleet.world.echo(&other, b"new");
        assert_eq!(fleet.count(Counter::ConnectionsOpened), [1, 1]);
        assert_eq!(fleet.count(Counter::HandoversNetOut)[1], out[1], "its Initial packets stayed");
    }
}

/// The largest layer-3 packet that a client sends to the fleet while it puts a payload, bytes.
fn largest_sent(remote: SocketAddr) -> usize {
    let mut fleet = Fleet::new(2, 1);
    let largest = Arc::<AtomicUsize>::default();
    let seen = largest.clone();
    fleet.world.link.route(ROUTER_MAC, move |frame| {
        seen.fetch_max(frame.len() - 14, Relaxed);
        mac(0)
    });
    let peer = fleet.world.connect(0, remote);
    fleet.world.put(&peer, &payload(2_000_000));
    largest.load(Relaxed)
}

#[test]
fn clients_of_a_fleet_send_packets_that_still_fit_in_gue() {
    // 1500 bytes, without 52 of GUE over IPv6; a payload fits over IPv6 too.
    assert_eq!(largest_sent(anycast_v6()), 1448);
    assert_eq!(largest_sent(anycast_v4()), 1428);
    let advertised = |fabric_mtu| {
        let handover = Some(HandoverConfig { fabric_mtu });
        NodeConfig { handover, ..NodeConfig::default() }.quic(1500).endpoint.get_max_udp_payload_size()
    };
    assert_eq!(advertised(None), 1400);
    assert_eq!(advertised(Some(1400)), 1300);
    assert_eq!(advertised(Some(9000)), 1472, "what the device itself carries");
    assert_eq!(advertised(Some(1300)), 1200);
    assert_eq!(NodeConfig::default().quic(1500).endpoint.get_max_udp_payload_size(), 1472);
}

/// A station that sends any frame.
pub(crate) struct Forger(SimulatedNic);

impl Forger {
    const MAC: Mac = [2, 0, 0, 0, 0, 200];

    pub(crate) fn new(fleet: &Fleet) -> Self {
        Self(fleet.world.link.add_station(Self::MAC, 1).pop().unwrap())
    }

    /// Sends a datagram to a gateway's own address.
    pub(crate) fn send(
        &mut self,
        fleet: &mut Fleet,
        from: SocketAddr,
        (gateway, port): (u8, u16),
        payload: &[u8],
    ) {
        self.queue(fleet, from, (gateway, port), payload);
        fleet.world.pass(Duration::from_millis(2));
    }

    /// Sends a datagram without waiting for what becomes of it.
    pub(crate) fn queue(
        &mut self,
        fleet: &Fleet,
        from: SocketAddr,
        (gateway, port): (u8, u16),
        payload: &[u8],
    ) {
        let to = own(gateway).into_iter().find(|to| to.is_ipv4() == from.is_ipv4()).unwrap();
        let ports = Udp { source_port: from.port(), destination_port: port };
        let template =
            UdpTemplate::new(Self::MAC, mac(gateway), None, Addresses::new(from.ip(), to).unwrap(), ports);
        let len = template.header_len() + payload.len();
        assert!(self.0.tx_frame(TxKind::Plain, len, |frame| {
            template.emit(0, payload, ChecksumBy::Software, frame);
        }));
        self.0.tx_flush(fleet.world.now);
    }

    /// Hands a datagram over to a gateway.
    fn hand_over(&mut self, fleet: &mut Fleet, from: IpAddr, gateway: u8, payload: &[u8]) {
        let inner =
            InnerDatagram { source: SENDER.parse().unwrap(), destination: anycast_v4(), ecn: 0, payload };
        let gue = Gue::Inner(inner);
        let mut packet = vec![0; gue.encoded_len()];
        gue.emit(&mut packet);
        self.send(fleet, SocketAddr::new(from, 50_000), (gateway, GUE_PORT), &packet);
    }
}

/// The sender of forged datagrams.
pub(crate) const SENDER: &str = "10.77.0.99:7777";

/// A packet with a short header.
pub(crate) fn short(cid: &[u8], len: usize) -> Vec<u8> {
    let mut packet = [&[0x41], cid].concat();
    packet.resize(len, 7);
    packet
}

/// A packet with a long header of this first octet and version.
fn long(first: u8, version: u32, cid: &[u8]) -> Vec<u8> {
    let mut packet = [&[first], &version.to_be_bytes()[..], &[cid.len() as u8], cid, &[0, 0]].concat();
    packet.resize(1200, 7);
    packet
}

pub(crate) fn issued(gateway: u8) -> Vec<u8> {
    FleetKeys::new(&settings(gateway)).issue(0).to_vec()
}

#[test]
fn only_packets_whose_connection_ids_name_another_gateway_are_handed_over() {
    let zeroth = issued(0);
    let mut unknown_rotation = zeroth.clone();
    unknown_rotation[0] = 0x30;
    let longer = [&zeroth[..], &[0; 3]].concat();
    let cases = [
        ("a short header", short(&zeroth, 60), true),
        ("a Handshake packet", long(0xe0, 1, &zeroth), true),
        ("an Initial packet after the first answer", long(0xc0, 1, &zeroth), true),
        ("a 0-RTT packet", long(0xd0, 1, &zeroth), false),
        ("an Initial packet with 8 octets", long(0xc0, 1, &zeroth[..8]), false),
        ("an Initial packet with 20 octets", long(0xc0, 1, &longer), false),
        ("another rotation", short(&unknown_rotation, 60), false),
        ("a gateway that the table does not have", short(&issued(9), 60), false),
        ("the gateway itself", short(&issued(1), 60), false),
    ];
    for workers in [1, 3] {
        let mut fleet = Fleet::new(3, workers);
        let mut forger = Forger::new(&fleet);
        for (what, packet, is_handed_over) in &cases {
            let before = fleet.count(Counter::HandoversNetOut);
            forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), packet);
            let after = fleet.count(Counter::HandoversNetOut);
            assert_eq!(after[1] - before[1], u64::from(*is_handed_over), "{what}, {workers} workers");
            assert_eq!((after[0], after[2]), (0, 0), "{what}");
        }
        assert_eq!(fleet.count(Counter::DropHandoverNoConnection), [3, 0, 0]);
    }
}

#[test]
fn a_forged_hand_over_opens_nothing_and_is_not_answered() {
    let member: IpAddr = own(1)[0];
    for workers in [1, 3] {
        let mut fleet = Fleet::new(3, workers);
        let mut forger = Forger::new(&fleet);
        // A packet of a connection that there is.
        let last = Arc::<Mutex<Vec<u8>>>::default();
        let heard = last.clone();
        fleet.world.link.steer(mac(0), move |frame, _| {
            if frame.get(42).is_some_and(|first| first & 0x80 == 0) && frame[12..14] == [8, 0] {
                *heard.lock().unwrap() = frame[42..].to_vec();
            }
            0
        });
        let peer = fleet.world.connect(0, anycast_v4());
        fleet.world.echo(&peer, b"hello");
        fleet.world.pass(Duration::from_secs(1));
        let known = last.lock().unwrap().clone();
        let cases = [
            (member, known.clone(), Counter::HandoversNetIn),
            (SENDER.parse::<SocketAddr>().unwrap().ip(), known.clone(), Counter::DropHandoverStranger),
            (own(0)[0], known.clone(), Counter::DropHandoverStranger),
            // It names a third gateway, and stays here.
            (member, short(&issued(2), 60), Counter::DropHandoverForeign),
            (member, short(&issued(1), 60), Counter::DropHandoverForeign),
            (member, long(0xc0, 1, &[7; 8]), Counter::DropHandoverForeign),
            (member, long(0xd0, 1, &issued(0)), Counter::DropHandoverForeign),
            (member, short(&issued(0), 60), Counter::DropHandoverNoConnection),
            (member, long(0xc0, 1, &issued(0)), Counter::DropHandoverNoConnection),
            (member, long(0xc0, 0x0a0a_0a0a, &issued(0)), Counter::DropHandoverNoConnection),
            (member, vec![7; 4], Counter::DropHandoverMalformed),
        ];
        for (from, packet, counter) in cases {
            let (before, sent) = (fleet.count(counter), fleet.count(Counter::TxPackets));
            forger.hand_over(&mut fleet, from, 0, &packet);
            assert_eq!(fleet.count(counter)[0], before[0] + 1, "{counter:?}, {workers} workers");
            assert_eq!(fleet.count(Counter::TxPackets), sent, "{counter:?}: nothing was sent");
        }
        let before = fleet.count(Counter::DropHandoverMalformed)[0];
        forger.send(&mut fleet, SocketAddr::new(member, 50_000), (0, GUE_PORT), &[1; 80]);
        assert_eq!(fleet.count(Counter::DropHandoverMalformed)[0], before + 1);
        assert_eq!(fleet.count(Counter::HandoversNetOut), [0; 3]);
        assert_eq!(fleet.count(Counter::QuicAttemptsAccepted), [1, 0, 0]);
        fleet.world.echo(&peer, b"still here");
    }
}

#[test]
fn a_question_is_answered_to_a_gateway_of_the_table_alone() {
    let mut fleet = Fleet::new(2, 1);
    let mut forger = Forger::new(&fleet);
    let mut ask = vec![0; Gue::Ask(7).encoded_len()];
    Gue::Ask(7).emit(&mut ask);
    let sent = fleet.count(Counter::TxPackets)[0];
    forger.send(&mut fleet, SENDER.parse().unwrap(), (0, GUE_PORT), &ask);
    assert_eq!(fleet.count(Counter::TxPackets)[0], sent);
    forger.send(&mut fleet, SocketAddr::new(own(1)[0], 50_000), (0, GUE_PORT), &ask);
    assert!(fleet.count(Counter::TxPackets)[0] > sent);
    let malformed = fleet.count(Counter::DropHandoverMalformed);
    assert_eq!((malformed, fleet.count(Counter::DropHandoverStranger)), (vec![0, 0], vec![1, 0]));
}

#[test]
fn what_is_handed_over_is_bounded_in_rate() {
    let mut fleet = Fleet::new(2, 1);
    fleet.tell_with(&[], 10);
    let mut forger = Forger::new(&fleet);
    for _ in 0..5 {
        forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &short(&issued(0), 60));
    }
    assert_eq!(fleet.count(Counter::HandoversNetOut), [0, 1]);
    assert_eq!(fleet.count(Counter::DropHandoverLimited), [0, 4]);
    fleet.world.pass(Duration::from_millis(100));
    forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &short(&issued(0), 60));
    assert_eq!(fleet.count(Counter::HandoversNetOut), [0, 2]);
}

#[test]
fn the_clients_of_a_gateway_that_is_gone_are_told_in_a_round_trip_once_its_lease_has_ended() {
    for (remote, workers) in [(anycast_v4(), 1), (anycast_v6(), 3)] {
        let mut fleet = Fleet::new(2, workers);
        let asked_before = fleet.count(Counter::FleetQuestionsSent)[1];
        let peer = fleet.world.connect(0, remote);
        fleet.world.echo(&peer, b"hello");
        fleet.kill(0);
        fleet.rehash(1);
        fleet.world.caller(&peer).message(&peer, ECHO, b"is anyone there?");
        fleet.world.pass(Duration::from_secs(2));
        // Its lease lives: it may come back.
        assert_eq!(fleet.world.caller(&peer).closed(&peer), None);
        assert_eq!(fleet.count(Counter::FleetResetsSent), [0, 0]);
        assert!(fleet.count(Counter::HandoversNetOut)[1] > 0);
        let questions = fleet.count(Counter::FleetQuestionsSent)[1];
        assert_eq!(questions, asked_before, "a gateway that is alive is not asked");
        fleet.tell(&[0]);
        fleet.world.pass(Duration::from_millis(HANDOVER_ANSWER_MS_MAX + 1));
        let questions = fleet.count(Counter::FleetQuestionsSent)[1];
        assert_eq!(questions, asked_before + 2 * workers as u64, "once, and again after a silence");
        assert_eq!(fleet.count(Counter::FleetResetsSent), [0, 0], "it may yet answer the second one");
        fleet.world.caller(&peer).message(&peer, ECHO, b"and now?");
        let (took, reason) = fleet.until_closed(&peer, Duration::from_secs(1));
        assert!(reason.contains("stateless reset"), "{reason}");
        // The other gateway first asks for the client's MAC.
        assert!(took <= Duration::from_millis(2), "two round trips: {took:?}");
        let again = fleet.world.connect(0, remote);
        fleet.world.echo(&again, b"here we are again");
    }
}

#[test]
fn a_gateway_that_lost_only_its_lease_is_handed_to_and_not_reset() {
    for workers in [1, 3] {
        let mut fleet = Fleet::new(2, workers);
        // Answers arrive at any worker.
        let turn = AtomicUsize::new(0);
        fleet.world.link.steer(mac(1), move |_, queues| turn.fetch_add(1, Relaxed) % queues);
        let peer = fleet.world.connect(0, anycast_v4());
        fleet.rehash(1);
        fleet.tell(&[0]);
        for _ in 0..10 {
            fleet.world.pass(Duration::from_millis(500));
            fleet.world.put(&peer, &payload(50_000));
        }
        assert!(fleet.count(Counter::FleetQuestionsSent)[1] >= 5);
        assert_eq!(fleet.count(Counter::FleetResetsSent), [0, 0]);
        assert_eq!(fleet.count(Counter::DropHandoverGone), [0, 0]);
        let (out, taken) = (fleet.count(Counter::HandoversNetOut), fleet.count(Counter::HandoversNetIn));
        assert_eq!(out[1], taken[0]);
    }
}

#[test]
fn one_reset_answers_a_connection_id_in_a_second_and_is_shorter_than_what_it_answers() {
    let mut fleet = Fleet::new(2, 1);
    let mut forger = Forger::new(&fleet);
    fleet.kill(0);
    fleet.tell(&[0]);
    fleet.world.pass(Duration::from_millis(HANDOVER_ANSWER_MS_MAX));
    let cid = issued(0);
    let send = |fleet: &mut Fleet, forger: &mut Forger, packet: &[u8]| {
        forger.send(fleet, SENDER.parse().unwrap(), (1, UDP_PORT), packet);
        (fleet.count(Counter::FleetResetsSent)[1], fleet.count(Counter::DropHandoverGone)[1])
    };
    assert_eq!(send(&mut fleet, &mut forger, &short(&cid, 21)), (0, 1));
    for dropped in 2..=5 {
        assert_eq!(send(&mut fleet, &mut forger, &short(&cid, 60)), (1, dropped));
    }
    assert_eq!(send(&mut fleet, &mut forger, &short(&issued(0), 60)), (2, 6));
    // A handshake that was not completed has no token.
    assert_eq!(send(&mut fleet, &mut forger, &long(0xe0, 1, &issued(0))), (2, 7));
    fleet.world.pass(Duration::from_secs(1));
    assert_eq!(send(&mut fleet, &mut forger, &short(&cid, 60)), (3, 8));
}
