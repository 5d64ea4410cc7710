//! The controllers over simulated bottlenecks.

use super::cubic::Cubic;
use super::model::Model;
use super::reserved::Reserved;
use super::testing::{FRAME_BYTES, Flow, PACKET_BYTES, Path, Simulation};
use super::*;
use std::time::Duration;

const INITIAL_WINDOW: u64 = 12_001;

fn model(seed: u64) -> Flow {
    Flow::new(Model::new(INITIAL_WINDOW, PACKET_BYTES as u16, seed))
}

fn cubic() -> Flow {
    Flow::new(Cubic::new(INITIAL_WINDOW, PACKET_BYTES as u16))
}

fn reserved(bits_per_s: u64) -> Flow {
    Flow::new(Reserved::new(bits_per_s, INITIAL_WINDOW, PACKET_BYTES as u16))
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// The shares of the path's rate that the flows have between two times.
fn shares(simulation: &mut Simulation, path: &Path, from: f64, to: f64) -> Vec<f64> {
    simulation.run(seconds(from));
    let before: Vec<_> = simulation.flows.iter().map(|flow| flow.delivered).collect();
    simulation.run(seconds(to));
    let payload = PACKET_BYTES as f64 / (PACKET_BYTES + 42) as f64;
    let carried = path.bits_per_s as f64 / 8.0 * (to - from) * payload;
    simulation
        .flows
        .iter()
        .zip(before)
        .map(|(flow, before)| (flow.delivered - before) as f64 / carried)
        .collect()
}

/// The share of one flow between two times.
fn share(path: &Path, flow: Flow, from: f64, to: f64) -> f64 {
    shares(&mut Simulation::new(path.clone(), vec![flow]), path, from, to)[0]
}

fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / squares / shares.len() as f64
}

/// 200 Mbit/s, a round trip of 50 ms, and a buffer of this many products of them.
fn path(products: f64, loss: f64) -> Path {
    Path { bits_per_s: 200_000_000, buffer_bytes: (1_250_000.0 * products) as u64, loss, ..Path::default() }
}

#[test]
fn model_fills_a_path_whatever_is_lost_by_chance() {
    for (loss, least) in [(0.0, 0.97), (0.001, 0.97), (0.01, 0.92)] {
        let got = share(&path(1.0, loss), model(1), 1.5, 5.0);
        assert!(got > least, "{got} at {loss}");
    }
    // CUBIC takes each for a full path.
    assert!(share(&path(1.0, 0.01), cubic(), 1.5, 5.0) < 0.1);
}

#[test]
fn losses_by_chance_end_no_start() {
    // In rounds of a hundred packets, chance takes more than 2 % now and then.
    for seed in 1..=12 {
        let path = Path {
            bits_per_s: 1_000_000_000,
            buffer_bytes: 6_250_000,
            delay: Duration::from_millis(25),
            loss: 0.01,
            seed,
            ..Path::default()
        };
        let share = share(&path, model(seed), 1.0, 2.0);
        assert!(share > 0.8, "{share} of the link in the second second, seed {seed}");
    }
}

#[test]
fn model_needs_no_large_buffer_and_leaves_one_empty() {
    for products in [0.1, 0.3] {
        let got = share(&path(products, 0.0), model(2), 2.0, 6.0);
        assert!(got > 0.93, "{got} with {products}");
    }
    let path = path(2.0, 0.0);
    let mut simulation = Simulation::new(path.clone(), vec![model(3)]);
    shares(&mut simulation, &path, 0.0, 2.0);
    simulation.mean_queue();
    simulation.run(seconds(6.0));
    let queue = simulation.mean_queue() / 1_250_000.0;
    assert!(queue < 0.25, "{queue} of a product waits");
}

#[test]
fn model_starts_without_losing_a_quarter_of_a_buffer() {
    let path = path(1.0, 0.0);
    let mut simulation = Simulation::new(path.clone(), vec![model(4)]);
    simulation.run(seconds(2.0));
    let buffer = path.buffer_bytes / PACKET_BYTES;
    assert!(simulation.dropped < buffer / 4, "{} of a buffer of {buffer}", simulation.dropped);
    assert!(shares(&mut simulation, &path, 2.0, 3.0)[0] > 0.97);
}

