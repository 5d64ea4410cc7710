//! Floods against a serving gateway: every drop is counted, the gateway's state is bounded, and honest clients are served.

#[allow(dead_code, unused_imports, reason = "the library's tests use the rest")]
#[path = "../../../tests/simulated/support/mod.rs"]
mod support;

mod busy;

use quinn_proto::Transmit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use stoq::counters::{Counter, Counters};
use stoq::datagram::Network as _;
use stoq::limits::{
    HALF_OPEN_UNPROVEN_LEN_MAX, HANDSHAKE_MS_MAX, INCOMING_LEN_MAX, UNPROVEN_HANDSHAKES_BURST,
};
use stoq::quic::admission::is_unproven_initial;
use stoq::quic::fleet_settings::{CidRotation, FleetSecret, FleetSettings, RotationSalt, RotationState};
use stoq::quic::routable::ServerId;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{ClientTls, client_config};
use stoq_gateway::pktgen::{IMIX, INITIAL_DATAGRAM_BYTES, Initials, Load, Mix};
use support::tap::Tap;
use support::{GATEWAY_MAC, Setup, Station, World, gateway_v4, station, trust};

/// A host that floods the gateway.
struct Flooder {
    network: Station,
    counters: Counters,
    answers: u64,
    answered_bytes: usize,
}

impl Flooder {
    fn new(world: &World) -> Self {
        let network = station(&world.link, 60, 1).remove(0);
        Self { network, counters: Counters::default(), answers: 0, answered_bytes: 0 }
    }

    /// Sends `count` datagrams, `each` of them a millisecond.
    fn flood(&mut self, world: &mut World, load: &mut Load, count: usize, each: usize) {
        let mut sent = 0;
        while sent < count {
            let (bytes, segment) = load.next(each.min(count - sent));
            sent += bytes.len() / segment;
            self.burst(world, bytes, segment);
        }
    }

    /// Sends datagrams of this size in a burst.
    fn burst(&mut self, world: &mut World, bytes: &[u8], segment: usize) {
        self.send(world, bytes, segment);
        for _ in 0..3 {
            self.network.flush(world.now, &self.counters);
            world.pass(Duration::from_micros(600));
            self.listen(world);
        }
    }

    /// Takes the answers that have arrived.
    fn listen(&mut self, world: &World) {
        let (answers, bytes) = (&mut self.answers, &mut self.answered_bytes);
        self.network.receive(world.now, &self.counters, |datagram| {
            *answers += 1;
            *bytes += datagram.payload.len();
        });
        self.network.flush(world.now, &self.counters);
    }

    /// The same, and takes no answer.
    fn send(&mut self, world: &World, bytes: &[u8], segment: usize) {
        let transmit = Transmit {
            destination: gateway_v4(),
            ecn: None,
            size: bytes.len(),
            segment_size: Some(segment),
            src_ip: None,
        };
        self.network.send(world.now, &self.counters, &transmit, bytes);
        self.network.flush(world.now, &self.counters);
    }

    /// Begins this many connections in a burst. Their ClientHellos never become whole.
    fn begin_halves(&mut self, world: &mut World, initials: &Initials, count: usize) {
        self.burst(world, &halves(initials, count), INITIAL_DATAGRAM_BYTES);
    }
}

/// The first datagrams of this many first flights.
fn halves(initials: &Initials, count: usize) -> Vec<u8> {
    let (mut halves, mut flight) = (Vec::new(), Vec::new());
    for _ in 0..count {
        flight.clear();
        initials.emit_flight(&mut flight);
        halves.extend_from_slice(&flight[..INITIAL_DATAGRAM_BYTES]);
    }
    halves
}

fn initials() -> Initials {
    Initials::new(client_config(&ClientTls::new(trust())).unwrap(), "10.77.0.1").unwrap()
}

