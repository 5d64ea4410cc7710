//! What hostile peers make a gateway keep, counted by the allocator, with honest traffic beside them.

#[allow(dead_code, unused_imports, reason = "the library's tests use the rest")]
#[path = "../../tests/simulated/support/mod.rs"]
mod support;

#[path = "../../tests/forged/mod.rs"]
mod forged;
#[path = "memory/forger.rs"]
mod forger;
#[path = "memory/frames.rs"]
mod frames;

use bytes::BufMut;
use cap::Cap;
use quinn_proto::crypto::{ClientConfig as _, Session};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Dir, Side, StreamId, Transmit};
use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stoq::counters::{Counter, Counters};
use stoq::datagram::Network as _;
use stoq::limits::{MESSAGE_COST_BYTES, MESSAGES_UNTAKEN_BYTES_MAX, OUTSTANDING_BYTES_MAX};
use stoq::quic::cid::CID_LEN;
use stoq::quic::transport::QuicConfig;
use stoq::record::{Descriptor, MessageHeader, Put, Record};
use stoq::tls::{ClientTls, client_config};
use stoq::token::Token;
use support::caller::Peer;
use support::identities::gateway_identity;
use support::raw::Raw;
use support::{DISCARD, ECHO, HELD, Setup, Station, World, gateway_v4, payload, station, trust};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// The allocator counts for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const HONEST_BYTES: usize = 300_000;
/// What tables, timers and rings may grow by beside what is charged, bytes.
const SLACK_BYTES: usize = 2 << 20;

/// An honest peer whose payloads are taken while others attack.
struct Honest {
    peer: Peer,
    bytes: Vec<u8>,
}

impl Honest {
    fn new(peer: Peer) -> Self {
        Self { peer, bytes: payload(HONEST_BYTES) }
    }

    /// Puts a payload, which the gateway reads, checks and drops, and returns once that is done: the virtual time that it took.
    #[track_caller]
    fn put(&self, world: &mut World) -> Duration {
        let begun = world.now;
        let put = world.caller(&self.peer).put(&self.peer, DISCARD, &self.bytes);
        let peer = self.peer.clone();
        world.run(Duration::from_secs(10), "an honest put", |world| {
            world.caller(&peer).request(put).end.is_some()
        });
        world.now.duration_since(begun)
    }

    /// The memory that `attack` makes this process keep, bytes. Each call of it follows an honest put.
    #[track_caller]
    fn growth(&self, world: &mut World, times: usize, mut attack: impl FnMut(&mut World, usize)) -> usize {
        let settle = |world: &mut World| {
            for _ in 0..3 {
                self.put(world);
            }
            world.pass(Duration::from_millis(100));
            ALLOCATOR.allocated()
        };
        let before = settle(world);
        for time in 0..times {
            self.put(world);
            attack(world, time);
        }
        settle(world).saturating_sub(before)
    }
}

/// A host without a certificate that sends CRYPTO frames of one byte with a gap before each.
struct Stranger {
    network: Station,
    counters: Counters,
    session: Box<dyn Session>,
}

impl Stranger {
    /// UDP payload of its datagrams, bytes: the minimum that RFC 9000 §14.1 requires of Initial packets.
    const DATAGRAM_BYTES: usize = 1200;

    fn new(world: &World) -> Self {
        let tls = client_config(&ClientTls::new(trust())).unwrap();
        // RFC 9000 §18.2: initial_source_connection_id.
        let parameters = [&[0x0f, CID_LEN as u8][..], &[7; CID_LEN]].concat();
        let parameters = TransportParameters::read(Side::Server, &mut &parameters[..]).unwrap();
        let session = tls.start_session(1, "10.77.0.1", &parameters).unwrap();
        Self { network: station(&world.link, 70, 1).remove(0), counters: Counters::default(), session }
    }

    /// Sends packet `number` of the connection that it calls `destination`.
    fn send(&mut self, world: &mut World, destination: [u8; CID_LEN], number: u32) {
        let keys = self.session.initial_keys(&ConnectionId::new(&destination), Side::Client);
        let mut packet = vec![0xc3, 0, 0, 0, 1];
        for cid in [&destination, &[7; CID_LEN]] {
            packet.put_u8(CID_LEN as u8);
            packet.put_slice(cid);
        }
        packet.put_u8(0);
        let length = Self::DATAGRAM_BYTES - packet.len() - 2;
        packet.put_u16(0x4000 | length as u16);
        let number_at = packet.len();
        packet.put_u32(number);
        // RFC 9000 §19.6: a CRYPTO frame of one byte.
        packet.put_u8(0x06);
        packet.put_u16(0x4000 | (1 + 2 * number as u16));
        packet.put_u8(1);
        packet.resize(Self::DATAGRAM_BYTES, 0);
        keys.packet.local.encrypt(number.into(), &mut packet, number_at + 4);
        keys.header.local.encrypt(number_at, &mut packet);
        let (destination, size) = (gateway_v4(), packet.len());
        let transmit = Transmit { destination, ecn: None, size, segment_size: None, src_ip: None };
        self.network.send(world.now, &self.counters, &transmit, &packet);
        for _ in 0..3 {
            self.network.flush(world.now, &self.counters);
            world.pass(Duration::from_micros(600));
            self.network.receive(world.now, &self.counters, |_| {});
        }
    }
}