/// 300 Mbit/s with this round trip, and a buffer of one product.
fn long_path(rtt_s: f64) -> Path {
    let bits_per_s = 300_000_000;
    let buffer_bytes = (bits_per_s as f64 / 8.0 * rtt_s) as u64;
    Path { bits_per_s, buffer_bytes, delay: seconds(rtt_s / 2.0), ..Path::default() }
}

#[test]
fn a_start_over_a_long_path_is_soon_over_and_loses_little() {
    let path = long_path(0.2);
    let mut simulation = Simulation::new(path.clone(), vec![model(4)]);
    let got = shares(&mut simulation, &path, 1.0, 2.0)[0];
    assert!(got > 0.6, "{got} of the link in the rounds from the sixth to the tenth");
    let got = shares(&mut simulation, &path, 2.4, 4.0)[0];
    let buffer = path.buffer_bytes / PACKET_BYTES;
    assert!(got > 0.96 && simulation.dropped < buffer / 16, "{got}, {} dropped", simulation.dropped);
}

#[test]
fn a_start_that_the_queue_of_another_flow_ended_goes_on() {
    // The second flow has sent for a few rounds when the start of the first fills the buffer.
    let path = long_path(0.1);
    let flows = vec![model(20_100), model(20_101).starting(seconds(0.6))];
    let shares = shares(&mut Simulation::new(path.clone(), flows), &path, 4.0, 5.0);
    assert!(shares[1] > 0.12, "{shares:?}");
}

#[test]
fn models_share_a_path() {
    for flows in [2_u64, 4, 8] {
        let path = path(1.0, 0.0);
        let start = |index| model(index + 5).starting(seconds(index as f64));
        let mut simulation = Simulation::new(path.clone(), (0..flows).map(start).collect());
        let shares = shares(&mut simulation, &path, flows as f64 + 9.0, flows as f64 + 19.0);
        assert!(jain(&shares) > 0.95, "{shares:?}");
        assert!(shares.iter().sum::<f64>() > 0.95, "{shares:?}");
    }
}

#[test]
fn model_and_cubic_leave_each_other_a_part() {
    for model_first in [true, false] {
        let path = path(1.0, 0.0);
        let later = |flow: Flow| flow.starting(seconds(1.0));
        let flows = if model_first { vec![model(6), later(cubic())] } else { vec![cubic(), later(model(6))] };
        let shares = shares(&mut Simulation::new(path.clone(), flows), &path, 11.0, 21.0);
        assert!(shares.iter().all(|share| *share > 0.3), "model first: {model_first}: {shares:?}");
    }
}

#[test]
fn losses_by_chance_do_not_slow_models_down_that_share_a_path() {
    // Rounds of 1,700 packets, nearly each with a few losses.
    let path = Path {
        delay: Duration::from_millis(50),
        buffer_bytes: 2_500_000,
        loss: 0.002,
        seed: 2,
        ..path(1.0, 0.0)
    };
    let flows = vec![model(200), model(201).starting(seconds(0.5))];
    let mut simulation = Simulation::new(path.clone(), flows);
    for second in 3..10 {
        let sum: f64 = shares(&mut simulation, &path, f64::from(second), f64::from(second + 1)).iter().sum();
        assert!(sum > 0.88, "{sum} in the second after {second}");
    }
}

#[test]
fn a_model_beside_cubic_over_a_small_buffer_never_sends_more_than_the_path_carries_for_long() {
    let path = path(0.3, 0.0);
    let mut simulation = Simulation::new(path.clone(), vec![cubic(), model(201).starting(seconds(1.0))]);
    simulation.run(seconds(3.0));
    let carried = path.bits_per_s / 8 / PACKET_BYTES;
    for second in 4..26 {
        let before = simulation.dropped;
        simulation.run(seconds(f64::from(second)));
        let dropped = simulation.dropped - before;
        assert!(dropped < carried / 10, "{dropped} of {carried} dropped in the second before {second}");
    }
}

#[test]
fn probes_that_overflow_a_small_buffer_become_rare() {
    // A buffer of 17 packets.
    let path = path(0.02, 0.0);
    let mut simulation = Simulation::new(path.clone(), vec![model(9)]);
    simulation.run(seconds(2.0));
    let dropped = simulation.dropped;
    let got = shares(&mut simulation, &path, 2.0, 8.0)[0];
    let sent = path.bits_per_s * 6 / 8 / PACKET_BYTES;
    let dropped = simulation.dropped - dropped;
    assert!(got > 0.9 && dropped < sent / 50, "{got}, {dropped} of {sent} dropped");
}