fn assert_serves(world: &mut World, peer: &support::caller::Peer) {
    world.echo(peer, b"an honest message");
    let other = world.connect(0, gateway_v4());
    world.echo(&other, b"a new one's");
    assert_eq!(world.caller(peer).closed(peer), None);
}

#[test]
fn garbage_is_dropped_under_named_counters_and_the_gateway_serves_on() {
    let (mut world, peer) = World::connected();
    let mut flooder = Flooder::new(&world);
    let taken = |world: &World| world.gateway.count(Counter::RxPackets);
    let before = taken(&world);
    let mut small = Load::garbage(Mix::new(&[(64, 64)], false, false, 1500).unwrap());
    flooder.flood(&mut world, &mut small, 1000, 50);
    assert_eq!(world.gateway.count(Counter::DropNotQuic), 1000);
    assert_eq!(world.gateway.count(Counter::DropNoConnection), 0, "18 bytes never reach QUIC");
    assert!(taken(&world) - before >= 1000, "the device delivered all of it");

    let mut imix = Load::garbage(Mix::new(&IMIX, false, false, 1500).unwrap());
    flooder.flood(&mut world, &mut imix, 1008, 50);
    let dropped =
        world.gateway.count(Counter::DropNotQuic) + world.gateway.count(Counter::DropNoConnection) - 1000;
    assert_eq!(dropped, 1008, "{}", world.report());
    assert_eq!(world.gateway.connections(), 1);
    // Garbage as large as an Initial packet gets Version Negotiation; some other garbage gets a stateless reset.
    assert!(flooder.answers < 200, "{} answers to 1008 datagrams", flooder.answers);
    assert_serves(&mut world, &peer);
}

#[test]
fn a_repeated_flight_counts_as_one_attempt() {
    let (mut world, peer) = World::connected();
    let mut flooder = Flooder::new(&world);
    flooder.flood(&mut world, &mut Load::replay(&initials()), 2000, 16);
    assert_eq!(world.gateway.connections(), 2, "the honest one and the replayed one");
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), 1);
    assert_serves(&mut world, &peer);
    world.run(Duration::from_secs(60), "the attempt is forgotten", |world| world.gateway.connections() == 2);
}

#[test]
fn a_storm_of_attempts_makes_clients_prove_their_address_and_leaves_nothing() {
    let (mut world, peer) = World::connected();
    let mut flooder = Flooder::new(&world);
    // 32 flights a burst.
    flooder.flood(&mut world, &mut Load::initials(initials()), 20 * 1024, 1024);
    let attempts = 10 * 1024;
    assert!(flooder.answers > 0, "Retry packets");
    let held = world.gateway.connections();
    assert!(held < attempts / 4, "{held} connections are held for {attempts} attempts\n{}", world.report());
    let dropped = world.gateway.count(Counter::DropConnectionLimit);
    assert!(dropped as usize <= attempts && INCOMING_LEN_MAX < attempts);
    assert_serves(&mut world, &peer);
    world.run(Duration::from_secs(120), "the attempts are forgotten", |world| {
        world.gateway.connections() == 2
    });
}

#[test]
fn clienthellos_that_never_become_whole_hold_few_connections_and_keep_no_client_out() {
    let (mut world, peer) = World::connected();
    let mut flooder = Flooder::new(&world);
    let initials = initials();
    let (mut begun, mut most) = (0, 0);
    let mut honest = Vec::new();
    while begun < 4000 {
        if begun % 1000 == 0 {
            honest.push(world.clients[0].callers[0].connect(gateway_v4()));
        }
        flooder.begin_halves(&mut world, &initials, 8);
        begun += 8;
        most = most.max(world.gateway.connections());
    }
    for tag in honest {
        let mut tries = 0;
        while world.clients[0].callers[0].peer(tag).is_none() {
            flooder.begin_halves(&mut world, &initials, 8);
            most = most.max(world.gateway.connections());
            tries += 1;
            assert!(tries < 5000, "an honest client stays out\n{}", world.report());
        }
    }
    let honest = 5;
    assert!(most <= HALF_OPEN_UNPROVEN_LEN_MAX + honest, "{most} connections\n{}", world.report());
    let accepted = world.gateway.count(Counter::QuicAttemptsAccepted);
    assert!(accepted < 1000, "{accepted} of {begun} attempts were accepted");
    assert!(world.gateway.count(Counter::QuicRetriesSent) > 0);
    world.echo(&peer, b"an established connection keeps its place");
    // A handshake has its time, though the idle timeout is longer.
    assert!(u64::from(QuicConfig::default().idle_timeout_ms) > 2 * HANDSHAKE_MS_MAX);
    world.run(Duration::from_millis(HANDSHAKE_MS_MAX + 1), "the half-open ones end", |world| {
        world.gateway.connections() == honest
    });
    assert!(world.gateway.count(Counter::QuicHalfOpenTimedOut) > 0);
    assert_serves(&mut world, &peer);
}

