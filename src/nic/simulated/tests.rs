//! Tests of the simulated link.

use super::*;
use crate::wire::checksum::Sum;

const A: Mac = [2, 0, 0, 0, 0, 1];
const B: Mac = [2, 0, 0, 0, 0, 2];

fn send(nic: &mut SimulatedNic, now: Instant, tag: u8) {
    let fill = |frame: &mut [u8]| {
        frame[..6].copy_from_slice(&B);
        frame[6..12].copy_from_slice(&A);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame[14..].fill(tag);
    };
    assert!(nic.tx_frame(TxKind::Plain, 100, fill));
    nic.tx_flush(now);
}

fn received(nic: &mut SimulatedNic, now: Instant) -> Vec<u8> {
    let mut tags = Vec::new();
    while nic.rx_burst(now, |frame, _| tags.push(frame[14])) > 0 {}
    tags
}

fn run(config: LinkConfig) -> (Vec<u8>, LinkStats) {
    let link = SimulatedLink::new(config);
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let start = Instant::now();
    for tag in 0..200 {
        send(&mut a, start, tag);
    }
    let mut tags = Vec::new();
    while let Some(at) = link.next_delivery() {
        tags.extend(received(&mut b, at));
    }
    (tags, link.stats())
}

#[test]
fn the_default_link_delivers_everything_in_order() {
    assert_eq!(run(LinkConfig::default()).0, (0..200).collect::<Vec<u8>>());
}

#[test]
fn the_same_seed_gives_the_same_losses() {
    let trouble = || LinkConfig {
        seed: 7,
        loss: 0.1,
        duplication: 0.1,
        reordering: 0.3,
        corruption: 0.1,
        ..LinkConfig::default()
    };
    let (first, stats) = run(trouble());
    assert_eq!((first, stats), run(trouble()));
    assert!(stats.lost > 0 && stats.duplicated > 0 && stats.reordered > 0 && stats.corrupted > 0);
    assert_ne!(stats, run(LinkConfig { seed: 8, ..trouble() }).1);
}

#[test]
fn a_frame_arrives_after_its_time_on_the_wire_and_the_delay() {
    let link = SimulatedLink::new(LinkConfig {
        delay: Duration::from_millis(5),
        bandwidth_bits_per_s: Some(800_000),
        ..LinkConfig::default()
    });
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let start = Instant::now();
    send(&mut a, start, 1);
    send(&mut a, start, 2);
    assert_eq!(link.next_delivery(), Some(start + Duration::from_millis(6)));
    assert!(received(&mut b, start + Duration::from_millis(5)).is_empty());
    assert_eq!(received(&mut b, start + Duration::from_millis(6)), [1]);
    assert_eq!(received(&mut b, start + Duration::from_millis(7)), [2]);
}

#[test]
fn steering_chooses_the_queue() {
    let link = SimulatedLink::new(LinkConfig::default());
    let mut a = link.add_station(A, 1).remove(0);
    let mut b = link.add_station(B, 4);
    link.steer(B, |frame, _| usize::from(frame[14]));
    let now = Instant::now();
    for tag in [0, 3, 9] {
        send(&mut a, now, tag);
    }
    assert_eq!(received(&mut b[0], now), [0]);
    assert_eq!(received(&mut b[3], now), [3, 9]);
}

#[test]
fn nothing_passes_a_link_that_is_down() {
    let link = SimulatedLink::new(LinkConfig::default());
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    link.set_up(false);
    assert!(!a.link_up());
    send(&mut a, Instant::now(), 1);
    assert!(received(&mut b, Instant::now()).is_empty());
    assert_eq!(link.stats().lost, 1);
}

#[test]
fn a_frame_larger_than_the_link_takes_is_refused() {
    let link = SimulatedLink::new(LinkConfig::default());
    let mut a = link.add_station(A, 1).remove(0);
    assert!(!a.tx_frame(TxKind::Plain, 1519, |_| unreachable!()));
    assert!(a.tx_frame(TxKind::Plain, 1518, |frame| frame.fill(0)));
}

