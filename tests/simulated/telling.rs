//! Clients of a fleet's gateway that is dead: those that only wait are told as well, unasked.

use crate::handover::{Fleet, Forger, SENDER, issued, mac, settings, short};
use crate::support::caller::Peer;
use crate::support::{ECHO, UDP_PORT, anycast_v4, anycast_v6};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{
    FLEET_LEASE_S, GONE_RESETS_BURST, HANDED_FLOW_MS_MAX, HANDED_FLOWS_LEN_MAX, HANDOVER_ANSWER_MS_MAX,
    HANDOVER_TELL_MS, RESET_INTERVAL_US,
};
use stoq::quic::fleet::FleetKeys;
use stoq::wire::gue::{GUE_PORT, Gue};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_client_that_only_waits_is_told_within_a_second_of_the_end_of_the_lease() {
    for (remote, workers) in [(anycast_v4(), 1), (anycast_v6(), 3)] {
        let mut fleet = Fleet::new(2, workers);
        let peer = fleet.world.connect(0, remote);
        fleet.rehash(1);
        fleet.world.echo(&peer, b"hello");
        fleet.kill(0);
        fleet.world.caller(&peer).message(&peer, ECHO, b"is anyone there?");
        fleet.world.pass(Duration::from_secs(FLEET_LEASE_S));
        assert_eq!(fleet.world.caller(&peer).closed(&peer), None, "the lease lives");
        let sent = fleet.count(Counter::HandoversNetOut)[1];
        fleet.tell(&[0]);
        let (took, reason) = fleet.until_closed(&peer, Duration::from_secs(1));
        assert!(reason.contains("stateless reset"), "{reason}");
        assert!(took <= ms(HANDOVER_TELL_MS + 5), "{took:?}");
        // It had nothing to send meanwhile.
        assert_eq!(fleet.count(Counter::HandoversNetOut)[1], sent);
        assert_eq!(fleet.count(Counter::DropHandoverGone), [0, 0]);
        assert_eq!(fleet.count(Counter::FleetResetsUnasked), [0, 1]);
        assert_eq!(fleet.count(Counter::FleetResetsSent), [0, 1]);
        fleet.world.pass(Duration::from_secs(5));
        assert_eq!(fleet.count(Counter::FleetResetsSent), [0, 1], "once");
    }
}

#[test]
fn one_lost_question_resets_nothing() {
    for workers in [1, 3] {
        let mut fleet = Fleet::new(2, workers);
        let peer = fleet.world.connect(0, anycast_v4());
        fleet.rehash(1);
        fleet.world.echo(&peer, b"hello");
        fleet.world.link.mute(mac(0));
        fleet.tell(&[0]);
        fleet.world.pass(ms(HANDOVER_ANSWER_MS_MAX - 1));
        fleet.world.link.unmute(mac(0));
        fleet.world.pass(Duration::from_secs(2));
        assert_eq!(fleet.count(Counter::FleetResetsSent), [0, 0]);
        fleet.world.echo(&peer, b"still here");
    }
}

#[test]
fn a_flow_that_was_handed_over_long_ago_is_not_told() {
    let mut fleet = Fleet::new(2, 1);
    let mut forger = Forger::new(&fleet);
    let keys = FleetKeys::new(&settings(0));
    let packet = |len| short(&keys.issue(0), len);
    forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &packet(60));
    fleet.world.pass(ms(HANDED_FLOW_MS_MAX));
    forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &packet(60));
    // A reset would not be shorter than this one.
    forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &packet(21));
    fleet.kill(0);
    fleet.tell(&[0]);
    fleet.world.pass(Duration::from_secs(2));
    assert_eq!(fleet.count(Counter::HandoversNetOut), [0, 3]);
    assert_eq!(fleet.count(Counter::FleetResetsUnasked), [0, 1]);
}

#[test]
fn a_flood_of_connection_ids_has_bounded_resets_at_a_bounded_rate() {
    let mut fleet = Fleet::new(2, 1);
    let mut forger = Forger::new(&fleet);
    let keys = FleetKeys::new(&settings(0));
    let many = HANDED_FLOWS_LEN_MAX + HANDED_FLOWS_LEN_MAX / 4;
    for at in 0..many {
        forger.queue(&fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &short(&keys.issue(0), 60));
        if at % 32 == 31 {
            fleet.world.pass(ms(1));
        }
    }
    fleet.kill(0);
    fleet.tell(&[0]);
    let bytes = fleet.count(Counter::TxBytes)[1];
    fleet.world.pass(ms(HANDOVER_TELL_MS));
    for _ in 0..3 {
        let before = fleet.count(Counter::FleetResetsUnasked)[1];
        fleet.world.pass(ms(500));
        let sent = fleet.count(Counter::FleetResetsUnasked)[1] - before;
        let bound = u64::from(GONE_RESETS_BURST) + 500_000 / RESET_INTERVAL_US;
        assert!((1..=bound).contains(&sent), "{sent} of {bound}");
    }
    fleet.world.pass(ms(HANDED_FLOWS_LEN_MAX as u64 * RESET_INTERVAL_US / 1000));
    let (handed, told) = (fleet.count(Counter::HandoversNetOut), fleet.count(Counter::FleetResetsUnasked));
    let bounds = HANDED_FLOWS_LEN_MAX as u64 / 2..=HANDED_FLOWS_LEN_MAX as u64;
    assert!(handed[1] == many as u64 && bounds.contains(&told[1]), "{handed:?} {told:?}");
    assert!(fleet.count(Counter::TxBytes)[1] - bytes < told[1] * (60 + 42));
    fleet.world.pass(Duration::from_secs(2));
    assert_eq!(fleet.count(Counter::FleetResetsSent), told);
}