#[test]
fn an_address_that_proved_nothing_gets_at_most_three_times_what_it_sent_and_a_datagram() {
    let initials = initials();
    for datagrams in 1..=initials.flight_len() {
        let (mut world, _) = World::connected();
        let mut flooder = Flooder::new(&world);
        let mut flight = Vec::new();
        initials.emit_flight(&mut flight);
        let sent = datagrams * INITIAL_DATAGRAM_BYTES;
        flooder.send(&world, &flight[..sent], INITIAL_DATAGRAM_BYTES);
        // The gateway repeats its flight, and then ends the handshake.
        for _ in 0..120 {
            world.pass(Duration::from_millis(100));
            flooder.listen(&world);
        }
        assert_eq!(world.gateway.connections(), 1);
        // RFC 9000 §8.1: at most three times what was received. quinn-proto ends with a whole datagram.
        let (answered, most) = (flooder.answered_bytes, 3 * sent + INITIAL_DATAGRAM_BYTES);
        assert!(answered > 0 && answered < most, "{answered} bytes for {sent}");
    }
}

#[test]
fn a_token_proves_no_other_address_and_no_other_token_proves_any() {
    let mut world = World::new(Setup { clients: 2, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let mut flooder = Flooder::new(&world);
    let initials = initials();
    while world.gateway.count(Counter::QuicRetriesSent) == 0 {
        flooder.begin_halves(&mut world, &initials, 8);
    }
    // Another client: the first one has tokens of its connection.
    let tap = Tap::on(&world, GATEWAY_MAC);
    let proven = world.connect(1, gateway_v4());
    world.echo(&proven, b"its address is proven");
    // Ethernet, IPv4 and UDP: 42 bytes.
    let payloads = tap.take().into_iter().map(|frame| frame[42..].to_vec());
    let initial = |payload: &Vec<u8>| payload.len() >= INITIAL_DATAGRAM_BYTES && payload[0] & 0xf0 == 0xc0;
    let (bare, tokens): (Vec<_>, Vec<_>) =
        payloads.filter(initial).partition(|payload| is_unproven_initial(payload));
    assert!(!bare.is_empty() && !tokens.is_empty(), "it was told to prove its address");
    world.caller(&proven).disconnect(&proven);
    world.pass(Duration::from_millis(HANDSHAKE_MS_MAX + 1000));
    // This time has given signatures back: they are taken once more.
    for _ in 0..80 {
        flooder.begin_halves(&mut world, &initials, 8);
    }
    let accepted = world.gateway.count(Counter::QuicAttemptsAccepted);
    flooder.answered_bytes = 0;
    let mut sent = 0;
    for payload in &tokens {
        // The same token from another address; and a token with one bit inverted, which no key has made.
        let mut altered = payload.clone();
        let token_at = 7 + usize::from(payload[5]) + usize::from(payload[6 + usize::from(payload[5])]) + 4;
        altered[token_at] ^= 1;
        for datagram in [payload, &altered] {
            flooder.burst(&mut world, datagram, datagram.len());
            sent += datagram.len();
        }
    }
    assert_eq!(world.gateway.count(Counter::QuicAttemptsAccepted), accepted, "no signature");
    assert!(flooder.answered_bytes <= 3 * sent);
    assert_serves(&mut world, &peer);
}

#[test]
fn crypto_frames_past_the_buffer_end_the_handshake() {
    let (mut world, peer) = World::connected();
    let mut flooder = Flooder::new(&world);
    let (initials, mut datagrams) = (initials(), Vec::new());
    // RFC 9000 §7.5: a node buffers at least 4096 bytes; quinn-proto buffers 16 KiB.
    for offset in [16_383, 1 << 20, (1 << 30) - 1] {
        initials.emit_crypto(offset, b"far ahead", &mut datagrams);
    }
    flooder.burst(&mut world, &datagrams, INITIAL_DATAGRAM_BYTES);
    world.pass(Duration::from_millis(10));
    assert_eq!(world.gateway.count(Counter::HandshakesServerFailed), 3);
    assert_eq!(world.gateway.connections(), 1, "{}", world.report());
    assert_serves(&mut world, &peer);
}

#[test]
fn two_workers_count_garbage_as_one_does() {
    let mut world = World::new(Setup { gateway_workers: 2, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let mut flooder = Flooder::new(&world);
    let mut load = Load::garbage(Mix::new(&[(64, 128)], false, false, 1500).unwrap());
    flooder.flood(&mut world, &mut load, 500, 50);
    let dropped = world.gateway.count(Counter::DropNotQuic) + world.gateway.count(Counter::DropNoConnection);
    assert_eq!(dropped, 500, "{}", world.report());
    assert_serves(&mut world, &peer);
}

/// Sends the gateway's datagrams to the queue that is stored.
fn queues(world: &World) -> Arc<AtomicUsize> {
    let queue = Arc::new(AtomicUsize::new(0));
    let at = queue.clone();
    world.link.steer(GATEWAY_MAC, move |_, _| at.load(Relaxed));
    queue
}

/// Begins handshakes in vain until clients must prove their addresses at this worker of the gateway.
fn press(world: &mut World, flooder: &mut Flooder, worker: usize) {
    let before = world.gateway.count_of(worker, Counter::QuicRetriesSent);
    while world.gateway.count_of(worker, Counter::QuicRetriesSent) == before {
        flooder.begin_halves(world, &initials(), 8);
    }
}

#[test]
fn address_tokens_of_one_worker_are_good_at_each_other_and_retried_clients_go_where_there_is_room() {
    std::thread::scope(|scope| {
        for workers in [1, 2, 4, 8] {
            scope.spawn(move || tokens_with(workers));
        }
    });
}

/// The last worker sees a token of the first.
fn tokens_with(workers: usize) {
    let mut world = World::new(Setup { gateway_workers: workers, clients: 2, ..Setup::default() });
    // A token names the second of its issue, and one that may be of an earlier process counts as none: the wall clock passes this second.
    let begun = SystemTime::now();
    while begun.elapsed().unwrap() < Duration::from_millis(1001) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let queue = queues(&world);
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"it has a token of the first worker");
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(1));
    let mut flooder = Flooder::new(&world);
    // The last one at the end: it forgets handshakes in vain after a while.
    for worker in 0..workers {
        queue.store(worker, Relaxed);
        press(&mut world, &mut flooder, worker);
    }
    queue.store(workers - 1, Relaxed);
    let retries = world.gateway.count(Counter::QuicRetriesSent);
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"known by its token");
    assert_eq!(
        world.gateway.count(Counter::QuicRetriesSent),
        retries,
        "a NEW_TOKEN token of the first worker"
    );
    let other = world.connect(1, gateway_v4());
    world.echo(&other, b"known by a Retry packet");
    assert!(world.gateway.count(Counter::QuicRetriesSent) > retries);
}

#[test]
fn a_flood_on_one_queue_stops_going_to_other_workers_when_they_ask_for_proofs() {
    let mut world = World::new(Setup { gateway_workers: 3, clients: 2, ..Setup::default() });
    let _first = queues(&world);
    let mut flooder = Flooder::new(&world);
    press(&mut world, &mut flooder, 0);
    let (placed, halves) = (world.gateway.count(Counter::PlacementsOut), world.gateway.connections());
    // Each worker begins its own share in vain, and no more.
    let most = 3 * (UNPROVEN_HANDSHAKES_BURST as usize + 16);
    assert!(placed > 0 && halves <= most, "{halves} of {most}\n{}", world.report());
    let handed = world.gateway.count(Counter::PlacementsOut);
    for _ in 0..20 {
        flooder.begin_halves(&mut world, &initials(), 8);
    }
    // Some signatures have come back meanwhile.
    let handed = world.gateway.count(Counter::PlacementsOut) - handed;
    assert!(handed < 16, "{handed} of 160: the excess is answered where it arrives");
    // A client that proves its address goes where there is room, if that is elsewhere.
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"an honest message");
    assert!(world.gateway.connections() <= halves + 20 * 8);
}

