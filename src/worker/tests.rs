//! What a turn costs with many connections: counted are the times that a connection is looked up, of two workers on a simulated link.

use super::{Idle, NodeShared, Worker};
use crate::application::{Discard, Echo};
use crate::counters::Counter;
use crate::datagram::NetworkKind;
use crate::datagram::user_space::{InterfaceConfig, UserSpace};
use crate::limits::{CONNECTIONS_LEN_PER_TURN_MAX, SURVEY_INTERVAL_MS, SURVEY_TURN_LEN, TURN_PACKETS_LEN};
use crate::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use crate::node::NodeConfig;
use crate::queue::{AppPort, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Delivery};
use crate::session::QueueRoutes;
use crate::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
};
use bytes::Bytes;
use std::time::{Duration, Instant};

const UDP_PORT: u16 = 4433;
/// The queue whose messages the server drops, and the one whose messages it sends back.
const QUEUE: u64 = 0;
const ECHO: u64 = 1;
/// Looks of a turn in which no packet arrives and none leaves: a survey looks at a connection twice, and asks some of them a third time.
const TURN_LOOKS_MAX: usize = 3 * SURVEY_TURN_LEN + CONNECTIONS_LEN_PER_TURN_MAX;

type Side = Worker<UserSpace<SimulatedNic>>;

struct Pair {
    link: SimulatedLink,
    server: Side,
    client: Side,
    port: AppPort,
    now: Instant,
    /// The client's connections, with the credit of their messages.
    open: Vec<(ConnectionId, crate::queue::Credit)>,
    /// The most looks of either side in one turn.
    most: usize,
    /// The connections whose messages came back, and when.
    echoed: Vec<(ConnectionId, Instant)>,
}

fn network(link: &SimulatedLink, station: u8) -> UserSpace<SimulatedNic> {
    let nic = link.add_station([2, 0, 0, 0, 0, station], 1).pop().unwrap();
    let interface = InterfaceConfig {
        addresses: vec![format!("10.77.0.{station}/24").parse().unwrap()],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum: true,
    };
    UserSpace::new(nic, &interface, NetworkKind::Simulated).unwrap()
}

impl Pair {
    /// A client with this many connections to a server, over a perfect link.
    fn new(connections: usize) -> Self {
        Self::over(LinkConfig::default(), connections)
    }

    fn over(link: LinkConfig, connections: usize) -> Self {
        let made = Identity::generate(FalconAlgorithm::FalconPadded512, "server", &[], 1).unwrap();
        let trust = Trust::pinned([made.identity.node_id()]).unwrap();
        let config = NodeConfig {
            server: Some(server_config(&ServerTls::new(made.identity, ClientAuth::Off)).unwrap()),
            client: Some(client_config(&ClientTls::new(trust)).unwrap()),
            ..NodeConfig::default()
        };
        let (link, now) = (SimulatedLink::new(link), Instant::now());
        let worker = |station| {
            let queues = [(QUEUE, 0), (ECHO, 1)].into_iter().collect();
            let shared = NodeShared::new(1, QueueRoutes { queues, ..QueueRoutes::default() });
            Worker::new(0, network(&link, station), shared, config.quic(1500), Idle::Spin)
        };
        let (mut server, mut client) = (worker(1), worker(2));
        server.add_inline(Box::new(Discard::default()));
        server.add_inline(Box::new(Echo::default()));
        let port = client.add_port();
        let mut pair =
            Self { link, server, client, port, now, open: Vec::new(), most: 0, echoed: Vec::new() };
        let remote = ([10, 77, 0, 1], UDP_PORT).into();
        for tag in 0..connections as u64 {
            assert!(pair.port.send(Command::Connect { tag, remote, early: false }).is_ok());
            if tag % 64 == 63 {
                pair.settle();
            }
        }
        for _ in 0..1000 {
            pair.pass(Duration::from_millis(10));
            if pair.open.len() == connections {
                break;
            }
        }
        assert_eq!(pair.open.len(), connections);
        // SETTINGS, tickets and acknowledgments cross, and surveys find nothing more to watch.
        for _ in 0..2 {
            pair.pass(Duration::from_millis(SURVEY_INTERVAL_MS));
        }
        pair.pass(Duration::from_millis(SURVEY_INTERVAL_MS / 2));
        pair.most = 0;
        pair
    }

