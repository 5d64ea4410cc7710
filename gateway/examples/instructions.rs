//! Two workers and a wire between them, for counting instructions: `scripts/instructions.sh` runs it under callgrind.
//!
//! `instructions PATH SIDE [WIRE [CONNECTIONS]]` moves packets of MTU 1500 one way, under virtual time, with the windows of the benchmarks. PATH is
//! `message` (64 KiB messages, dropped), `small` (the same of 256 bytes), `ping` (64 bytes there and back, one message at a time), `put` (a
//! payload, checked and dropped) or `get` (a payload out of the memory tier, checked and dropped). SIDE is the side whose turns go through
//! [`counted_turn`], the one function in which callgrind counts: `transmit` sends the bytes, `receive` receives them. Applications run on their
//! workers, so the count contains their work.
//!
//! WIRE is `short`, a wire without delay, or `long`: 10 Gbit/s with a round trip of 100 ms. Its windows hold what is in flight, 125 MB, from the
//! start.
//!
//! CONNECTIONS is for `message`: as many connections send at once, from one node, with the smallest windows. None of them sends for long, and
//! the packets of all of them follow each other.
//!
//! The handshake and the first packets are not counted: the count is that of a steady stream. When they have crossed, the program prints `warm`
//! and waits for a line or the end of its standard input: callgrind begins to count meanwhile, since counting takes ten times as long.
//!
//! The wire copies a frame into a buffer and out again, as a device without offloads would; software computes both checksums.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use anyhow::{Context, bail};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stoq::application::{Application, Discard, Echo, Outbox, Received};
use stoq::counters::Counter;
use stoq::datagram::NetworkKind;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::limits::WINDOW_BYTES_MIN;
use stoq::nic::{Nic, NicInfo, RxChecksum, TxKind};
use stoq::node::NodeConfig;
use stoq::queue::{
    self, Answer, AppPort, Ask, Command, ConnectionEvent, ConnectionId, Credit, Delivery, Ending, RequestId,
};
use stoq::quic::transport::QuicConfig;
use stoq::record::Put;
use stoq::seed::{Lease, MemoryPages, MemoryTier, Seed, SeedParts, Store, StoreConfig};
use stoq::session::QueueRoutes;
use stoq::shard::Descriptor;
use stoq::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
};
use stoq::token::{EncodedPiece, Outboard, Ranges, Token, VerifiedDecoder, VerifiedEncoder};
use stoq::worker::{Idle, NodeShared, Worker, WorkerStatus};
use stoq_gateway::probe::{Blast, Ping, Pull, Pulled, Width};
use tempfile::TempDir;

/// Packets before the count begins: the handshake, and a payload that is not in the memory tier yet.
const WARM_PACKETS: u64 = 8_000;
/// The same for small messages, which enter QUIC faster than they leave until its send window is full.
const WARM_SMALL_PACKETS: u64 = 32_000;
/// Packets of each of many connections after the last handshake and before the count begins.
const WARM_PACKETS_EACH: u64 = 40;
/// Packets that are counted.
const COUNTED_PACKETS: u64 = 8_000;
/// The same where the path has delay: three times what it holds.
const WARM_LONG_PACKETS: u64 = 250_000;
const PAYLOAD_BYTES: usize = 8 << 20;
/// One that lasts for [`WARM_LONG_PACKETS`] and [`COUNTED_PACKETS`].
const PAYLOAD_LONG_BYTES: usize = 512 << 20;
/// Frames on their way to the receiver when such a path is full: half of a round trip.
const IN_FLIGHT_LONG_LEN: usize = 38_000;
/// Payloads that are got at once over a path with delay: three times what it holds.
const GETS_LONG: usize = 48;
const MESSAGE_BYTES: usize = 64 << 10;
const SMALL_MESSAGE_BYTES: usize = 256;
const PING_BYTES: usize = 64;
/// Frames that the device holds, and how often both sides have a turn.
const DEVICE_LEN: usize = 1024;
const TURN: Duration = Duration::from_micros(20);
/// The same of a path with delay: the frames that 10 Gbit/s carry in a turn, and as many as a worker takes in a turn.
const DEVICE_LONG_LEN: usize = 64;
const TURN_LONG: Duration = Duration::from_micros(79);
const DELAY_LONG: Duration = Duration::from_millis(50);
/// Turns after which a run is given up: many times the turns that one takes.
const TURNS_MAX: u32 = 1_000_000;
const MTU: u16 = 1500;
const UDP_PORT: u16 = 4433;
/// The one queue that the server's application takes.
const QUEUE: u64 = 0;

