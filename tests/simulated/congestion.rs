//! Loss detection, acknowledgments and congestion control over bottlenecks of one's own.

use crate::support::caller::{End, Peer};
use crate::support::{DISCARD, GATEWAY_MAC, Setup, World, gateway_v4, payload, route};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::{PeerControl, QuicConfig};

const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGE_BYTES: usize = 64 << 10;

/// A world over this path with this configuration at both ends, and its one client's connection.
fn over(path: LinkConfig, quic: &QuicConfig) -> (World, Peer) {
    let step = Duration::from_micros(10);
    let setup =
        Setup { link: path, gateway_quic: quic.clone(), client_quic: quic.clone(), step, ..Setup::default() };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    (world, peer)
}

/// 100 Mbit/s with a round trip of 20 ms, and a buffer that holds as much as the path.
fn hundred_megabits() -> LinkConfig {
    LinkConfig {
        delay: Duration::from_millis(10),
        bandwidth_bits_per_s: Some(100_000_000),
        buffer_bytes: Some(250_000),
        ..LinkConfig::default()
    }
}

/// Sends this many bytes of messages and waits until the gateway has them. Gives the virtual time that it took.
fn send(world: &mut World, peer: &Peer, bytes: usize) -> Duration {
    let (begun, before) = (world.now, world.gateway.count(Counter::RecordsIn));
    let bytes = payload(bytes);
    let messages: Vec<&[u8]> = bytes.chunks(MESSAGE_BYTES).collect();
    for message in &messages {
        world.caller(peer).message(peer, DISCARD, message);
    }
    let all = before + messages.len() as u64;
    world.run(PATIENCE, "messages", |world| world.gateway.count(Counter::RecordsIn) >= all);
    world.now - begun
}

/// Counts of the client's connections are taken once a second.
fn counted(world: &mut World, counter: Counter) -> u64 {
    world.pass(Duration::from_millis(1100));
    world.clients[0].count(counter)
}

#[test]
fn packets_that_come_a_little_late_are_not_taken_for_lost() {
    // Up to eight packets late, and nothing is lost. Acknowledgments do not wait: RFC 9002 §6.1.2 takes a packet for lost that comes an eighth
    // of the round trip late.
    let path = LinkConfig {
        reordering: 0.02,
        reordering_delay: Duration::from_millis(1),
        buffer_bytes: None,
        ..hundred_megabits()
    };
    let quic = QuicConfig { packets_per_ack: 2, ..QuicConfig::default() };
    let (mut world, peer) = over(path.clone(), &quic);
    send(&mut world, &peer, 2 << 20);
    assert!(world.link.stats().reordered > 10);
    assert_eq!(counted(&mut world, Counter::QuicPacketsLost), 0);
    // With RFC 9002's threshold some are.
    let quic = QuicConfig { packet_threshold: 3, ..quic };
    let (mut world, peer) = over(path, &quic);
    send(&mut world, &peer, 2 << 20);
    assert_ne!(counted(&mut world, Counter::QuicPacketsLost), 0);
}

/// Frames that the gateway sends for each hundred that the client sends.
fn frames_back(quic: &QuicConfig) -> u64 {
    let (mut world, peer) = over(hundred_megabits(), quic);
    let (sent, received) = (Counter::TxPackets, Counter::RxPackets);
    let before = (world.gateway.count(sent), world.gateway.count(received));
    send(&mut world, &peer, 2 << 20);
    100 * (world.gateway.count(sent) - before.0) / (world.gateway.count(received) - before.1)
}

#[test]
fn acknowledgments_are_as_rare_as_was_asked() {
    let congestion_control = Congestion::Model;
    let quic = |packets_per_ack| QuicConfig { packets_per_ack, congestion_control, ..QuicConfig::default() };
    let (few, many) = (frames_back(&quic(10)), frames_back(&quic(2)));
    // An acknowledgment in ten packets; one in two, or in the 0.6 ms that they are apart here; credit and the start come on top.
    assert!(3 * few <= 2 * many, "{few} and {many} frames back for each hundred");
}

#[test]
fn a_thin_way_back_carries_the_acknowledgments() {
    let thin = |quic: &QuicConfig| {
        let (mut world, peer) = over(hundred_megabits(), quic);
        world.link.reconfigure_from(GATEWAY_MAC, |link| link.bandwidth_bits_per_s = Some(400_000));
        send(&mut world, &peer, 6 << 20)
    };
    let few = thin(&QuicConfig::default());
    let many = thin(&QuicConfig { packets_per_ack: 2, ..QuicConfig::default() });
    assert!(few.mul_f64(1.5) < many, "{few:?} with few acknowledgments, {many:?} with many");
}

#[test]
fn acknowledgments_wait_for_no_rate_and_over_a_long_path_for_each_other() {
    // 1 Mbit/s carries less than a thousand of them a second, beside their headers.
    let setup = Setup {
        link: hundred_megabits(),
        gateway_quic: QuicConfig { rate_bits_per_s: 1_000_000, ..QuicConfig::default() },
        client_quic: QuicConfig {
            packets_per_ack: 2,
            congestion_control: Congestion::Model,
            ..QuicConfig::default()
        },
        step: Duration::from_micros(10),
        ..Setup::default()
    };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    send(&mut world, &peer, 1 << 20);
    let before = world.gateway.count(Counter::TxPackets);
    let took = send(&mut world, &peer, 4 << 20);
    let a_second = (world.gateway.count(Counter::TxPackets) - before) as f64 / took.as_secs_f64();
    // Two packets arrive each 0.25 ms; a round trip of 20 ms has 32 acknowledgments, and some that carry credit or wait less.
    assert!((1200.0..2000.0).contains(&a_second), "{a_second} acknowledgments a second");
}