    /// One turn of each side. Returns whether there was work.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        for side in [&mut self.server, &mut self.client] {
            side.core.connections.looks.set(0);
            worked |= side.turn(self.now);
            self.most = self.most.max(side.core.connections.looks.get());
        }
        while let Some(delivery) = self.port.receive() {
            match delivery {
                Delivery::Connection(id, ConnectionEvent::Connected { credit, .. }) => {
                    self.open.push((id, credit));
                }
                Delivery::Connection(id, ConnectionEvent::Message { .. }) => self.echoed.push((id, self.now)),
                _ => {}
            }
        }
        worked
    }

    /// Turns until nothing is left to do at this time and no survey or inspection runs.
    fn settle(&mut self) {
        while self.turn() || [&self.server, &self.client].iter().any(|side| side.core.survey.is_running()) {}
    }

    /// Lets time pass.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            self.settle();
            let due = [self.server.poll_timeout(), self.client.poll_timeout(), self.link.next_delivery()];
            let next = due.into_iter().flatten().min().unwrap_or(until);
            if next >= until {
                break;
            }
            self.now = next.max(self.now + Duration::from_micros(20));
        }
        self.now = until;
    }

    /// Sends a message of this length on a connection, to be sent back.
    fn call(&mut self, index: usize, len: usize) {
        let (id, credit) = self.open[index].clone();
        assert!(self.port.send_message(id, &credit, ECHO, Bytes::from(vec![7; len])).is_ok());
    }

    /// Sends a message on one connection. Returns the looks of both sides until nothing is left to do.
    fn message_looks(&mut self) -> usize {
        let (id, credit) = self.open[0].clone();
        assert!(self.port.send_message(id, &credit, QUEUE, Bytes::from_static(b"to one of many")).is_ok());
        let next_survey = self.now + Duration::from_millis(SURVEY_INTERVAL_MS);
        for side in [&mut self.server, &mut self.client] {
            side.core.survey.set_due(next_survey);
        }
        let mut sum = 0;
        for _ in 0..200 {
            for side in [&mut self.server, &mut self.client] {
                side.core.connections.looks.set(0);
                side.turn(self.now);
                sum += side.core.connections.looks.get();
            }
            self.now += Duration::from_micros(50);
        }
        sum
    }
}

#[test]
fn a_turn_looks_at_the_connections_that_have_work_and_at_few_others() {
    let (mut few, mut many) = (Pair::new(4), Pair::new(150));
    let looks = few.message_looks();
    assert!(looks > 0);
    // Timers of others may fire meanwhile. A walk of all of them would be 150 looks more.
    let of_many = many.message_looks();
    assert!(of_many < 2 * looks, "{of_many} looks among 150 connections, and {looks} among 4");

    many.most = 0;
    // One survey, and no keep-alive yet.
    many.pass(Duration::from_millis(SURVEY_INTERVAL_MS + 200));
    many.settle();
    assert!((1..=TURN_LOOKS_MAX).contains(&many.most), "{} looks in a turn of a survey", many.most);
    assert!(many.server.core.connections.next_timeout().is_some());

    // Lists of connections that wait are looked at in parts.
    for list in ["paused", "leaving"] {
        let connections = &mut many.server.core.connections;
        for slot in connections.slots() {
            let mut conn = connections.at(slot).unwrap();
            conn.pause();
            let id = conn.session.id();
            connections.leave(id);
        }
        connections.looks.set(0);
        let mut seen = 0;
        let mut stays = |_: &mut super::connections::ConnEntry<'_>| {
            seen += 1;
            true
        };
        match list {
            "paused" => connections.next_paused(&mut stays),
            _ => connections.next_leaving(&mut stays),
        }
        assert_eq!((seen, connections.looks.get()), (CONNECTIONS_LEN_PER_TURN_MAX, seen), "{list}");
    }
}

#[test]
fn a_worker_receives_again_before_all_that_have_something_to_send_have_sent_it() {
    let mut pair = Pair::new(128);
    for (id, credit) in &pair.open {
        assert!(pair.port.send_message(*id, credit, QUEUE, Bytes::from(vec![7; 12_000])).is_ok());
    }
    let status = pair.client.status();
    let sent = || status.counters.get(Counter::TxPackets);
    let (begun, mut most) = (sent(), 0);
    while {
        let before = sent();
        let worked = pair.client.turn(pair.now);
        most = most.max(sent() - before);
        worked
    } {}
    // The last connection of a turn sends a batch of sixteen at most.
    assert!(most <= TURN_PACKETS_LEN as u64 + 16, "{most} packets in a turn");
    let packets = sent() - begun;
    assert!(
        packets > 4 * TURN_PACKETS_LEN as u64,
        "{packets} packets: all have sent theirs, one turn after the other"
    );
}

