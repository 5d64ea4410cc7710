//! Floods against a gateway whose work costs time.

use crate::support::caller::Peer;
use crate::support::{HELD, Setup, WorkCosts, World, gateway_v4, payload};
use crate::{Flooder, halves, initials};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{RETRIES_BURST, RETRIES_PER_S};
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq_gateway::pktgen::INITIAL_DATAGRAM_BYTES;

/// A connection whose messages keep the gateway busy; what its work costs, as measured on a machine of this kind.
fn busy() -> (World, Peer) {
    // No frame is lost for want of room: the window is smaller than the device's queue.
    let gateway_quic = QuicConfig {
        receive_window_bytes: 1 << 20,
        receive_window_max_bytes: 1 << 20,
        stream_receive_window_bytes: 1 << 20,
        ..QuicConfig::default()
    };
    // Its window alone bounds the client, so that the messages count what the gateway has done.
    let client_quic = QuicConfig { congestion_control: Congestion::Cubic, ..QuicConfig::default() };
    let step = Duration::from_micros(20);
    let mut world = World::new(Setup { gateway_quic, client_quic, step, clients: 2, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let costs = WorkCosts {
        handshake: Duration::from_micros(400),
        retry: Duration::from_micros(10),
        refused: Duration::from_nanos(200),
        handover: Duration::ZERO,
        taken_over: Duration::ZERO,
        packet: Duration::from_micros(5),
    };
    world.gateway.charge_work(costs, world.now);
    (world, peer)
}

/// The messages that arrive in this time, while `each_ms` happens once a millisecond.
fn goodput(world: &mut World, peer: &Peer, span_ms: usize, mut each_ms: impl FnMut(&mut World)) -> usize {
    let message = payload(8_000);
    let before = world.held().messages.len();
    for _ in 0..span_ms {
        while world.caller(peer).unsent() < 100 {
            world.caller(peer).message(peer, HELD, &message);
        }
        each_ms(world);
        world.pass(Duration::from_millis(1));
    }
    let messages = &mut world.held().messages;
    messages.len() - before
}

#[test]
fn flights_from_spoofed_addresses_leave_established_connections_their_goodput() {
    let (mut world, peer) = busy();
    let mut flooder = Flooder::new(&world);
    // A core accepts 2,500 handshakes of 400 microseconds a second. This is ten times that: 25 a millisecond, of two datagrams each.
    let (initials, mut flights) = (initials(), Vec::new());
    goodput(&mut world, &peer, 300, |_| ());
    let calm = goodput(&mut world, &peer, 300, |_| ());
    let mut flood = |world: &mut World| {
        flooder.listen(world);
        // Every flight begins a connection of its own: a repeated one would belong to a connection that is held.
        flights.clear();
        (0..25).for_each(|_| initials.emit_flight(&mut flights));
        flooder.send(world, &flights, INITIAL_DATAGRAM_BYTES);
    };
    // The first handshakes and Retry packets go at once; then each has its rate.
    goodput(&mut world, &peer, 500, &mut flood);
    let (accepted, retries) = (Counter::QuicAttemptsAccepted, Counter::QuicRetriesSent);
    let before = (world.gateway.count(accepted), world.gateway.count(retries));
    let flooded = goodput(&mut world, &peer, 300, &mut flood);
    let begun = (world.gateway.count(accepted) - before.0, world.gateway.count(retries) - before.1);
    assert!(world.gateway.count(Counter::DropRetryLimit) > 0, "{}", world.report());
    assert!(calm > 500, "{calm} messages in 300 ms: the gateway was busy without them");
    assert!(begun.0 <= 6 && begun.1 <= 250, "{begun:?} handshakes and Retry packets\n{}", world.report());
    assert!(flooded * 100 >= calm * 95, "{flooded} of {calm} messages\n{}", world.report());
    assert_eq!(world.caller(&peer).closed(&peer), None);
}

#[test]
fn a_worker_with_time_to_spare_lets_a_new_client_in_at_its_first_attempt() {
    let (mut world, _) = busy();
    let mut flooder = Flooder::new(&world);
    let initials = initials();
    // Twenty times the rate of Retry packets that a busy worker sends: they would take a fifth of its time.
    let attempts_per_ms = 20 * RETRIES_PER_S as usize / 1000;
    let mut flood = |world: &mut World| {
        flooder.listen(world);
        flooder.send(world, &halves(&initials, attempts_per_ms), INITIAL_DATAGRAM_BYTES);
        world.pass(Duration::from_millis(1));
    };
    for _ in 0..400 {
        flood(&mut world);
    }
    let tag = world.clients[1].callers[0].connect(gateway_v4());
    let mut passed_ms = 0;
    // The client sends its first flight again after a second.
    while world.clients[1].callers[0].peer(tag).is_none() {
        flood(&mut world);
        passed_ms += 1;
        assert!(passed_ms < 900, "the first attempt had no answer\n{}", world.report());
    }
    assert!(
        world.gateway.count(Counter::QuicRetriesSent) > 2 * u64::from(RETRIES_BURST),
        "{}",
        world.report()
    );
}
