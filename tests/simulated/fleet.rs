//! A gateway with a fleet's key: connection IDs of 17 bytes, resets after a restart, and rotations of the key while it runs.

use crate::support::caller::Peer;
use crate::support::{ECHO, GATEWAY_MAC, Setup, World, gateway_v4, gateway_v6, joined, payload};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{CID_LIFETIME_S, CID_ROTATION_KEPT_S};
use stoq::quic::fleet_settings::{CidRotation, FleetSecret, FleetSettings, RotationSalt, RotationState};
use stoq::quic::routable::{ServerId, rotation_of};
use stoq::token::Ranges;

/// Rotations of these numbers, of which one issues.
fn rotations(numbers: &[u8], issuing: u8) -> Vec<CidRotation> {
    let state = |number| if number == issuing { RotationState::Issue } else { RotationState::Accept };
    let rotation = |&number| CidRotation { number, salt: RotationSalt([number; 16]), state: state(number) };
    numbers.iter().map(rotation).collect()
}

fn settings(secret: u8, server_id: u8, rotations: Vec<CidRotation>) -> FleetSettings {
    let octets = [secret; 32];
    let secret = FleetSecret::read(&octets[..]).unwrap().unwrap();
    FleetSettings::new(secret, ServerId([0, 0, server_id]), rotations).unwrap()
}

fn setup(workers: usize, fleet: FleetSettings) -> Setup {
    Setup { gateway_workers: workers, clients: 2, fleet: Some(fleet), ..Setup::default() }
}

/// Runs until the client hears that its connection has ended. Returns how long that took, and the reason.
fn until_closed(world: &mut World, peer: &Peer, limit: Duration) -> (Duration, String) {
    let begun = world.now;
    let waiting = peer.clone();
    world.run(limit, "the client hears of it", |world| world.caller(&waiting).closed(&waiting).is_some());
    (world.now - begun, world.caller(peer).closed(peer).unwrap().to_owned())
}

/// Counts the datagrams to the gateway with a short header by their rotations. They arrive at each queue in turn.
fn count_rotations(world: &World) -> Arc<[AtomicUsize; 2]> {
    let (counts, turn) = (Arc::<[AtomicUsize; 2]>::default(), AtomicUsize::new(0));
    let counted = counts.clone();
    world.link.steer(GATEWAY_MAC, move |frame, queues| {
        let payload = match frame.get(12..14) {
            Some([0x08, 0x00]) => frame.get(14 + 20 + 8..),
            Some([0x86, 0xdd]) => frame.get(14 + 40 + 8..),
            _ => None,
        };
        if let Some([first, id, ..]) = payload
            && first & 0x80 == 0
        {
            let rotation = rotation_of(*id).expect("every ID is of this form");
            counted[usize::from(rotation)].fetch_add(1, Relaxed);
        }
        turn.fetch_add(1, Relaxed) % queues
    });
    counts
}

#[test]
fn a_gateway_restarted_with_its_fleets_key_resets_its_former_connections() {
    // With another number of workers, and with another rotation that issues.
    for (before, after, issuing) in [(1, 1, 0), (2, 1, 1), (1, 2, 0)] {
        let mut world = World::new(setup(before, settings(1, 1, rotations(&[0, 1], 0))));
        let peers = [world.connect(0, gateway_v4()), world.connect(1, gateway_v6())];
        world.pass(Duration::from_secs(2));
        world.kill_and_restart_gateway_as(&setup(after, settings(1, 1, rotations(&[0, 1], issuing))));
        for peer in &peers {
            world.caller(peer).message(peer, ECHO, b"who are you?");
            let (took, reason) = until_closed(&mut world, peer, Duration::from_secs(29));
            assert!(reason.contains("stateless reset"), "{reason}");
            // The new process first asks for the client's MAC.
            assert!(took <= Duration::from_millis(2), "two round trips: {took:?}");
        }
        assert_eq!(world.gateway.count(Counter::QuicStatelessResetsSent), 2);
        let again = world.connect(0, gateway_v4());
        world.echo(&again, b"and here we are again");
    }
}

#[test]
fn a_gateway_with_another_key_another_number_or_without_the_rotation_is_silent_until_the_idle_timeout() {
    let others = [
        settings(2, 1, rotations(&[0, 1], 0)),
        settings(1, 2, rotations(&[0, 1], 0)),
        settings(1, 1, rotations(&[1], 1)),
    ];
    for other in others {
        let mut world = World::new(setup(1, settings(1, 1, rotations(&[0], 0))));
        let peer = world.connect(0, gateway_v4());
        world.pass(Duration::from_secs(2));
        world.kill_and_restart_gateway_as(&setup(1, other));
        world.caller(&peer).message(&peer, ECHO, b"who are you?");
        let (took, reason) = until_closed(&mut world, &peer, Duration::from_secs(60));
        assert!(!reason.contains("stateless reset"), "{reason}");
        assert!(took >= Duration::from_secs(9), "{took:?}: {reason}");
        assert_eq!(world.gateway.count(Counter::QuicStatelessResetsSent), 0);
        assert!(world.gateway.count(Counter::DropNoConnection) > 0);
    }
}

#[test]
fn a_rotation_of_the_key_loses_no_connection_and_ends_while_connections_go_on() {
    let first = settings(1, 1, rotations(&[0], 0));
    let mut world = World::new(setup(2, first.clone()));
    let counts = count_rotations(&world);
    let counted = |rotation: usize| counts[rotation].load(Relaxed);
    let peers = [world.connect(0, gateway_v4()), world.connect(1, gateway_v6())];
    let use_all = |world: &mut World| {
        for peer in &peers {
            world.echo(peer, b"still here");
            let bytes = payload(200_000);
            let token = world.put(peer, &bytes);
            assert_eq!(joined(&world.get(peer, token, Ranges::all())), bytes);
        }
    };
    use_all(&mut world);
    let accepted = first.rotated(rotations(&[0, 1], 0), world.now).unwrap();
    world.gateway.renew_fleet(&accepted);
    use_all(&mut world);
    assert_eq!(counted(1), 0);
    let issued = accepted.rotated(rotations(&[0, 1], 1), world.now).unwrap();
    world.gateway.renew_fleet(&issued);
    // A connection that begins now has IDs of the new rotation; the earlier ones have them within the time that the old rotation is kept.
    let late = world.connect_from(0, 0, gateway_v6());
    world.echo(&late, b"new");
    assert!(counted(1) > 0);
    let before = counted(0);
    use_all(&mut world);
    assert!(counted(0) > before);
    for _ in 0..CID_ROTATION_KEPT_S / (CID_LIFETIME_S / 4) {
        world.pass(Duration::from_secs(CID_LIFETIME_S / 4));
        use_all(&mut world);
    }
    let before = counted(0);
    use_all(&mut world);
    world.echo(&late, b"still here");
    assert_eq!(counted(0), before, "no connection has an ID of the old rotation");
    let last = issued.rotated(rotations(&[1], 1), world.now).unwrap();
    world.gateway.renew_fleet(&last);
    world.pass(Duration::from_secs(CID_LIFETIME_S));
    use_all(&mut world);
    let gateway = &world.gateway;
    assert!(gateway.count(Counter::HandoversIn) > 100, "datagrams of each connection arrive at both workers");
    assert_eq!(gateway.count(Counter::QuicStatelessResetsSent), 0);
    assert_eq!(gateway.count(Counter::ConnectionsOpened), 3);
    for peer in peers.iter().chain([&late]) {
        assert_eq!(world.caller(peer).closed(peer), None);
    }
}