/// Frames of an IPv4 packet with these ECN bits, the header's checksum right.
fn ecn(bits: u8) -> Vec<u8> {
    let mut frame =
        [&B[..], &A[..], &[0x08, 0, 0x45, bits, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]]
            .concat();
    let checksum = Sum::default().bytes(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.resize(100, 0);
    frame
}

#[test]
fn a_full_buffer_drops_the_last_frames_and_no_others() {
    // 100 bytes take 1 ms.
    let link = SimulatedLink::new(LinkConfig {
        bandwidth_bits_per_s: Some(800_000),
        buffer_bytes: Some(1000),
        ..LinkConfig::default()
    });
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let start = Instant::now();
    (0..15).for_each(|tag| send(&mut a, start, tag));
    assert_eq!(link.stats().tail_dropped, 5);
    // Five have left, so five more find room.
    let later = start + Duration::from_millis(5);
    (20..30).for_each(|tag| send(&mut a, later, tag));
    assert_eq!(link.stats().tail_dropped, 10);
    let got = received(&mut b, start + Duration::from_secs(1));
    assert_eq!(got, (0..10).chain(20..25).collect::<Vec<u8>>());
}

#[test]
fn losses_occur_in_runs() {
    let config = LinkConfig { burst: 0.01, burst_len: 30.0, ..LinkConfig::default() };
    let link = SimulatedLink::new(config);
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let (now, mut lost, mut runs, mut before) = (Instant::now(), 0, 0, true);
    for _ in 0..20_000 {
        send(&mut a, now, 1);
        let arrived = !received(&mut b, now).is_empty();
        lost += u32::from(!arrived);
        runs += u32::from(before && !arrived);
        before = arrived;
    }
    assert!((20..=40).contains(&(lost / runs)), "{lost} frames lost in {runs} runs");
}

#[test]
fn a_run_of_losses_ends_by_its_time_where_few_frames_are_sent() {
    let burst_time = Some(Duration::from_millis(10));
    let config = LinkConfig { burst: 1.0, burst_len: 1e9, burst_time, ..LinkConfig::default() };
    let link = SimulatedLink::new(config);
    let (mut a, start) = (link.add_station(A, 1).remove(0), Instant::now());
    let _b = link.add_station(B, 1);
    send(&mut a, start, 1);
    link.reconfigure(|link| link.burst = f64::MIN_POSITIVE);
    for (ms, lost) in [(9, 2), (10, 2), (11, 2)] {
        send(&mut a, start + Duration::from_millis(ms), 1);
        assert_eq!(link.stats().lost, lost, "after {ms} ms");
    }
}

#[test]
fn a_path_with_a_smaller_mtu_than_its_devices_loses_larger_frames() {
    let link = SimulatedLink::new(LinkConfig { path_mtu: Some(80), ..LinkConfig::default() });
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    send(&mut a, Instant::now(), 1);
    assert!(received(&mut b, Instant::now()).is_empty());
    assert_eq!(link.stats().too_large, 1);
    link.reconfigure(|link| link.path_mtu = Some(86));
    send(&mut a, Instant::now(), 1);
    assert_eq!(received(&mut b, Instant::now()), [1]);
}

#[test]
fn one_way_may_be_worse_than_the_other() {
    let link = SimulatedLink::new(LinkConfig::default());
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    link.reconfigure_from(A, |way| way.loss = 1.0);
    let now = Instant::now();
    send(&mut a, now, 1);
    assert!(received(&mut b, now).is_empty());
    assert!(b.tx_frame(TxKind::Plain, 100, |frame| {
        frame[..6].copy_from_slice(&A);
        frame[6..].fill(0);
    }));
    b.tx_flush(now);
    assert_eq!(received(&mut a, now), [0]);
}

#[test]
fn a_queue_marks_packets_that_are_capable_of_ecn() {
    let link = SimulatedLink::new(LinkConfig {
        bandwidth_bits_per_s: Some(800_000),
        mark_bytes: Some(150),
        ..LinkConfig::default()
    });
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let start = Instant::now();
    for bits in [2, 2, 2, 0] {
        let frame = ecn(bits);
        assert!(a.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(&frame)));
        a.tx_flush(start);
    }
    let mut got = Vec::new();
    b.rx_burst(start + Duration::from_secs(1), |frame, _| got.push(frame.to_vec()));
    assert_eq!(got, [ecn(2), ecn(2), ecn(3), ecn(0)]);
    assert_eq!(link.stats().marked, 1);
}

#[test]
fn a_held_back_frame_is_overtaken_by_later_ones_alone() {
    let link = SimulatedLink::new(LinkConfig::default());
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let start = Instant::now();
    send(&mut a, start, 1);
    link.reconfigure(|link| link.reordering = 1.0);
    send(&mut a, start, 2);
    link.reconfigure(|link| link.reordering = 0.0);
    send(&mut a, start, 3);
    assert_eq!(received(&mut b, start), [1, 3]);
    assert_eq!(received(&mut b, start + Duration::from_millis(1)), [2]);
    // A delay that becomes shorter lets what is sent later arrive first.
    link.reconfigure(|link| link.delay = Duration::from_millis(5));
    send(&mut a, start, 4);
    link.reconfigure(|link| link.delay = Duration::from_millis(2));
    send(&mut a, start, 5);
    assert_eq!(link.next_delivery(), Some(start + Duration::from_millis(2)));
    assert_eq!(received(&mut b, start + Duration::from_millis(4)), [5]);
    assert_eq!(received(&mut b, start + Duration::from_millis(5)), [4]);
}

#[test]
fn stations_that_share_a_bottleneck_share_its_rate_and_its_buffer() {
    // 100 bytes and 25 of overhead take 1 ms.
    let link = SimulatedLink::new(LinkConfig {
        bandwidth_bits_per_s: Some(1_000_000),
        buffer_bytes: Some(500),
        overhead_bytes: 25,
        ..LinkConfig::default()
    });
    const C: Mac = [2, 0, 0, 0, 0, 3];
    let mut nics: Vec<_> = [A, B, C].iter().map(|&mac| link.add_station(mac, 1).remove(0)).collect();
    link.share_bottleneck(C, A);
    let start = Instant::now();
    for tag in 0..3 {
        send(&mut nics[0], start, tag);
        send(&mut nics[2], start, 10 + tag);
    }
    assert_eq!((link.stats().tail_dropped, link.waiting_bytes(A, start)), (2, 500));
    assert_eq!(received(&mut nics[1], start + Duration::from_millis(3)), [0, 10, 1]);
    assert_eq!(received(&mut nics[1], start + Duration::from_millis(4)), [11]);
    assert_eq!(link.waiting_bytes(A, start + Duration::from_millis(4)), 0);
}

#[test]
fn delivering_names_the_stations_that_have_frames() {
    let link = SimulatedLink::new(LinkConfig { delay: Duration::from_millis(1), ..LinkConfig::default() });
    let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
    let start = Instant::now();
    send(&mut a, start, 1);
    let named = |now| {
        let mut named = Vec::new();
        link.deliver(now, |mac| named.push(mac));
        named
    };
    assert!(named(start).is_empty());
    assert_eq!(named(start + Duration::from_millis(1)), [B]);
    assert_eq!(received(&mut b, start + Duration::from_millis(1)), [1]);
    assert!(named(start + Duration::from_millis(1)).is_empty());
}
