//! Two workers and a wire between them, for counting instructions: `scripts/instructions.sh` runs it under callgrind.
//!
//! `instructions PATH SIDE [WIRE [CONNECTIONS]]` moves packets of MTU 1500 one way, under virtual time, with the windows of the benchmarks. PATH is
//! `message` (64 KiB messages, dropped), `small` (the same of 256 bytes), `ping` (64 bytes there and back, one message at a time), `put` (a
//! payload, checked and dropped) or `get` (a payload out of the memory tier, checked and dropped). SIDE is the side whose turns go through
//! [`counted_turn`], the one function in which callgrind counts: `transmit` sends the bytes, `receive` receives them. Applications run on their
//! workers, so the count contains their work. With `hand-over` and `take-over` the receiver has two workers: the frames arrive at one, which hands
//! them over, and the connection is the other's; the side names the worker that is counted. `receive-by-N` and `transmit-by-N` count the same as
//! without a number where the server has N workers: the connection is the first one's, and so are its frames. With `-in-fleet` after the side the
//! server is a gateway of a fleet, whose table has another one. Its packets are longer by what connection IDs are longer, so that as much of each is
//! encrypted as without: aws-lc takes 96 octets at a time where the CPU has no AVX-512, and what is left over costs up to 2 % of a packet.
//!
//! WIRE is `short`, a wire without delay, or `long`: 10 Gbit/s with a round trip of 100 ms. Its windows hold what is in flight, 125 MB, from the
//! start.
//!
//! CONNECTIONS is for `message`: as many connections send at once, from one node, with the smallest windows. None of them sends for long, and
//! the packets of all of them follow each other. What remains of their handshakes is gone when the count begins.
//!
//! The handshake and the first packets are not counted: the count is that of a steady stream. When they have crossed, the program prints `warm`
//! and waits for a line or the end of its standard input: callgrind begins to count meanwhile, since counting takes ten times as long.
//!
//! The wire copies a frame into a buffer and out again, as a device without offloads would; software computes both checksums.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

mod wire;

use anyhow::{Context, bail};
use bytes::Bytes;
use std::cell::Cell;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use stoq::application::{Application, Discard, Echo, Outbox, Received};
use stoq::counters::Counter;
use stoq::datagram::NetworkKind;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::limits::HANDOVERS_PER_S;
use stoq::node::NodeConfig;
use stoq::queue::{
    self, Answer, AppPort, Ask, Command, ConnectionEvent, ConnectionId, Credit, Delivery, Ending, RequestId,
};
use stoq::quic::fleet_members::{FleetMembers, OtherGateway};
use stoq::quic::fleet_settings::{CidRotation, FleetSecret, FleetSettings, RotationSalt, RotationState};
use stoq::quic::keys::NodeKeys;
use stoq::quic::routable::ServerId;
use stoq::record::Put;
use stoq::seed::{Disk, Lease, MemoryPages, MemoryTier, Seed, SeedParts, Store, StoreConfig};
use stoq::session::QueueRoutes;
use stoq::shard::Descriptor;
use stoq::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
};
use stoq::token::{EncodedPiece, Outboard, Ranges, Token, VerifiedDecoder, VerifiedEncoder};
use stoq::worker::{Idle, NodeShared, Worker, WorkerStatus};
use stoq_gateway::probe::{Blast, Ping, Pull, Pulled, Width};
use tempfile::TempDir;
use wire::{End, FLEET_MORE_BYTES, Line, MTU, SharedLine, Wire};