#[test]
fn an_inspection_a_drain_and_an_end_look_at_few_connections_in_each_turn() {
    let mut pair = Pair::new(150);
    let status = pair.server.status();

    // Slots at the front are empty.
    let ids: Vec<_> = pair.open.iter().map(|(id, _)| *id).collect();
    for &id in &ids[..80] {
        assert!(pair.port.send(Command::On(id, ConnectionCommand::Disconnect)).is_ok());
    }
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.server.core.connections.len(), 70);
    pair.most = 0;
    let mut answer = status.inspection.ask();
    pair.turn();
    pair.turn();
    assert!(answer.try_recv().is_err(), "150 slots are looked at in three turns");
    pair.turn();
    assert_eq!(answer.try_recv().unwrap().len(), 70);
    assert!(pair.most <= TURN_LOOKS_MAX, "{} looks in a turn of an inspection", pair.most);

    pair.most = 0;
    pair.server.core.desk.shared.drain();
    pair.turn();
    assert!(status.requests() > 0, "connections without a look may have requests");
    assert!(pair.most <= TURN_LOOKS_MAX, "{} looks in the first turn of a drain", pair.most);
    pair.settle();
    assert_eq!(status.requests(), 0);
    let told = |side: &Side| {
        side.core
            .connections
            .slots()
            .filter_map(|slot| side.core.connections.get(slot))
            .filter(|conn| conn.session.is_leaving())
            .count()
    };
    assert_eq!(told(&pair.server), 70, "each peer gets GOAWAY");

    // The peers are silent: no connection is over before its time.
    pair.link.mute([2, 0, 0, 0, 0, 2]);
    pair.server.core.desk.shared.close();
    for _ in 0..40 {
        pair.server.turn(pair.now);
    }
    assert!(pair.server.core.closes_pending());
    pair.server.core.connections.looks.set(0);
    pair.server.turn(pair.now);
    let looks = pair.server.core.connections.looks.get();
    assert!(looks <= TURN_LOOKS_MAX, "{looks} looks in a turn of the end");
}

#[test]
fn a_thousand_idle_connections_that_wake_at_one_moment_all_have_their_turn() {
    const CONNECTIONS: usize = 1000;
    const CALL_BYTES: usize = 4096;
    const BITS_PER_S: u64 = 1_000_000_000;
    let link = LinkConfig { bandwidth_bits_per_s: Some(BITS_PER_S), ..LinkConfig::default() };
    let mut pair = Pair::over(link, CONNECTIONS);
    pair.pass(Duration::from_secs(60));
    assert!(pair.echoed.is_empty());
    let began = pair.now;
    (0..CONNECTIONS).for_each(|index| pair.call(index, CALL_BYTES));
    pair.pass(Duration::from_secs(2));
    let mut ids: Vec<_> = pair.echoed.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), pair.echoed.len()), (CONNECTIONS, CONNECTIONS), "each has its answer");
    let wait = |(_, at): &(ConnectionId, Instant)| *at - began;
    let (first, last) = (wait(&pair.echoed[0]), wait(&pair.echoed[CONNECTIONS - 1]));
    // The time in which the link carries all of the bytes once: answers go while messages still come.
    let bytes_time = Duration::from_secs_f64((CONNECTIONS * CALL_BYTES * 8) as f64 / BITS_PER_S as f64);
    assert!(
        first < bytes_time / 10 && last < bytes_time * 3 / 2,
        "{first:?} to {last:?}, the bytes {bytes_time:?}"
    );
}

#[test]
fn a_flood_of_new_connections_beside_idle_ones_costs_the_active_no_turn() {
    const IDLE: usize = 300;
    const FLOOD: u64 = 60;
    let mut pair = Pair::new(IDLE);
    let remote = ([10, 77, 0, 1], UDP_PORT).into();
    // The server's turns until the message of a connection is back.
    let turns = |pair: &mut Pair| {
        let before = pair.echoed.len();
        pair.call(0, 1000);
        let turns = (1..100).find(|_| {
            pair.turn();
            pair.now += Duration::from_micros(20);
            pair.echoed.len() > before
        });
        turns.unwrap()
    };
    let alone = turns(&mut pair);
    let handshakes = |pair: &Pair| pair.server.status().counters.get(Counter::QuicAttemptsAccepted);
    let before = handshakes(&pair);
    for tag in 0..FLOOD {
        assert!(pair.port.send(Command::Connect { tag, remote, early: false }).is_ok());
    }
    // The attempts reach the server first.
    pair.turn();
    pair.turn();
    pair.most = 0;
    let mut beside = 0;
    while handshakes(&pair) < before + FLOOD {
        let (begun, turns) = (handshakes(&pair), turns(&mut pair));
        let begun = handshakes(&pair) - begun;
        assert!(begun <= turns as u64, "{begun} handshakes in {turns} turns: a turn begins one");
        beside = beside.max(turns);
    }
    assert_eq!(beside, alone, "turns of a message beside the flood, and without it");
    // Each turn serves the message, an attempt, and packets of handshakes that are under way: nothing grows with the idle connections.
    assert!(pair.most <= TURN_LOOKS_MAX + 8 * FLOOD as usize, "{} looks in a turn", pair.most);
}