/// Bytes that the client's station has sent.
fn sent_bytes(world: &World) -> u64 {
    world.clients[0].count(Counter::TxBytes)
}

#[test]
fn no_controller_sends_above_the_operators_rate() {
    let rate = 20_000_000;
    for (congestion_control, loss) in [
        (Congestion::Reserved, 0.0),
        (Congestion::Reserved, 0.03),
        (Congestion::Model, 0.0),
        (Congestion::Cubic, 0.0),
        (Congestion::Newreno, 0.0),
    ] {
        let quic = QuicConfig { congestion_control, rate_bits_per_s: rate, ..QuicConfig::default() };
        let (mut world, peer) = over(LinkConfig { loss, ..hundred_megabits() }, &quic);
        let bytes = payload(4 << 20);
        for message in bytes.chunks(MESSAGE_BYTES) {
            world.caller(&peer).message(&peer, DISCARD, message);
        }
        world.pass(Duration::from_millis(200));
        let window = Duration::from_millis(20);
        let begun = sent_bytes(&world);
        for _ in 0..40 {
            let before = sent_bytes(&world);
            world.pass(window);
            // A burst and what a late worker makes up for come on top: 2 ms in all.
            let most = rate as f64 / 8.0 * (window.as_secs_f64() + 0.002);
            let sent = sent_bytes(&world) - before;
            assert!(sent as f64 <= most, "{congestion_control:?}: {sent} bytes in {window:?}");
        }
        let carried = rate as f64 / 8.0 * 0.8;
        let sent = (sent_bytes(&world) - begun) as f64;
        assert!(sent > 0.9 * carried, "{congestion_control:?}: {sent} of {carried}");
        assert_eq!(world.link.stats().tail_dropped, 0);
    }
}

/// How long the first gateway takes to forward a PUT to the second, to which it has this control, seconds.
fn forwarded(bytes: &[u8], peer_control: PeerControl) -> f64 {
    let mut world = World::new(Setup { peer_control, ..Setup::line(2) });
    let peer = world.connect(0, gateway_v4());
    world.pass(Duration::from_millis(500));
    let begun = world.now;
    let request = world.caller(&peer).put_by(&peer, route(&[0, 1]).hop(), bytes, 0);
    world.finish(&peer, request);
    assert!(matches!(world.caller(&peer).request(request).end(), End::Done { .. }));
    (world.now - begun).as_secs_f64()
}

#[test]
fn a_peer_gateway_has_the_control_that_its_entry_gives() {
    let (bytes, rate) = (payload(4 << 20), 10_000_000);
    let least = bytes.len() as f64 * 8.0 / rate as f64;
    let free = forwarded(&bytes, PeerControl::default());
    let control = PeerControl { congestion_control: Some(Congestion::Reserved), rate_bits_per_s: Some(rate) };
    let held = forwarded(&bytes, control);
    assert!(
        free < least && (least..2.0 * least).contains(&held),
        "{free} s and {held} s; the rate has {least} s"
    );
}

#[test]
fn losses_by_chance_do_not_slow_a_model_down() {
    let path = || LinkConfig { loss: 0.01, seed: 3, ..hundred_megabits() };
    let took = |congestion_control| {
        let quic = QuicConfig { congestion_control, ..QuicConfig::default() };
        let (mut world, peer) = over(path(), &quic);
        send(&mut world, &peer, 6 << 20).as_secs_f64()
    };
    let (model, cubic) = (took(Congestion::Model), took(Congestion::Cubic));
    let at_rate = (6 << 20) as f64 * 8.0 / 100e6;
    assert!(
        model < 1.6 * at_rate + 0.2 && cubic > 2.0 * model,
        "{model} s and {cubic} s; the link needs {at_rate} s"
    );
}

#[test]
fn a_model_needs_no_large_buffer() {
    let quic = QuicConfig { congestion_control: Congestion::Model, ..QuicConfig::default() };
    let (mut world, peer) = over(LinkConfig { buffer_bytes: Some(40_000), ..hundred_megabits() }, &quic);
    let took = send(&mut world, &peer, 6 << 20).as_secs_f64();
    let at_rate = (6 << 20) as f64 * 8.0 / 100e6;
    assert!(took < 1.3 * at_rate + 0.3, "{took} s; the link needs {at_rate} s");
}

#[test]
fn marks_keep_a_queue_from_overflowing() {
    for congestion_control in [Congestion::Model, Congestion::Cubic] {
        let quic = QuicConfig { congestion_control, ..QuicConfig::default() };
        let path =
            LinkConfig { mark_bytes: Some(60_000), buffer_bytes: Some(1_000_000), ..hundred_megabits() };
        let (mut world, peer) = over(path, &quic);
        send(&mut world, &peer, 6 << 20);
        let stats = world.link.stats();
        assert!(stats.marked > 0 && stats.tail_dropped == 0, "{congestion_control:?}: {stats:?}");
    }
}

#[test]
fn a_first_window_that_fits_the_path_leaves_in_the_bursts_of_its_round_trip() {
    // A wire of a machine: no bandwidth bounds it, and the window at the start never has to grow.
    let path = LinkConfig { delay: Duration::from_micros(20), ..LinkConfig::default() };
    let quic = QuicConfig {
        initial_congestion_window_bytes: 4 << 20,
        mtu_discovery: false,
        ..QuicConfig::default()
    };
    let (mut world, peer) = over(path, &quic);
    let took = send(&mut world, &peer, 512 << 10);
    // The bursts of a round trip of 333 ms are of 25 KB, one a turn of 10 us.
    assert!(took <= Duration::from_micros(150), "{took:?}");
}