/// A fleet whose first gateway was killed, and is silent for all workers of the second one; with a client of it that only waits.
fn with_a_gateway_that_is_dead(workers: usize) -> (Fleet, Peer) {
    let mut fleet = Fleet::new(2, workers);
    // What gateways send each other arrives at another worker than what clients send.
    let last = workers - 1;
    fleet.world.link.steer(mac(1), move |frame, _| if is_gue(frame) { last } else { 0 });
    let waiting = fleet.world.connect(0, anycast_v4());
    fleet.kill(0);
    fleet.tell(&[0]);
    fleet.world.pass(Duration::from_secs(2));
    (fleet, waiting)
}

fn is_gue(frame: &[u8]) -> bool {
    frame.get(36..38) == Some(&GUE_PORT.to_be_bytes())
}

#[test]
fn connections_of_a_gateway_that_returns_are_not_reset_while_its_lease_is_not_known() {
    for workers in [1, 3] {
        let (mut fleet, waiting) = with_a_gateway_that_is_dead(workers);
        let mut forger = Forger::new(&fleet);
        let at_the_second = |fleet: &Fleet| fleet.count(Counter::FleetResetsSent)[1];
        forger.send(&mut fleet, SENDER.parse().unwrap(), (1, UDP_PORT), &short(&issued(0), 60));
        assert_eq!(at_the_second(&fleet), 1, "it is taken for dead");
        // It has a table, and the other one does not have its lease.
        fleet.restart(workers);
        fleet.world.pass(ms(5));
        fleet.rehash(0);
        let peer = fleet.world.connect(0, anycast_v4());
        fleet.rehash(1);
        fleet.world.echo(&peer, b"the first datagram that moves");
        fleet.world.pass(Duration::from_secs(3));
        fleet.world.echo(&peer, b"still here");
        assert_eq!(at_the_second(&fleet), 1);
        assert!(fleet.count(Counter::HandoversNetIn)[0] > 0);
        // A connection of its former process is reset by itself.
        fleet.rehash(0);
        fleet.world.caller(&waiting).message(&waiting, ECHO, b"who are you?");
        let (_, reason) = fleet.until_closed(&waiting, Duration::from_secs(1));
        assert!(reason.contains("stateless reset"), "{reason}");
        assert_eq!(fleet.count(Counter::QuicStatelessResetsSent), [1, 0]);
        assert_eq!(at_the_second(&fleet), 1);
    }
}

#[test]
fn forged_signs_of_life_keep_no_client_from_being_told() {
    let (mut fleet, waiting) = with_a_gateway_that_is_dead(3);
    let mut forger = Forger::new(&fleet);
    let mut question = vec![0; Gue::Ask(7).encoded_len()];
    Gue::Ask(7).emit(&mut question);
    fleet.rehash(1);
    let asked = fleet.count(Counter::FleetQuestionsSent)[1];
    for from in [SENDER.parse().unwrap(), std::net::SocketAddr::new([10, 77, 0, 1].into(), 50_000)] {
        for _ in 0..250 {
            forger.send(&mut fleet, from, (1, GUE_PORT), &question);
        }
        let questions = fleet.count(Counter::FleetQuestionsSent)[1] - asked;
        // Each worker is asked at most for those of one second, and once more when it is in doubt.
        let is_member = from.port() == 50_000;
        assert!(if is_member { (1..=6).contains(&questions) } else { questions == 0 }, "{from}: {questions}");
    }
    fleet.world.caller(&waiting).message(&waiting, ECHO, b"is anyone there?");
    let begun = fleet.world.now;
    while fleet.world.caller(&waiting).closed(&waiting).is_none() {
        forger.send(
            &mut fleet,
            std::net::SocketAddr::new([10, 77, 0, 1].into(), 50_000),
            (1, GUE_PORT),
            &question,
        );
        assert!(fleet.world.now - begun < Duration::from_secs(1), "it is not told");
    }
    let reason = fleet.world.caller(&waiting).closed(&waiting).unwrap().to_owned();
    assert!(reason.contains("stateless reset"), "{reason}");
}