/// What is between the two workers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wire {
    /// No delay. A frame that the other side has not taken occupies the device.
    Short,
    /// 10 Gbit/s with a round trip of 100 ms.
    Long,
}

impl Wire {
    fn turn(self) -> Duration {
        if self == Self::Short { TURN } else { TURN_LONG }
    }

    fn warm_packets(self, path: &str) -> u64 {
        match self {
            Self::Long => WARM_LONG_PACKETS,
            Self::Short if path == "small" => WARM_SMALL_PACKETS,
            Self::Short => WARM_PACKETS,
        }
    }

    /// The windows of `scripts/bench`, or those that the path has once they have grown.
    fn quic(self, connections: Option<usize>) -> QuicConfig {
        if connections.is_some() {
            return QuicConfig {
                stream_receive_window_bytes: WINDOW_BYTES_MIN as u32,
                receive_window_bytes: WINDOW_BYTES_MIN as u32,
                receive_window_max_bytes: WINDOW_BYTES_MIN as u32,
                send_window_bytes: WINDOW_BYTES_MIN as u32,
                send_window_max_bytes: WINDOW_BYTES_MIN as u32,
                initial_udp_payload_bytes: 0,
                mtu_discovery: false,
                ..QuicConfig::default()
            };
        }
        let window = if self == Self::Short { 64 << 20 } else { 512 << 20 };
        QuicConfig {
            stream_receive_window_bytes: 64 << 20,
            receive_window_bytes: 2 * window,
            send_window_bytes: window,
            initial_congestion_window_bytes: if self == Self::Short { 4 << 20 } else { 512 << 20 },
            initial_udp_payload_bytes: 0,
            mtu_discovery: false,
            ..QuicConfig::default()
        }
    }
}

/// One direction of the wire: frames in flight with the times when they arrive, and buffers for reuse.
struct Line {
    wire: Wire,
    frames: VecDeque<(Instant, Vec<u8>)>,
    free: Vec<Vec<u8>>,
    now: Instant,
    /// Frames sent in this turn.
    sent: usize,
}

impl Line {
    fn new(wire: Wire, now: Instant) -> SharedLine {
        Rc::new(RefCell::new(Self { wire, frames: VecDeque::new(), free: Vec::new(), now, sent: 0 }))
    }

    fn begin_turn(&mut self, now: Instant) {
        (self.now, self.sent) = (now, 0);
    }

    fn room(&self) -> usize {
        match self.wire {
            Wire::Short => DEVICE_LEN - self.frames.len(),
            Wire::Long => DEVICE_LONG_LEN - self.sent,
        }
    }

    fn delay(&self) -> Duration {
        if self.wire == Wire::Short { Duration::ZERO } else { DELAY_LONG }
    }
}

type SharedLine = Rc<RefCell<Line>>;

/// A device at one end of the wire.
struct End {
    info: NicInfo,
    incoming: SharedLine,
    outgoing: SharedLine,
}

impl End {
    fn new(station: u8, incoming: SharedLine, outgoing: SharedLine) -> Self {
        let info = NicInfo {
            device: format!("end{station}"),
            driver: "memory".to_owned(),
            mtu: MTU,
            mac: [2, 0, 0, 0, 0, station],
            tx_checksum: false,
            rx_checksum: false,
        };
        Self { info, incoming, outgoing }
    }
}

impl Nic for End {
    fn rx_burst(&mut self, _now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let mut line = self.incoming.borrow_mut();
        let mut count = 0;
        while count < stoq::limits::RX_BURST_LEN
            && line.frames.front().is_some_and(|(arrives, _)| *arrives <= line.now)
        {
            let Some((_, bytes)) = line.frames.pop_front() else { break };
            frame(&bytes, RxChecksum::Unknown);
            line.free.push(bytes);
            count += 1;
        }
        count
    }

    fn tx_room(&self) -> usize {
        self.outgoing.borrow().room()
    }

    fn tx_frame(&mut self, _kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let mut line = self.outgoing.borrow_mut();
        if line.room() == 0 {
            return false;
        }
        let mut frame = line.free.pop().unwrap_or_default();
        frame.resize(len, 0);
        fill(&mut frame);
        let arrives = line.now + line.delay();
        line.frames.push_back((arrives, frame));
        line.sent += 1;
        true
    }

    fn tx_flush(&mut self, _now: Instant) -> usize {
        0
    }

    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        true
    }
}

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