#[test]
fn crypto_with_gaps_keeps_no_more_than_twice_its_datagrams() {
    const CONNECTIONS: usize = 8;
    /// Fewer than make quinn-proto copy them into one buffer.
    const EACH: usize = 20;
    /// A connection with its TLS session, bytes.
    const CONNECTION_BYTES: usize = 128 << 10;
    let _alone = alone();
    let (mut world, peer) = World::connected();
    let honest = Honest::new(peer);
    let mut stranger = Stranger::new(&world);
    let growth = honest.growth(&mut world, CONNECTIONS * EACH, |world, time| {
        let connection = [(time % CONNECTIONS) as u8; CID_LEN];
        stranger.send(world, connection, (time / CONNECTIONS) as u32);
    });
    assert_eq!(world.gateway.connections(), 1 + CONNECTIONS, "they wait for the rest of a ClientHello");
    let sent = CONNECTIONS * EACH * Stranger::DATAGRAM_BYTES;
    let bound = 2 * sent + CONNECTIONS * CONNECTION_BYTES;
    assert!(growth <= bound, "{growth} bytes are kept for {sent}; the bound is {bound}");
    world.echo(&honest.peer, b"an honest message");
}

/// A peer with a certificate that sends this on a stream, then one byte a packet.
fn crumbs(world: &mut World, dir: Dir, front: &[u8]) -> (Raw, StreamId) {
    let quic = QuicConfig { initial_congestion_window_bytes: 4 << 20, ..QuicConfig::default() };
    let raw = world.raw_with(gateway_v4(), quic);
    world.say_settings(raw);
    let id = world.raw_mut(raw).send(dir, front, false);
    world.pass(Duration::from_millis(10));
    world.raw_mut(raw).withdrawn = true;
    (raw, id)
}

#[test]
fn one_byte_a_packet_keeps_what_it_is_charged() {
    const CRUMBS: usize = 150;
    let _alone = alone();
    let mut message = Vec::new();
    MessageHeader { queue: ECHO, token: None }.emit_record_front(60_000, &mut message);
    // It waits for an answer: QUIC keeps the bytes behind it.
    let bytes = payload(60_000);
    let descriptor = Descriptor::plain(Token::of(&bytes), bytes.len() as u64).unwrap();
    let mut put = Vec::new();
    Put { queue: HELD, lease_s: 60, descriptor, lanes: None }.emit_record(&mut put);
    for (dir, front) in [(Dir::Uni, message), (Dir::Bi, put)] {
        let (mut world, peer) = World::connected();
        world.held().deaf = true;
        let honest = Honest::new(peer);
        let (raw, id) = crumbs(&mut world, dir, &front);
        let growth = honest.growth(&mut world, CRUMBS, |world, _| {
            let now = world.now;
            world.raw_mut(raw).crumb(now, id, b"x", false);
        });
        assert!(growth <= SLACK_BYTES, "{growth} bytes are kept for {CRUMBS} packets of one byte");
        world.echo(&honest.peer, b"an honest message");
    }
}

