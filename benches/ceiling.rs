//! The ceiling: the cost of QUIC and its encryption alone, and so the highest rate that a worker could reach.
//!
//! Two quinn-proto endpoints in one thread, with this project's TLS (Falcon-512, X25519MLKEM768, AES-128-GCM) and its transport
//! configuration under the windows of `scripts/bench`: one unidirectional stream, no session, no records, no wire. Each side is
//! timed around its own calls, in the batches that a worker makes; carrying datagrams from one to the other is not timed. The
//! payload over the slower side's time is the rate that one core a side could reach. Both sides share one core's caches here, so this is
//! a little less than two cores would give.
//!
//! `cargo bench --bench ceiling` prints a table, `-- --json` one JSON object; figures are the median of the runs and the best.
//! Below it is AES-128-GCM alone on packets of that size. Pin it from outside: `taskset -c 1 cargo bench --bench ceiling`.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use anyhow::{Context, anyhow};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey, quic};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, ReadError, StreamEvent, StreamId,
    Transmit, WriteError,
};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::limits::TX_SEGMENTS_LEN_MAX;
use stoq::node::NodeConfig;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, connect_name,
    server_config,
};

const MTUS: [u16; 2] = [1500, 9000];
const RUNS: usize = 7;
/// Bytes of stream that are sent before the timing begins, and bytes that are timed.
const WARM_BYTES: u64 = 32 << 20;
const RUN_BYTES: u64 = 512 << 20;
/// Bytes offered to the stream at once.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_A_WRITE: usize = 16;
/// A bound on the steps of a handshake, far above the steps that one takes.
const HANDSHAKE_STEPS_MAX: usize = 1_000;
/// Consecutive turns without a packet after which a run fails.
const QUIET_TURNS_MAX: u32 = 10_000_000;
/// AEAD alone: packets a run, in buffers that lie apart as a batch's do.
const AEAD_PACKETS: usize = 1 << 17;
/// The header in front of the encrypted part: the first byte, a connection ID of 8, a packet number of 3.
const HEADER_BYTES: usize = 12;

/// One side: an endpoint, its connection, its received datagrams, and the time of its calls.
struct Side {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    peer: SocketAddr,
    inbox: VecDeque<BytesMut>,
    arena: BytesMut,
    batch: Vec<u8>,
    spent: Duration,
    /// Datagrams sent.
    packets: u64,
    connected: bool,
}

impl Side {
    fn new(endpoint: Endpoint, peer: SocketAddr) -> Self {
        Self {
            endpoint,
            connection: None,
            peer,
            inbox: VecDeque::new(),
            arena: BytesMut::new(),
            batch: Vec::new(),
            spent: Duration::ZERO,
            packets: 0,
            connected: false,
        }
    }

    /// Feeds all received datagrams to QUIC.
    fn receive(&mut self, now: Instant) -> anyhow::Result<()> {
        while let Some(datagram) = self.inbox.pop_front() {
            self.batch.clear();
            match self.endpoint.handle(now, self.peer, None, None, datagram, &mut self.batch) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    let (_, connection) = self.connection.as_mut().context("no connection")?;
                    connection.handle_event(event);
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = self.endpoint.accept(incoming, now, &mut self.batch, None);
                    self.connection = Some(accepted.map_err(|error| anyhow!("{}", error.cause))?);
                }
                Some(DatagramEvent::Response(_)) => anyhow::bail!("an answer outside the connection"),
                None => {}
            }
        }
        Ok(())
    }

    /// Handles timeouts and events. Returns the stream that the peer opened.
    fn events(&mut self, now: Instant) -> anyhow::Result<Option<StreamId>> {
        let Some((handle, connection)) = self.connection.as_mut() else { return Ok(None) };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        let mut opened = None;
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => return Err(reason.into()),
                Event::Stream(StreamEvent::Opened { dir }) => opened = connection.streams().accept(dir),
                _ => {}
            }
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        Ok(opened)
    }

    /// One batch, left in `batch`.
    fn transmit(&mut self, now: Instant) -> Option<Transmit> {
        let (_, connection) = self.connection.as_mut()?;
        self.batch.clear();
        connection.poll_transmit(now, TX_SEGMENTS_LEN_MAX, &mut self.batch)
    }

    /// Copies a batch to the other side, as a wire does.
    fn deliver(&mut self, transmit: &Transmit, to: &mut Self) {
        let contents = &self.batch[..transmit.size];
        for datagram in contents.chunks(transmit.segment_size.unwrap_or(transmit.size)) {
            if to.arena.capacity() < datagram.len() {
                to.arena.reserve(256 << 10);
            }
            to.arena.extend_from_slice(datagram);
            to.inbox.push_back(to.arena.split());
            self.packets += 1;
        }
    }

    /// Does everything that is due in a handshake.
    fn step(&mut self, now: Instant, other: &mut Self) -> anyhow::Result<()> {
        self.receive(now)?;
        self.events(now)?;
        while let Some(transmit) = self.transmit(now) {
            self.deliver(&transmit, other);
        }
        Ok(())
    }

    fn connection(&mut self) -> anyhow::Result<&mut Connection> {
        Ok(&mut self.connection.as_mut().context("no connection")?.1)
    }
}