fn network(station: u8, incoming: SharedLine, outgoing: SharedLine) -> anyhow::Result<UserSpace<End>> {
    let interface = InterfaceConfig {
        addresses: vec![format!("{}/24", address(station).ip()).parse()?],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum: true,
    };
    Ok(UserSpace::new(End::new(station, incoming, outgoing), &interface, NetworkKind::Simulated)?)
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
    let store = Arc::new(Store::open(directory.path(), StoreConfig::default())?);
    let mut writer = store.begin(token, PAYLOAD_BYTES as u64, Lease::default(), 0)?;
    let mut decoder = VerifiedDecoder::new(token, PAYLOAD_BYTES as u64, Ranges::all())?;
    for chunk in encoded {
        decoder.push(chunk)?;
        while let Some(piece) = decoder.poll() {
            writer.write(&piece)?;
        }
    }
    writer.commit()?;
    let memory = Arc::new(Mutex::new(MemoryTier::new(2 * PAYLOAD_BYTES as u64, MemoryPages::Ordinary)));
    Ok(Seed::new(SeedParts::alone(store, memory), 0))
}

/// Server and client, ready for their first turn, with their statuses.
struct Pair {
    server: Side,
    client: Side,
    lines: [SharedLine; 2],
    statuses: [Arc<WorkerStatus>; 2],
}

impl Pair {
    fn new(
        wire: Wire,
        connections: Option<usize>,
        application: Box<dyn Application>,
        caller: Box<dyn Application>,
    ) -> anyhow::Result<Self> {
        let identity = |name| {
            Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1).map(|made| made.identity)
        };
        let (server, client) = (identity("server")?, identity("client")?);
        let trust = Trust::pinned([server.node_id(), client.node_id()])?;
        let now = Instant::now();
        let (there, back) = (Line::new(wire, now), Line::new(wire, now));
        let quic = wire.quic(connections);
        let tls = ServerTls::new(server, ClientAuth::Required(trust.clone()));
        let config =
            NodeConfig { server: Some(server_config(&tls)?), quic: quic.clone(), ..NodeConfig::default() };
        let queues = [(QUEUE, 0)].into_iter().collect();
        let shared = NodeShared::new(1, QueueRoutes { queues, store: Some(0), ..QueueRoutes::default() });
        shared.node_seats.set_max(0);
        let network_1 = network(1, there.clone(), back.clone())?;
        let mut server = Worker::new(0, network_1, shared, config.quic(MTU), Idle::Spin);
        server.add_inline(application);

        let tls = ClientTls { identity: Some(client), ..ClientTls::new(trust) };
        let config =
            NodeConfig { client: Some(client_config(&tls)?), quic: quic.clone(), ..NodeConfig::default() };
        let shared = NodeShared::new(1, QueueRoutes::default());
        let mut client =
            Worker::new(0, network(2, back.clone(), there.clone())?, shared, config.quic(MTU), Idle::Spin);
        client.add_inline(caller);
        let statuses = [server.status(), client.status()];
        Ok(Self { server, client, lines: [there, back], statuses })
    }
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
                "instructions (message | small | ping | put | get) (transmit | receive) [short [CONNECTIONS] | long]: see scripts/instructions.sh"
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
            let pulled = Pulled { token: token.into(), ranges, route: None, verified: true, times: 1 << 40 };
            (
                Box::new(seed(&directory, token, &encoded)?),
                Box::new(Pull::new(remote, pulled, width, reports)),
            )
        }
        other => bail!("no path is called {other:?}"),
    };
    let Pair { mut server, mut client, lines, statuses } = Pair::new(wire, connections, application, caller)?;
    let client_transmits = path != "get";
    let count_client = match side {
        "transmit" => client_transmits,
        "receive" => !client_transmits,
        other => bail!("no side is called {other:?}"),
    };
    let [server_status, client_status] = &statuses;
    let receiver = if client_transmits { server_status } else { client_status };

    let mut now = Instant::now();
    let mut turns = 0..TURNS_MAX;
    let mut run = |count: bool, until: u64| -> anyhow::Result<u64> {
        while receiver.counters.get(Counter::RxPackets) < until {
            turns.next().context("the packets never come")?;
            now += wire.turn();
            lines.iter().for_each(|line| line.borrow_mut().begin_turn(now));
            if count && count_client {
                counted_turn(&mut client, now)
            } else {
                client.turn(now)
            };
            if count && !count_client {
                counted_turn(&mut server, now)
            } else {
                server.turn(now)
            };
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
    }
    println!("warm");
    std::io::stdin().read_line(&mut String::new())?;
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