/// Packets of each of many connections after the last handshake.
const WARM_PACKETS_EACH: u64 = 40;
/// Turns after that in which virtual time passes faster, and its step: QUIC drops keys and buffers of a handshake three PTOs after its end.
const SETTLING_TURNS: usize = 1_000;
const SETTLING_TURN: Duration = Duration::from_micros(250);
/// Packets that are counted.
const COUNTED_PACKETS: u64 = 8_000;
const PAYLOAD_BYTES: usize = 8 << 20;
/// One that lasts for the packets before the count and [`COUNTED_PACKETS`].
const PAYLOAD_LONG_BYTES: usize = 512 << 20;
/// Frames on their way to the receiver when such a path is full: half of a round trip.
const IN_FLIGHT_LONG_LEN: usize = 38_000;
/// Payloads that are got at once over a path with delay: three times what it holds.
const GETS_LONG: usize = 48;
const MESSAGE_BYTES: usize = 64 << 10;
const SMALL_MESSAGE_BYTES: usize = 256;
const PING_BYTES: usize = 64;
/// Turns after which a run is given up: many times the turns that one takes.
const TURNS_MAX: u32 = 1_000_000;
const UDP_PORT: u16 = 4433;
/// The one queue that the server's application takes.
const QUEUE: u64 = 0;

/// Puts a payload again and again. The server drops its bytes and refuses it at the end.
struct Push {
    remote: SocketAddr,
    descriptor: Descriptor,
    encoded: Vec<Bytes>,
    asked: bool,
    outbox: Outbox,
    /// The running put: its request, its credit, and the chunks sent so far (none before the server accepts).
    running: Option<(RequestId, Credit, Option<usize>)>,
}

impl Push {
    fn ask(&mut self, connection: ConnectionId, port: &mut AppPort) {
        let credit = Credit::default();
        let put = Put { queue: QUEUE, lease_s: 60, descriptor: self.descriptor, lanes: None };
        let ask = Ask::new(put).with_credit(credit.clone());
        let request = self.outbox.ask(port, connection, ask, ());
        self.running = Some((request, credit, None));
    }
}

impl Application for Push {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        if !self.asked {
            self.asked = true;
            self.outbox.send(port, Command::Connect { tag: 0, remote: self.remote, early: false });
        }
        while let Some(Received::Own((), delivery) | Received::Other(delivery)) = self.outbox.receive(port) {
            worked = true;
            match (delivery, &mut self.running) {
                (Delivery::Connection(connection, ConnectionEvent::Connected { .. }), _) => {
                    self.ask(connection, port);
                }
                (Delivery::Answered(_, Answer::Ok(_)), Some((_, _, sent))) => *sent = Some(0),
                (Delivery::Ended(request, queue::End::Failed(_)), _) => {
                    self.ask(request.connection, port);
                }
                _ => {}
            }
        }
        let Some((request, credit, Some(sent))) = &mut self.running else { return worked };
        while let Some(chunk) = self.encoded.get(*sent) {
            if port.send_data(*request, credit, chunk.clone()).is_err() {
                return worked;
            }
            *sent += 1;
            worked = true;
        }
        if *sent == self.encoded.len() && port.send(Command::End(*request, Ending::Finish)).is_ok() {
            *sent += 1;
            worked = true;
        }
        worked
    }
}

type Side = Worker<UserSpace<End>>;

/// The function in which callgrind counts. It is not inlined, and no other function has the same code, so that it keeps its name.
#[inline(never)]
fn counted_turn(worker: &mut Side, now: Instant) -> bool {
    black_box(worker.turn(black_box(now)))
}

fn address(station: u8) -> SocketAddr {
    SocketAddr::new([10, 77, 0, station].into(), UDP_PORT)
}

/// The network of a worker, at this queue of its station's device.
fn network(
    (station, queue): (u8, usize),
    incoming: SharedLine,
    outgoing: SharedLine,
) -> anyhow::Result<UserSpace<End>> {
    let interface = InterfaceConfig {
        addresses: vec![format!("{}/24", address(station).ip()).parse()?],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum: true,
    };
    let end = End::new((station, queue), incoming, outgoing);
    Ok(UserSpace::new(end, &interface, NetworkKind::Simulated)?)
}

