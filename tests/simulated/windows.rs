//! Windows that fit the path: a transfer is as fast as its path, however small its first windows were.

use crate::support::caller::End;
use crate::support::{SEED, Setup, World, gateway_v4, payload};
use std::time::{Duration, Instant};
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::send_limit::SendLimit;
use stoq::token::{Ranges, Token};

const FIRST_WINDOW_BYTES: u32 = 256 << 10;
const PAYLOAD_BYTES: usize = 24 << 20;
/// 200 Mbit/s over 100 ms: the first window allows a tenth of it.
const DELAY: Duration = Duration::from_millis(50);
const BITS_PER_S: u64 = 200_000_000;
/// The time that the payload takes on the wire.
const WIRE: Duration = Duration::from_millis(1_060);
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts and gets one payload; returns the times that both took.
fn transfers(window_budget_bytes: u64) -> [Duration; 2] {
    let quic = QuicConfig {
        receive_window_bytes: FIRST_WINDOW_BYTES,
        send_window_bytes: FIRST_WINDOW_BYTES,
        // The congestion window holds the product of rate and round trip from the start on.
        initial_congestion_window_bytes: 3 << 20,
        congestion_control: Congestion::Model,
        ..QuicConfig::default()
    };
    let step = Duration::from_micros(20);
    let setup = Setup {
        gateway_quic: quic.clone(),
        client_quic: quic,
        step,
        window_budget_bytes,
        ..Setup::default()
    };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    world.link.reconfigure(|link| {
        *link = LinkConfig { mtu: link.mtu, delay: DELAY, ..LinkConfig::default() };
        link.bandwidth_bits_per_s = Some(BITS_PER_S);
    });
    // Keep-alives, each 5 s, show the new round trip; the shortest of the old path counts for 5 s.
    world.pass(Duration::from_secs(15));
    let bytes = payload(PAYLOAD_BYTES);
    let token = Token::of(&bytes);
    let mut times = Vec::new();
    for is_get in [false, true] {
        let begun: Instant = world.now;
        let request = match is_get {
            false => world.caller(&peer).put(&peer, SEED, &bytes),
            true => world.caller(&peer).fetch(&peer, token, Ranges::all()),
        };
        world.run(PATIENCE, "a transfer", |world| world.caller(&peer).request(request).end.is_some());
        let end = world.caller(&peer).request(request).end();
        assert!(matches!(end, End::Done { .. } | End::Complete), "{end:?}");
        times.push(world.now.duration_since(begun));
    }
    [times[0], times[1]]
}

#[test]
fn a_transfer_outgrows_small_windows_only_within_the_budget() {
    for time in transfers(1 << 30) {
        assert!(time < 2 * WIRE, "{time:?} for a payload that takes {WIRE:?} on the wire");
    }
    for time in transfers(0) {
        // 256 KiB a round trip.
        assert!(time > 8 * WIRE, "{time:?}: the windows grew without a budget");
    }
}

#[test]
fn windows_limit_no_start() {
    // The congestion window doubles each round trip, and the windows must be there before it: 1 Gbit/s over 100 ms.
    let quic =
        QuicConfig { receive_window_bytes: 2 << 20, send_window_bytes: 2 << 20, ..QuicConfig::default() };
    let link =
        LinkConfig { delay: DELAY, bandwidth_bits_per_s: Some(1_000_000_000), ..LinkConfig::default() };
    let mut world = World::new(Setup {
        link,
        gateway_quic: quic.clone(),
        client_quic: quic,
        step: Duration::from_micros(20),
        window_budget_bytes: 1 << 30,
        ..Setup::default()
    });
    let peer = world.connect(0, gateway_v4());
    let put = world.caller(&peer).put(&peer, SEED, &payload(40 << 20));
    let limited = |world: &mut World| {
        let told = world.clients[0].inspect();
        world.pass(Duration::from_millis(1));
        told().remove(0).limited_s
    };
    // The client waits first until the gateway has accepted the put, and allows further streams.
    world.pass(8 * DELAY);
    let before = limited(&mut world);
    world.run(PATIENCE, "a put", |world| world.caller(&peer).request(put).end.is_some());
    let times = limited(&mut world).since(&before);
    assert!(times.of(SendLimit::Pacing) > 4 * DELAY, "{times:?}");
    assert_eq!(times.of(SendLimit::Peer) + times.of(SendLimit::Window), Duration::ZERO, "{times:?}");
}
