//! Load that the device's hash leaves on one queue: connections are accepted by the workers with room.

use crate::support::caller::Peer;
use crate::support::{ECHO, GATEWAY_MAC, HELD, Setup, WorkCosts, World, gateway_v4, payload};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;

const WORKERS: usize = 4;
const CLIENTS: usize = 16;

/// The queue of a client, by the last byte of its IPv4 address: as many clients on each.
fn even(frame: &[u8], queues: usize) -> usize {
    frame.get(29).map_or(0, |&client| usize::from(client) % queues)
}

fn skewed(_: &[u8], _: usize) -> usize {
    0
}

/// What work costs. The relations count, not the times: of a packet's instructions, the worker that hands it over takes 0.19, and the one that
/// takes it over 0.85 (`scripts/instructions.sh`, rows `message-hand-over` and `message-take-over`).
pub(crate) fn measured_costs() -> WorkCosts {
    WorkCosts {
        handshake: Duration::from_micros(400),
        retry: Duration::from_micros(10),
        refused: Duration::from_nanos(200),
        handover: Duration::from_nanos(190),
        taken_over: Duration::from_nanos(850),
        packet: Duration::from_micros(1),
    }
}

/// A gateway of four workers whose work takes time, and clients that fill their windows.
fn world_of(steering: fn(&[u8], usize) -> usize) -> (World, Vec<Peer>) {
    let window = 256 << 10;
    let quic = QuicConfig {
        receive_window_bytes: window,
        receive_window_max_bytes: window,
        stream_receive_window_bytes: window,
        send_window_bytes: window,
        congestion_control: Congestion::Cubic,
        ..QuicConfig::default()
    };
    let mut world = World::new(Setup {
        link: LinkConfig { delay: Duration::from_micros(100), ..LinkConfig::default() },
        gateway_quic: quic.clone(),
        client_quic: quic,
        gateway_workers: WORKERS,
        clients: CLIENTS,
        step: Duration::from_micros(2),
        ..Setup::default()
    });
    world.link.steer(GATEWAY_MAC, steering);
    world.gateway.charge_work(measured_costs(), world.now);
    let peers = (0..CLIENTS).map(|client| world.connect(client, gateway_v4())).collect();
    (world, peers)
}

/// What the gateway did in a while.
#[derive(Debug)]
struct Done {
    /// Messages that reached their application, or came back from it.
    messages: usize,
    /// Packets that each worker took for its own connections; for a report.
    #[allow(dead_code, reason = "it is shown where the test fails")]
    packets: Vec<u64>,
    handed_over: u64,
}

/// Lets all clients send to this queue for a while.
fn done(world: &mut World, peers: &[Peer], queue: u64) -> Done {
    let message = payload(8_000);
    let taken = |world: &World, worker| {
        let count = |counter| world.gateway.count_of(worker, counter);
        count(Counter::RxPackets) + count(Counter::HandoversIn) - count(Counter::HandoversOut)
    };
    let looks = |world: &World| {
        let messages: usize = match queue {
            HELD => world.gateway.callers.iter().map(|caller| caller.messages.len()).sum(),
            _ => world.clients.iter().map(|client| client.callers[0].messages.len()).sum(),
        };
        let packets: Vec<u64> = (0..WORKERS).map(|worker| taken(world, worker)).collect();
        (messages, packets, world.gateway.count(Counter::HandoversOut))
    };
    let send = |world: &mut World, span| {
        let until = world.now + span;
        while world.now < until {
            for peer in peers {
                while world.caller(peer).unsent() < 40 {
                    world.caller(peer).message(peer, queue, &message);
                }
            }
            world.pass(Duration::from_micros(200));
        }
    };
    send(world, Duration::from_millis(10));
    let before = looks(world);
    send(world, Duration::from_millis(12));
    let after = looks(world);
    let packets = after.1.iter().zip(&before.1).map(|(after, before)| after - before).collect();
    Done { messages: after.0 - before.0, packets, handed_over: after.2 - before.2 }
}

#[test]
fn clients_of_one_queue_have_the_goodput_of_clients_of_all_queues() {
    // Runs have 94 to 102 %; worker 0 serves its own connections least then. Were a hand-over to cost an eighth of a packet more than its instructions
    // tell, they would have 89 to 93 % where the gateway only receives, and 97 % of echoes. Without placing they have a quarter.
    for queue in [HELD, ECHO] {
        let (mut world, peers) = world_of(even);
        let all = done(&mut world, &peers, queue);
        let moved = world.gateway.count(Counter::PlacementsOut);
        assert_eq!((moved, all.handed_over), (0, 0), "connections stay where loads are alike: {all:?}");

        let (mut world, peers) = world_of(skewed);
        let one = done(&mut world, &peers, queue);
        let report = || format!("{one:?} for {all:?}\n{}", world.report());
        assert!(one.messages * 100 >= all.messages * 90, "{}", report());
        // Worker 0 receives all, and the others do the work of their connections.
        assert_eq!(world.gateway.count_of(0, Counter::RxPackets), world.gateway.count(Counter::RxPackets));
        let connections = (0..WORKERS).map(|worker| world.gateway.connections_of(worker));
        assert!(connections.clone().all(|of| of * WORKERS <= CLIENTS * 2 && of > 0), "{}", report());
        assert_eq!(connections.sum::<usize>(), CLIENTS);
        assert_eq!(world.gateway.count(Counter::HandshakesServerCompleted), CLIENTS as u64);
        let lost = world.gateway.count(Counter::DropHandoverFull) + world.link.stats().overflowed;
        assert!(lost * 200 < world.gateway.count(Counter::RxPackets), "{lost} lost: {}", report());
    }
}

#[test]
fn connections_that_begin_on_one_queue_are_spread_and_lose_no_datagram() {
    let mut world = World::new(Setup { gateway_workers: WORKERS, clients: 40, ..Setup::default() });
    world.link.steer(GATEWAY_MAC, skewed);
    let peers: Vec<Peer> = (0..40).map(|client| world.connect(client, gateway_v4())).collect();
    let connections: Vec<usize> = (0..WORKERS).map(|worker| world.gateway.connections_of(worker)).collect();
    assert!(connections.iter().all(|&of| (5..=16).contains(&of)), "{connections:?}");
    assert_eq!(world.gateway.count(Counter::QuicRetriesSent), 0);
    for peer in &peers {
        world.echo(peer, b"here");
    }
    assert_eq!(world.gateway.count(Counter::DropNoConnection), 0, "each datagram found its connection");
}
