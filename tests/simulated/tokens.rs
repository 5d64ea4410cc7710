//! Sessions and address tokens on many workers: what one worker gave is good at all of them, and no more often than at one.

use crate::support::caller::Peer;
use crate::support::tap::replay;
use crate::support::{GATEWAY_MAC, HELD, Setup, World, gateway_v4};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::HANDSHAKE_MS_MAX;

/// The queue on which datagrams to the gateway land, and those that did.
#[derive(Clone, Default)]
struct Queue(Arc<AtomicUsize>, Arc<Mutex<Vec<Vec<u8>>>>);

impl Queue {
    fn of(world: &World) -> Self {
        let queue = Self::default();
        let Self(at, frames) = queue.clone();
        world.link.steer(GATEWAY_MAC, move |frame, _| {
            frames.lock().unwrap().push(frame.to_vec());
            at.load(Relaxed)
        });
        queue
    }

    fn set(&self, queue: usize) {
        self.0.store(queue, Relaxed);
    }

    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.1.lock().unwrap())
    }
}

/// A gateway of two workers whose first one gave a session and an address token to the client, which has left.
fn met() -> (World, Queue) {
    let mut world = World::new(Setup { gateway_workers: 2, replay_safe: vec![HELD], ..Setup::default() });
    let queue = Queue::of(&world);
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"met");
    leave(&mut world, &peer);
    assert_eq!(world.gateway.count_of(0, Counter::ConnectionsOpened), 1);
    (world, queue)
}

fn leave(world: &mut World, peer: &Peer) {
    world.caller(peer).disconnect(peer);
    world.pass(Duration::from_secs(2));
}

/// The early messages that an application took.
fn taken(world: &World) -> usize {
    world.gateway.callers.iter().map(|caller| caller.messages.len()).sum()
}

#[test]
fn a_session_of_one_worker_is_resumed_at_another_one_and_no_replay_at_any() {
    let (mut world, queue) = met();
    queue.set(1);
    queue.take();
    let peer = world.connect_early(0, gateway_v4());
    world.caller(&peer).message(&peer, HELD, b"early");
    world.run(Duration::from_secs(1), "the first flight arrives", |world| taken(world) == 1);
    let flight = queue.take();
    world.run(Duration::from_secs(1), "the handshake", |world| {
        world.clients[0].count(Counter::QuicEarlyDataAccepted) == 1
    });
    world.echo(&peer, b"and on");
    assert_eq!(world.gateway.count_of(1, Counter::HandshakesServerEarly), 1);
    leave(&mut world, &peer);
    // The session was used up at the second worker: a replay is early data at neither.
    let opened = world.gateway.count(Counter::ConnectionsOpened);
    for worker in [0, 1] {
        queue.set(worker);
        replay(&world, &flight);
        world.pass(Duration::from_millis(HANDSHAKE_MS_MAX + 100));
    }
    assert_eq!(taken(&world), 1);
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), opened, "no replay ends a handshake");
    assert_eq!(world.gateway.connections(), 0);
}