/// 1 Gbit/s, a round trip of 2.5 ms, and a buffer of 400 packets, which are 4.8 ms.
fn short_path(loss: f64) -> Path {
    let (bits_per_s, delay) = (1_000_000_000, Duration::from_micros(1250));
    Path { bits_per_s, delay, buffer_bytes: 400 * FRAME_BYTES, loss, ..Path::default() }
}

#[test]
fn many_models_on_a_short_path_fill_it_share_it_and_lose_little() {
    let path = short_path(0.0);
    let flows = (0..16).map(|index| model(300 + index).starting(seconds(index as f64 * 0.001))).collect();
    let mut simulation = Simulation::new(path.clone(), flows);
    // It goes on until each flow was CUBIC's, tried the model, and was CUBIC's again.
    for second in (2..30).step_by(4).map(f64::from) {
        simulation.run(seconds(second));
        let (dropped, carried) = (simulation.dropped, simulation.carried);
        let shares = shares(&mut simulation, &path, second, second + 2.0);
        let dropped = (simulation.dropped - dropped) as f64;
        let lost = dropped / (dropped + ((simulation.carried - carried) / FRAME_BYTES) as f64);
        assert!(lost < 0.05, "{lost} of the packets were dropped after {second} s");
        assert!(jain(&shares) > 0.8 && shares.iter().sum::<f64>() > 0.95, "after {second} s: {shares:?}");
    }
}

#[test]
fn losses_by_chance_do_not_slow_a_model_down_that_has_a_short_path_alone() {
    for (delay_ms, loss) in [(0.5, 0.001), (1.25, 0.001), (1.25, 0.01), (5.0, 0.001), (5.0, 0.01)] {
        let path = Path { delay: seconds(delay_ms / 1000.0), ..short_path(loss) };
        let got = share(&path, model(310), 2.0, 8.0);
        assert!(got > 0.9, "{got} at {loss} with a delay of {delay_ms} ms");
    }
    assert!(share(&short_path(0.01), cubic(), 2.0, 8.0) < 0.5);
}

#[test]
fn an_outage_is_over_when_it_is_over() {
    let outage = Some((seconds(3.0), seconds(5.0)));
    let path = Path { outage, ..path(1.0, 0.0) };
    for (name, flow) in [("model", model(7)), ("reserved", reserved(190_000_000))] {
        let got = share(&path, flow, 6.5, 8.0);
        assert!(got > 0.85, "{name}: {got}");
    }
}

#[test]
fn a_late_worker_makes_no_path_slow() {
    // A wire inside a machine, whose cores are busy with others for up to 20 ms of each 25 ms.
    let late = Some((seconds(0.025), seconds(0.02)));
    let bits_per_s = 10_000_000_000;
    let wire =
        Path { bits_per_s, delay: Duration::from_micros(20), buffer_bytes: 1 << 20, late, ..Path::default() };
    for (packets, seed) in [(1, 1), (8, 2), (45, 3), (680, 4)] {
        let arrived = |flow: Flow| {
            let path = Path { seed, ..wire.clone() };
            let mut simulation = Simulation::new(path, vec![flow.of_messages(packets)]);
            simulation.run(seconds(2.0));
            simulation.flows[0].delivered
        };
        let (model, cubic) = (arrived(model(seed)), arrived(cubic()));
        assert!(model * 10 > cubic * 9, "messages of {packets} packets: {model} bytes, and {cubic} by CUBIC");
    }
}

#[test]
fn marks_are_answered() {
    let marking = Path { mark_bytes: Some(250_000), ..path(1.0, 0.0) };
    for (name, flow) in [("model", model(8)), ("cubic", cubic())] {
        let mut simulation = Simulation::new(marking.clone(), vec![flow]);
        simulation.run(seconds(2.0));
        let (dropped, _) = (simulation.dropped, simulation.mean_queue());
        let got = shares(&mut simulation, &marking, 2.0, 6.0)[0];
        assert_eq!(simulation.dropped, dropped, "{name}: marks keep the queue from overflowing");
        assert!(simulation.mean_queue() < 400_000.0 && got > 0.85, "{name}: {got}");
    }
}