/// A peer sends messages of `bytes` bytes to the echo application and reads none: it stops itself, and an honest peer is served beside it.
fn unread_messages_stop_their_sender(bytes: usize) {
    const MESSAGES: usize = 300_000;
    const WINDOW: u32 = 64 << 10;
    let (mut world, peer) = World::connected();
    let honest = Honest::new(peer);
    let quic = QuicConfig {
        receive_window_bytes: WINDOW,
        receive_window_max_bytes: WINDOW,
        stream_receive_window_bytes: WINDOW,
        ..QuicConfig::default()
    };
    let raw = world.raw_with(gateway_v4(), quic);
    world.say_settings(raw);
    let mut message = Vec::new();
    MessageHeader { queue: ECHO, token: None }.emit_record_front(bytes, &mut message);
    message.resize(message.len() + bytes, b'm');
    let flood = message.repeat(MESSAGES);
    world.raw_mut(raw).deaf = true;
    let before = world.gateway.count(Counter::RecordsIn);
    let growth = honest.growth(&mut world, 30, |world, time| {
        if time == 0 {
            world.raw_mut(raw).send(Dir::Uni, &flood, false);
        }
        world.pass(Duration::from_millis(100));
        world.echo(&honest.peer, b"an honest message");
    });
    let taken = (world.gateway.count(Counter::RecordsIn) - before) as usize;
    let cost = bytes + MESSAGE_COST_BYTES;
    // QUIC takes a window of answers without credit, which have a front of 3 bytes at least.
    let bound = (OUTSTANDING_BYTES_MAX + MESSAGES_UNTAKEN_BYTES_MAX) / cost + WINDOW as usize / (3 + bytes);
    assert!((bound / 2..=bound + 1000).contains(&taken), "{taken} messages were read; the bound is {bound}");
    assert!(taken < MESSAGES / 2, "it is stopped before its end");
    // The sender's own copy of what it could not send yet is in this process too.
    let bound = OUTSTANDING_BYTES_MAX + MESSAGES_UNTAKEN_BYTES_MAX + 2 * flood.len() + SLACK_BYTES;
    assert!(growth <= bound, "{growth} bytes are kept for {taken} messages; the bound is {bound}");
    let now = world.now;
    world.raw_mut(raw).hear(now);
    world.run(Duration::from_secs(60), "it reads on, and every message is answered", |world| {
        world.gateway.count(Counter::RecordsIn) - before >= MESSAGES as u64
    });
}

#[test]
fn messages_that_are_not_read_stop_their_sender_alone() {
    let _alone = alone();
    for bytes in [0, 1] {
        unread_messages_stop_their_sender(bytes);
    }
}

#[test]
fn bytes_that_no_application_takes_are_bounded_by_the_share_of_their_node() {
    const CONNECTIONS: usize = 8;
    const MESSAGE_BYTES: usize = 60_000;
    const MESSAGES: usize = 200;
    const BUDGET_BYTES: u64 = 32 << 20;
    let _alone = alone();
    let mut world = World::new(Setup { window_budget_bytes: BUDGET_BYTES, ..Setup::default() });
    let honest = Honest::new(world.connect(0, gateway_v4()));
    world.held().deaf = true;
    let raws: Vec<_> = (0..CONNECTIONS)
        .map(|_| world.raw_of(gateway_v4(), &QuicConfig::default(), gateway_identity(3)))
        .collect();
    for raw in &raws {
        world.say_settings(*raw);
    }
    let mut message = Vec::new();
    MessageHeader { queue: HELD, token: None }.emit_record_front(MESSAGE_BYTES, &mut message);
    message.resize(message.len() + MESSAGE_BYTES, b'm');
    let flood = message.repeat(MESSAGES);
    honest.put(&mut world);
    let alone = honest.put(&mut world);
    let (mut largest_bytes, mut slowest) = (0, Duration::ZERO);
    let growth = honest.growth(&mut world, 20, |world, time| {
        if time == 0 {
            for raw in &raws {
                world.raw_mut(*raw).send(Dir::Uni, &flood, false);
            }
        }
        for _ in 0..10 {
            world.pass(Duration::from_millis(10));
            largest_bytes = largest_bytes.max(world.gateway.shared.window_budget.taken_bytes());
        }
        slowest = slowest.max(honest.put(world));
    });
    // An unused link: only the gateway's own refusals could make the honest peer wait.
    assert!(slowest <= alone * 11 / 10, "an honest put takes {slowest:?} instead of {alone:?}");
    assert!(largest_bytes <= BUDGET_BYTES, "{largest_bytes} bytes were taken");
    for raw in &raws {
        assert!(world.raw_mut(*raw).lost.is_none(), "{:?}", world.raw_mut(*raw).lost);
    }
    let budget = &world.gateway.shared.window_budget;
    let held_bytes = budget.held_bytes(Some(gateway_identity(3).node_id()));
    assert!(held_bytes > BUDGET_BYTES / 4, "{held_bytes}: it takes what it may");
    assert!(budget.taken_bytes() <= BUDGET_BYTES, "{} bytes are taken", budget.taken_bytes());
    // The senders' own copies are in this process too. What is kept costs at most twice its bytes.
    let untaken = CONNECTIONS * MESSAGES_UNTAKEN_BYTES_MAX;
    let bound = CONNECTIONS * flood.len() + 2 * (held_bytes as usize + untaken) + SLACK_BYTES;
    assert!(bound < 2 * CONNECTIONS * flood.len(), "the bound is less than what they send");
    assert!(growth <= bound, "{growth} bytes are kept; the bound is {bound}");
}