/// Sender and receiver, connected, with a stream between them.
struct Pair {
    sender: Side,
    receiver: Side,
    outgoing: StreamId,
    incoming: Option<StreamId>,
    chunk: Bytes,
    /// Bytes that have been read from the stream.
    received: u64,
}

impl Pair {
    fn connect(mtu: u16) -> anyhow::Result<Self> {
        let identity = |name| {
            Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1).map(|made| made.identity)
        };
        let (server, client) = (identity("server")?, identity("client")?);
        let trust = Trust::pinned([server.node_id(), client.node_id()])?;
        let quic = QuicConfig {
            stream_receive_window_bytes: 64 << 20,
            receive_window_bytes: 128 << 20,
            send_window_bytes: 64 << 20,
            initial_congestion_window_bytes: 4 << 20,
            initial_udp_payload_bytes: 0,
            mtu_discovery: false,
            ..QuicConfig::default()
        };
        let config = NodeConfig {
            server: Some(server_config(&ServerTls::new(server, ClientAuth::Required(trust.clone())))?),
            client: Some(client_config(&ClientTls { identity: Some(client), ..ClientTls::new(trust) })?),
            quic,
            ..NodeConfig::default()
        };
        let settings = config.quic(mtu);
        let shared = Arc::new(settings.endpoint);
        let (near, far) =
            (SocketAddr::from(([10, 77, 0, 2], 4433)), SocketAddr::from(([10, 77, 0, 1], 4433)));
        let mut sender = Side::new(Endpoint::new(shared.clone(), None, true, None), far);
        let server = settings.server.map(|server| server.of(near).clone());
        let receiver = Side::new(Endpoint::new(shared, server, true, None), near);
        let client = settings.client.context("no client configuration")?.of(far).clone();
        let now = Instant::now();
        sender.connection = Some(sender.endpoint.connect(now, client, far, &connect_name(far))?);
        let outgoing = StreamId::new(quinn_proto::Side::Client, Dir::Uni, 0);
        let chunk = Bytes::from(vec![0x5a; CHUNK_BYTES]);
        let mut pair = Self { sender, receiver, outgoing, incoming: None, chunk, received: 0 };
        let mut steps = 0..HANDSHAKE_STEPS_MAX;
        while !(pair.sender.connected && pair.receiver.connected) {
            steps.next().context("the handshake never ends")?;
            let now = Instant::now();
            pair.sender.step(now, &mut pair.receiver)?;
            pair.receiver.step(now, &mut pair.sender)?;
        }
        pair.outgoing = pair.sender.connection()?.streams().open(Dir::Uni).context("no stream")?;
        Ok(pair)
    }

    /// One turn of the sender and one of the receiver. Returns whether a packet went either way.
    fn turn(&mut self) -> anyhow::Result<bool> {
        let mut moved = false;
        let began = Instant::now();
        self.sender.receive(began)?;
        self.sender.events(began)?;
        self.offer()?;
        let batch = self.sender.transmit(began);
        self.sender.spent += began.elapsed();
        if let Some(transmit) = batch {
            moved = true;
            self.sender.deliver(&transmit, &mut self.receiver);
        }

        let began = Instant::now();
        self.receiver.receive(began)?;
        if let Some(opened) = self.receiver.events(began)? {
            self.incoming = Some(opened);
        }
        self.read()?;
        let mut batch = self.receiver.transmit(began);
        self.receiver.spent += began.elapsed();
        while let Some(transmit) = batch {
            moved = true;
            self.receiver.deliver(&transmit, &mut self.sender);
            let began = Instant::now();
            batch = self.receiver.transmit(began);
            self.receiver.spent += began.elapsed();
        }
        Ok(moved)
    }

    /// Fills the stream as far as flow control allows.
    fn offer(&mut self) -> anyhow::Result<()> {
        let connection = &mut self.sender.connection.as_mut().context("no connection")?.1;
        loop {
            let mut chunks: [Bytes; CHUNKS_A_WRITE] = std::array::from_fn(|_| self.chunk.clone());
            match connection.send_stream(self.outgoing).write_chunks(&mut chunks) {
                Ok(_) => {}
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads and drops the received bytes.
    fn read(&mut self) -> anyhow::Result<()> {
        let Some(id) = self.incoming else { return Ok(()) };
        let connection = &mut self.receiver.connection.as_mut().context("no connection")?.1;
        let mut stream = connection.recv_stream(id);
        let mut chunks = stream.read(true)?;
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.received += black_box(chunk.bytes).len() as u64,
                Ok(None) | Err(ReadError::Blocked) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let _ = chunks.finalize();
        Ok(())
    }

    fn move_bytes(&mut self, bytes: u64) -> anyhow::Result<()> {
        let until = self.received + bytes;
        let mut quiet = 0;
        while self.received < until {
            quiet = if self.turn()? { 0 } else { quiet + 1 };
            anyhow::ensure!(quiet < QUIET_TURNS_MAX, "the stream stalls");
        }
        Ok(())
    }
}

/// The result of one run.
#[derive(Clone, Copy)]
struct Run {
    sender_ns: f64,
    receiver_ns: f64,
    goodput_gbit_s: f64,
}

fn run(mtu: u16) -> anyhow::Result<(Run, u64)> {
    let mut pair = Pair::connect(mtu)?;
    pair.move_bytes(WARM_BYTES)?;
    let (bytes, packets) = (pair.received, pair.sender.packets);
    (pair.sender.spent, pair.receiver.spent) = (Duration::ZERO, Duration::ZERO);
    pair.move_bytes(RUN_BYTES)?;
    let bits = (pair.received - bytes) as f64 * 8.0;
    let packets = (pair.sender.packets - packets) as f64;
    let (sender, receiver) = (pair.sender.spent.as_secs_f64(), pair.receiver.spent.as_secs_f64());
    let lost = pair.sender.connection()?.stats().path.lost_packets;
    let found = Run {
        sender_ns: sender * 1e9 / packets,
        receiver_ns: receiver * 1e9 / packets,
        goodput_gbit_s: bits / sender.max(receiver) / 1e9,
    };
    Ok((found, lost))
}

/// Nanoseconds a packet of sealing, of opening, and of the mask that hides a packet's number.
struct Aead {
    payload_bytes: usize,
    seal_ns: f64,
    open_ns: f64,
    mask_ns: f64,
}

fn aead(payload_bytes: usize) -> anyhow::Result<Aead> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16])?);
    let header = quic::HeaderProtectionKey::new(&quic::AES_128, &[9; 16])?;
    let nonce = |packet: usize| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(packet as u64).to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    let aad = [0x40; HEADER_BYTES];
    let mut batch = vec![vec![0x5a; payload_bytes + AES_128_GCM.tag_len()]; TX_SEGMENTS_LEN_MAX];
    let (mut seal, mut open, mut mask) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 0..AEAD_PACKETS / TX_SEGMENTS_LEN_MAX {
        let began = Instant::now();
        for (at, packet) in batch.iter_mut().enumerate() {
            let (payload, tag) = packet.split_at_mut(payload_bytes);
            let number = round * TX_SEGMENTS_LEN_MAX + at;
            let sealed = key.seal_in_place_separate_tag(nonce(number), Aad::from(&aad), payload)?;
            tag.copy_from_slice(sealed.as_ref());
        }
        seal += began.elapsed();
        let began = Instant::now();
        for (at, packet) in batch.iter_mut().enumerate() {
            let number = round * TX_SEGMENTS_LEN_MAX + at;
            black_box(key.open_in_place(nonce(number), Aad::from(&aad), packet)?);
        }
        open += began.elapsed();
        let began = Instant::now();
        for packet in &batch {
            black_box(header.new_mask(&packet[4..20])?);
        }
        mask += began.elapsed();
    }
    let ns = |time: Duration| time.as_secs_f64() * 1e9 / AEAD_PACKETS as f64;
    Ok(Aead { payload_bytes, seal_ns: ns(seal), open_ns: ns(open), mask_ns: ns(mask) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All results for one MTU, as JSON; times in nanoseconds a packet.
fn measure(mtu: u16) -> anyhow::Result<Value> {
    let mut runs = Vec::new();
    let mut lost = 0;
    for _ in 0..RUNS {
        let (found, lost_here) = run(mtu)?;
        runs.push(found);
        lost += lost_here;
    }
    let every = |value: fn(&Run) -> f64| runs.iter().map(value).collect::<Vec<_>>();
    let least = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
    let most = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
    let udp_payload_bytes = mtu - 28;
    let aead = aead(usize::from(udp_payload_bytes) - HEADER_BYTES - AES_128_GCM.tag_len())?;
    Ok(json!({
        "mtu": mtu,
        "udp_payload_bytes": udp_payload_bytes,
        "batch_packets": TX_SEGMENTS_LEN_MAX,
        "runs": RUNS,
        "bytes_a_run": RUN_BYTES,
        "lost_packets": lost,
        "sender_ns_a_packet": { "median": median(every(|r| r.sender_ns)), "best": least(every(|r| r.sender_ns)) },
        "receiver_ns_a_packet": { "median": median(every(|r| r.receiver_ns)), "best": least(every(|r| r.receiver_ns)) },
        "goodput_gbit_s": {
            "median": median(every(|r| r.goodput_gbit_s)),
            "best": most(every(|r| r.goodput_gbit_s)),
            "all": every(|r| r.goodput_gbit_s),
        },
        "aead": {
            "payload_bytes": aead.payload_bytes,
            "seal_ns": aead.seal_ns,
            "open_ns": aead.open_ns,
            "mask_ns": aead.mask_ns,
            "seal_s_a_gb": aead.seal_ns / aead.payload_bytes as f64,
            "open_s_a_gb": aead.open_ns / aead.payload_bytes as f64,
        },
    }))
}

fn show(found: &Value) {
    let number = |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    println!(
        "MTU {}: {:.2} Gbit/s with one core a side, best {:.2}",
        found["mtu"],
        number("/goodput_gbit_s/median"),
        number("/goodput_gbit_s/best")
    );
    for (name, side, crypto) in [("sender", "sender", "seal"), ("receiver", "receiver", "open")] {
        println!(
            "    {name:<8} {:7.1} ns a packet, best {:7.1}; of it AES-128-GCM {:6.1}, {:.3} s/GB, and the mask {:4.1}",
            number(&format!("/{side}_ns_a_packet/median")),
            number(&format!("/{side}_ns_a_packet/best")),
            number(&format!("/aead/{crypto}_ns")),
            number(&format!("/aead/{crypto}_s_a_gb")),
            number("/aead/mask_ns"),
        );
    }
}

fn main() -> anyhow::Result<()> {
    let as_json = std::env::args().any(|argument| argument == "--json");
    let mut found = Vec::new();
    for mtu in MTUS {
        let here = measure(mtu)?;
        if !as_json {
            show(&here);
        }
        found.push(here);
    }
    if as_json {
        println!(
            "{}",
            json!({
                "ceiling": found,
                "cipher": "TLS_AES_128_GCM_SHA256",
                "key_exchange": "X25519MLKEM768",
                "signature": "Falcon-512",
                "congestion": "cubic",
            })
        );
    }
    Ok(())
}