#[test]
fn reserved_sends_at_its_rate_and_never_above_it() {
    for loss in [0.0, 0.01, 0.05] {
        let path = path(1.0, loss);
        let rate = 100_000_000;
        let mut simulation = Simulation::new(path.clone(), vec![reserved(rate)]);
        simulation.run(seconds(1.0));
        for window in 0..20 {
            let before = simulation.carried;
            simulation.run(seconds(1.0 + f64::from(window + 1) * 0.1));
            let sent = (simulation.carried - before) * 8;
            // The simulation paces payload; frames have 42 bytes more.
            let share = sent as f64 * PACKET_BYTES as f64 / (PACKET_BYTES + 42) as f64 / (rate as f64 * 0.1);
            assert!((0.9..1.03).contains(&share), "{share} at {loss}");
        }
        assert_eq!(simulation.dropped, 0);
    }
    // A rate that the path does not have: it comes down to what arrives, and no further.
    let path = path(0.5, 0.0);
    let mut simulation = Simulation::new(path.clone(), vec![reserved(400_000_000)]);
    let got = shares(&mut simulation, &path, 3.0, 6.0)[0];
    let lost = simulation.flows[0].lost * PACKET_BYTES;
    assert!(got > 0.9 && lost < simulation.flows[0].delivered / 5, "{got}, {lost} lost");
}

#[test]
fn cubic_leaves_slow_start_before_the_buffer_overflows() {
    let deep = path(3.0, 0.0);
    let mut simulation = Simulation::new(deep.clone(), vec![cubic()]);
    simulation.run(seconds(1.5));
    assert_eq!(simulation.dropped, 0, "HyStart++ ended it");
    assert!(shares(&mut simulation, &deep, 1.5, 4.0)[0] > 0.97);
    // After a loss seven tenths remain, and what was had comes back (RFC 9438 §4).
    let got = share(&path(1.0, 0.0), cubic(), 10.0, 20.0);
    assert!(got > 0.95, "{got}");
}

#[test]
fn names_are_read_and_others_refused_with_what_to_write() {
    for name in ["model", "cubic", "newreno", "reserved"] {
        assert_eq!(name.parse::<Congestion>().unwrap().name(), name);
    }
    assert!("bbr".parse::<Congestion>().unwrap_err().to_string().contains("write \"model\""));
    let unknown = "reno".parse::<Congestion>().unwrap_err().to_string();
    assert!(unknown.contains("\"reno\"") && unknown.contains("\"newreno\""), "{unknown}");
}

#[test]
fn every_factory_makes_a_controller_with_the_window_and_the_rate_that_were_given() {
    for (_, congestion) in Congestion::NAMES {
        let controller = factory(congestion, INITIAL_WINDOW, 50_000_000, None).build(Instant::now(), 1200);
        assert_eq!((controller.window(), controller.initial_window()), (INITIAL_WINDOW, INITIAL_WINDOW));
        let paced = (congestion == Congestion::Reserved).then_some(50_000_000);
        assert_eq!(controller.metrics().pacing_rate, paced, "{congestion:?}");
        assert_eq!(controller.clone_box().window(), INITIAL_WINDOW);
    }
}

#[test]
fn no_window_is_smaller_than_two_packets_of_the_size_that_is_found() {
    let (largest, now) = (65_507, Instant::now());
    for (_, congestion) in Congestion::NAMES {
        let mut controller = factory(congestion, INITIAL_WINDOW, 50_000_000, None).build(now, 1200);
        controller.on_mtu_update(largest);
        assert!(controller.window() >= 2 * u64::from(largest), "{congestion:?}: {}", controller.window());
        controller.on_congestion_event(now + seconds(1.0), now, true, 12_000);
        assert!(controller.window() >= 2 * u64::from(largest), "{congestion:?}: {}", controller.window());
        // A port whose size is taken at the start.
        let mut controller = factory(congestion, INITIAL_WINDOW, 50_000_000, None).build(now, largest);
        controller.on_mtu_update(largest);
        assert!(controller.window() >= 2 * u64::from(largest), "{congestion:?}: {}", controller.window());
    }
}