#[test]
fn a_client_that_was_sent_a_retry_packet_connects_though_the_gateway_restarts_meanwhile() {
    for workers in [1, 2] {
        let mut world = World::new(Setup { gateway_workers: 2, clients: 2, ..Setup::default() });
        let _first = queues(&world);
        let mut flooder = Flooder::new(&world);
        press(&mut world, &mut flooder, 0);
        let retries = world.gateway.count(Counter::QuicRetriesSent);
        let tag = world.clients[1].callers[0].connect(gateway_v4());
        world.run(Duration::from_secs(1), "a Retry packet", |world| {
            world.gateway.count(Counter::QuicRetriesSent) > retries
        });
        world.kill_and_restart_gateway(workers);
        world.run(Duration::from_secs(5), "the handshake ends", |world| {
            let caller = &world.clients[1].callers[0];
            caller.peer(tag).is_some() || !caller.connect_failed.is_empty()
        });
        assert_eq!(world.clients[1].callers[0].connect_failed, []);
        world.pass(Duration::from_millis(10));
        assert_eq!(world.gateway.count(Counter::ConnectionsOpened), 1);
    }
}

#[test]
fn an_address_token_of_an_earlier_process_is_taken_and_saves_the_proof() {
    let fleet = |secret: u8, issuing| {
        let rotation = |number| CidRotation {
            number,
            salt: RotationSalt([number; 16]),
            state: if number == issuing { RotationState::Issue } else { RotationState::Accept },
        };
        let secret = FleetSecret::read(&[secret; 32][..]).unwrap().unwrap();
        Some(FleetSettings::new(secret, ServerId([0, 0, 1]), vec![rotation(0), rotation(1)]).unwrap())
    };
    // By the identity's key, by the fleet's key though another rotation issues, and not by another fleet's key.
    for (before, after, taken) in
        [(None, None, true), (fleet(1, 0), fleet(1, 1), true), (fleet(1, 0), fleet(2, 0), false)]
    {
        let mut world = World::new(Setup { clients: 2, fleet: before, ..Setup::default() });
        let peer = world.connect(0, gateway_v4());
        world.echo(&peer, b"it has a token");
        world.caller(&peer).disconnect(&peer);
        world.pass(Duration::from_secs(1));
        world.kill_and_restart_gateway_as(&Setup { fleet: after, ..Setup::default() });
        let mut flooder = Flooder::new(&world);
        press(&mut world, &mut flooder, 0);
        let retries = world.gateway.count(Counter::QuicRetriesSent);
        let peer = world.connect(0, gateway_v4());
        world.echo(&peer, b"known by its token, or proven once more");
        assert_eq!(world.gateway.count(Counter::QuicRetriesSent) == retries, taken);
    }
}