fn payload(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn encode(payload: &[u8], outboard: Outboard) -> anyhow::Result<Vec<Bytes>> {
    let mut encoder = VerifiedEncoder::new(outboard, Ranges::all())?;
    let (mut batch, mut encoded) = (Vec::new(), Vec::new());
    while !encoder.is_complete() {
        encoder.next_batch(256 << 10, &mut batch)?;
        encoded.extend(batch.drain(..).map(|piece| match piece {
            EncodedPiece::Proof(hashes) => hashes,
            EncodedPiece::Data { offset, len } => Bytes::copy_from_slice(&payload[offset as usize..][..len]),
        }));
    }
    Ok(encoded)
}

/// A seed that holds the payload.
fn seed(directory: &TempDir, token: Token, encoded: &[Bytes]) -> anyhow::Result<Seed> {
    let disk = Arc::new(DiskOfThreads);
    let store = Arc::new(Store::open_on(directory.path(), StoreConfig::default(), disk)?);
    let mut writer = store.begin(token, PAYLOAD_BYTES as u64, Lease::default(), 0)?;
    let mut decoder = VerifiedDecoder::new(token, PAYLOAD_BYTES as u64, Ranges::all())?;
    for chunk in encoded {
        decoder.push(chunk)?;
        while let Some(piece) = decoder.poll() {
            writer.write(&piece)?;
        }
    }
    writer.commit()?;
    let memory = MemoryTier::new(2 * PAYLOAD_BYTES as u64, MemoryPages::Ordinary);
    Ok(Seed::new(SeedParts::alone(store, memory), 0))
}

/// Reads by threads: valgrind runs one thread at a time, and lets no other run while one waits in io_uring.
#[derive(Debug)]
struct DiskOfThreads;

impl Disk for DiskOfThreads {
    /// Valgrind 3.19 has no `openat2`: each GET would then be opened by another thread.
    fn open_to_read_now(&self, path: &Path) -> io::Result<File> {
        self.open_to_read(path)
    }
}

/// The server's workers and the client's, ready for their first turn, with their statuses in this order.
struct Pair {
    servers: Vec<Side>,
    client: Side,
    lines: [SharedLine; 2],
    statuses: Vec<Arc<WorkerStatus>>,
}

impl Pair {
    fn new(
        wire: Wire,
        connections: Option<usize>,
        applications: Vec<Box<dyn Application>>,
        caller: Box<dyn Application>,
        in_fleet: bool,
    ) -> anyhow::Result<Self> {
        let identity = |name| {
            Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1).map(|made| made.identity)
        };
        let (server, client) = (identity("server")?, identity("client")?);
        let trust = Trust::pinned([server.node_id(), client.node_id()])?;
        let now = Instant::now();
        let mtu = if in_fleet { MTU + FLEET_MORE_BYTES } else { MTU };
        let (there, back) = (Line::new(wire, mtu, now), Line::new(wire, mtu, now));
        let quic = wire.quic(connections);
        let tls = ServerTls::new(server, ClientAuth::Required(trust.clone()));
        let config =
            NodeConfig { server: Some(server_config(&tls)?), quic: quic.clone(), ..NodeConfig::default() };
        let queues = [(QUEUE, 0)].into_iter().collect();
        let routes = QueueRoutes { queues, store: Some(0), ..QueueRoutes::default() };
        let keys = if in_fleet { NodeKeys::of_fleet(&fleet()?) } else { NodeKeys::random() };
        let shared = NodeShared::with_keys(applications.len(), routes, keys);
        if in_fleet {
            let addresses = vec![IpAddr::from([10, 77, 0, 3])];
            let other = OtherGateway { server_id: ServerId([0, 0, 2]), addresses, is_gone: false };
            shared.set_members(FleetMembers::new(&[address(1).ip()], &[other], HANDOVERS_PER_S));
        }
        shared.node_seats.set_max(0);
        let worker = |(index, application): (usize, _)| -> anyhow::Result<_> {
            let network = network((1, index), there.clone(), back.clone())?;
            let mut server = Worker::new(index as u16, network, shared.clone(), config.quic(mtu), Idle::Spin);
            server.add_inline(application);
            Ok(server)
        };
        let servers = applications.into_iter().enumerate().map(worker).collect::<anyhow::Result<Vec<_>>>()?;

        let tls = ClientTls { identity: Some(client), ..ClientTls::new(trust) };
        let config =
            NodeConfig { client: Some(client_config(&tls)?), quic: quic.clone(), ..NodeConfig::default() };
        let shared = NodeShared::new(1, QueueRoutes::default());
        let network = network((2, 0), back.clone(), there.clone())?;
        let mut client = Worker::new(0, network, shared, config.quic(mtu), Idle::Spin);
        client.add_inline(caller);
        let statuses = servers.iter().chain([&client]).map(Worker::status).collect();
        Ok(Self { servers, client, lines: [there, back], statuses })
    }
}

/// A gateway's part in a fleet.
fn fleet() -> anyhow::Result<FleetSettings> {
    let rotation = CidRotation { number: 0, salt: RotationSalt([7; 16]), state: RotationState::Issue };
    Ok(FleetSettings::new(FleetSecret::random(), ServerId([0, 0, 1]), vec![rotation])?)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (path, side, wire, connections) = match arguments[..] {
        [path, side] | [path, side, "short"] => (path, side, Wire::Short, None),
        [path, side, "long"] => (path, side, Wire::Long, None),
        ["message", side, "short", connections] => ("message", side, Wire::Short, Some(connections.parse()?)),
        _ => {
            println!(
                "instructions (message | small | ping | put | get) (transmit | receive | hand-over | take-over)[-by-WORKERS][-in-fleet] [short [CONNECTIONS] | long]: see scripts/instructions.sh"
            );
            return Ok(());
        }
    };
    let payload_bytes = if (path, wire) == ("put", Wire::Long) { PAYLOAD_LONG_BYTES } else { PAYLOAD_BYTES };
    let payload = payload(payload_bytes);
    let (token, outboard) = Outboard::build(&payload[..], payload_bytes as u64)?;
    let encoded = encode(&payload, outboard)?;
    let directory = TempDir::new()?;
    let (reports, _heard) = channel();
    let remote = address(1);
    let (application, caller): (Box<dyn Application>, Box<dyn Application>) = match path {
        "message" | "small" => {
            let message_bytes = if path == "small" { SMALL_MESSAGE_BYTES } else { MESSAGE_BYTES };
            let width = Width { connections: connections.unwrap_or(1), ..Width::ONE };
            let blast = Blast::new(remote, QUEUE, message_bytes, 1 << 40, width, reports);
            (Box::new(Discard::default()), Box::new(blast))
        }
        "ping" => {
            let payload = Bytes::from_static(&[7; PING_BYTES]);
            let ping = Ping::new(remote, QUEUE, payload, Duration::ZERO, 1 << 40, reports);
            (Box::new(Echo::default()), Box::new(ping))
        }
        "put" => {
            let descriptor = Descriptor::plain(token, payload_bytes as u64)?;
            (
                Box::new(Discard::default()),
                Box::new(Push {
                    remote,
                    descriptor,
                    encoded,
                    asked: false,
                    outbox: Outbox::default(),
                    running: None,
                }),
            )
        }
        "get" => {
            let ranges = Ranges::all();
            let width =
                if wire == Wire::Short { Width::ONE } else { Width { streams: GETS_LONG, ..Width::ONE } };
            let pulled =
                Pulled { tokens: vec![token.into()], ranges, route: None, verified: true, times: 1 << 40 };
            (
                Box::new(seed(&directory, token, &encoded)?),
                Box::new(Pull::new(remote, pulled, width, reports)),
            )
        }
        other => bail!("no path is called {other:?}"),
    };
    let client_transmits = path != "get";
    let (side, in_fleet) = side.strip_suffix("-in-fleet").map_or((side, false), |side| (side, true));
    let (side, by) = match side.split_once("-by-") {
        Some((side, by)) => (side, by.parse()?),
        None => (side, 1),
    };
    // The number of the server's worker that is counted; `None`: the client's.
    let counted = match side {
        "transmit" => (!client_transmits).then_some(0),
        "receive" => client_transmits.then_some(0),
        "hand-over" if client_transmits => Some(0),
        "take-over" if client_transmits => Some(1),
        other => bail!("{path} has no side that is called {other:?}"),
    };
    let mut applications = vec![application];
    let is_passed = matches!(side, "hand-over" | "take-over");
    for _ in 1..if is_passed { 2 } else { by } {
        applications.push(Box::new(Discard::default()));
    }
    let Pair { mut servers, mut client, lines, statuses } =
        Pair::new(wire, connections, applications, caller, in_fleet)?;
    let workers = servers.len();
    let client_status = &statuses[workers];
    let receiver = if client_transmits { &statuses[0] } else { client_status };

    let mut now = Instant::now();
    let mut turns = 0..TURNS_MAX;
    let settling = Cell::new(0_usize);
    let mut turn = |count: bool| -> anyhow::Result<()> {
        turns.next().context("the packets never come")?;
        now += if settling.get() > 0 { SETTLING_TURN } else { wire.turn() };
        settling.set(settling.get().saturating_sub(1));
        lines.iter().for_each(|line| line.borrow_mut().begin_turn(now));
        let one = |worker: &mut Side, is_counted: bool| match is_counted {
            true => counted_turn(worker, now),
            false => worker.turn(now),
        };
        one(&mut client, count && counted.is_none());
        for (index, server) in servers.iter_mut().enumerate() {
            one(server, count && counted == Some(index));
        }
        Ok(())
    };
    // A connection stays with the worker at whose queue it began.
    lines[0].borrow_mut().queue = if is_passed { workers - 1 } else { 0 };
    while client_status.counters.get(Counter::ConnectionsOpened) == 0 {
        turn(false)?;
    }
    lines[0].borrow_mut().queue = 0;
    let mut run = |count: bool, until: u64| -> anyhow::Result<u64> {
        while receiver.counters.get(Counter::RxPackets) < until {
            turn(count)?;
        }
        Ok(receiver.counters.get(Counter::RxPackets))
    };
    run(false, wire.warm_packets(path))?;
    let mut before = receiver.counters.get(Counter::RxPackets);
    if let Some(connections) = connections {
        while client_status.counters.get(Counter::HandshakesClientCompleted) < connections as u64 {
            before = run(false, before + 1)?;
        }
        // Each connection has sent its first flight and more.
        before = run(false, before + connections as u64 * WARM_PACKETS_EACH)?;
        settling.set(SETTLING_TURNS);
        while settling.get() > 0 {
            before = run(false, before + 1)?;
        }
        before = run(false, before + wire.warm_packets(path))?;
    }
    println!("warm");
    io::stdin().read_line(&mut String::new())?;
    let after = run(true, before + COUNTED_PACKETS)?;
    let in_flight = lines.iter().map(|line| line.borrow().frames.len()).sum::<usize>();
    anyhow::ensure!(
        wire == Wire::Short || in_flight >= IN_FLIGHT_LONG_LEN,
        "{in_flight} frames are in flight: the path is not full"
    );
    // A run with losses or refusals would count another path.
    for status in &statuses {
        for (name, value) in status.counters.snapshot() {
            let fault = name.starts_with("drop_") || name == "protocol_errors" || name == "bad_proofs";
            anyhow::ensure!(!fault || value == 0, "{name} is {value}");
        }
    }
    println!("packets {}", after - before);
    Ok(())
}
