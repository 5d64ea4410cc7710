//! Many connections between two workers on a simulated link, under virtual time: what an idle one costs, and what a packet costs among many.
//!
//! `cargo bench -p stoq-gateway --bench connections [-- IDLE [ACTIVE]]` opens IDLE connections (100,000), lets them be idle, and then has 1, 100,
//! 1,000 … and ACTIVE of them (10,000) send at once, each on a stream of its own. It prints the memory of a connection, of both sides and of
//! each, as counted by the allocator; the process's resident memory; the time of both workers for a second of idle connections and for a
//! packet. Times are of this machine; `scripts/instructions.sh` counts instructions. Both workers and the link share one thread and its caches.
//! Windows and keep-alives are the default ones. Clients show no certificate.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use anyhow::{Context, ensure};
use bytes::Bytes;
use cap::Cap;
use std::alloc::System;
use std::time::{Duration, Instant};
use stoq::application::Discard;
use stoq::counters::Counter;
use stoq::datagram::NetworkKind;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use stoq::node::NodeConfig;
use stoq::queue::{AppPort, Command, ConnectionEvent, ConnectionId, Credit, Delivery};
use stoq::session::QueueRoutes;
use stoq::tls::{
    ClientAuth, ClientTls, FalconAlgorithm, Identity, ServerTls, Trust, client_config, server_config,
};
use stoq::worker::{Idle, NodeShared, Worker};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const UDP_PORT: u16 = 4433;
const MTU: u16 = 1500;
/// The queue whose messages the server drops.
const QUEUE: u64 = 0;
/// Handshakes at once: fewer than those after which clients must prove their addresses.
const HANDSHAKES_LEN: usize = 32;
const MESSAGE_BYTES: usize = 16 << 10;
/// Messages of all active connections together, at least; two of each, if these are more.
const MESSAGES_LEN: usize = 20_000;
/// The smallest jump of the clock.
const STEP: Duration = Duration::from_micros(20);
/// Handshakes, or messages, take at most this long.
const PATIENCE: Duration = Duration::from_secs(60);
const IDLE_SPAN: Duration = Duration::from_secs(10);

type Side = Worker<UserSpace<SimulatedNic>>;

struct Pair {
    link: SimulatedLink,
    sides: [Side; 2],
    port: AppPort,
    now: Instant,
    /// The client's connections, with the credit of their messages.
    open: Vec<(ConnectionId, Credit)>,
    closed: usize,
}

fn network(link: &SimulatedLink, station: u8) -> anyhow::Result<UserSpace<SimulatedNic>> {
    let nic = link.add_station([2, 0, 0, 0, 0, station], 1).pop().context("a station has a queue")?;
    let interface = InterfaceConfig {
        addresses: vec![format!("10.77.0.{station}/24").parse()?],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum: true,
    };
    Ok(UserSpace::new(nic, &interface, NetworkKind::Simulated)?)
}

impl Pair {
    fn new() -> anyhow::Result<Self> {
        let made = Identity::generate(FalconAlgorithm::FalconPadded512, "server", &[], 1)?;
        let trust = Trust::pinned([made.identity.node_id()])?;
        let config = NodeConfig {
            server: Some(server_config(&ServerTls::new(made.identity, ClientAuth::Off))?),
            client: Some(client_config(&ClientTls::new(trust))?),
            ..NodeConfig::default()
        };
        let link = SimulatedLink::new(LinkConfig { queue_len_max: 1 << 20, ..LinkConfig::default() });
        let worker = |station| -> anyhow::Result<Side> {
            let queues = [(QUEUE, 0)].into_iter().collect();
            let shared = NodeShared::new(1, QueueRoutes { queues, ..QueueRoutes::default() });
            shared.window_budget.set_total(config.quic.window_budget_bytes());
            Ok(Worker::new(0, network(&link, station)?, shared, config.quic(MTU), Idle::Spin))
        };
        let mut sides = [worker(1)?, worker(2)?];
        sides[0].add_inline(Box::new(Discard::default()));
        let port = sides[1].add_port();
        Ok(Self { link, sides, port, now: Instant::now(), open: Vec::new(), closed: 0 })
    }

    fn turn(&mut self) -> bool {
        let mut worked = false;
        for side in &mut self.sides {
            worked |= side.turn(self.now);
        }
        while let Some(delivery) = self.port.receive() {
            match delivery {
                Delivery::Connection(id, ConnectionEvent::Connected { credit, .. }) => {
                    self.open.push((id, credit));
                }
                Delivery::Connection(_, ConnectionEvent::Closed { .. }) | Delivery::ConnectFailed { .. } => {
                    self.closed += 1;
                }
                _ => {}
            }
        }
        worked
    }

    /// Turns both sides until `done`, or to the end of `limit`. Returns whether it is done.
    fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            while self.turn() {}
            if done(self) {
                return true;
            }
            if self.now >= until {
                return false;
            }
            let [server, client] = &self.sides;
            let due = [server.poll_timeout(), client.poll_timeout(), self.link.next_delivery()];
            let next = due.into_iter().flatten().min().unwrap_or(until);
            self.now = next.max(self.now + STEP).min(until);
        }
    }

    fn connect(&mut self, connections: usize) -> anyhow::Result<()> {
        let remote = ([10, 77, 0, 1], UDP_PORT).into();
        while self.open.len() < connections {
            let wanted = connections.min(self.open.len() + HANDSHAKES_LEN);
            for tag in self.open.len()..wanted {
                let command = Command::Connect { tag: tag as u64, remote, early: false };
                ensure!(self.port.send(command).is_ok(), "the ring of commands is full");
            }
            let is_open = self.run(PATIENCE, |pair| pair.open.len() == wanted);
            ensure!(is_open && self.closed == 0, "{} of {wanted} connections came up", self.open.len());
        }
        Ok(())
    }

    /// The packets that the client sent so far.
    fn packets(&self) -> u64 {
        self.sides[1].status().counters.get(Counter::TxPackets)
    }

    /// Messages of the first connections in turn, until all have arrived. Returns the time for a packet of the client, and their number.
    fn send(&mut self, active: usize) -> anyhow::Result<(Duration, u64)> {
        let message = Bytes::from(vec![0x5a; MESSAGE_BYTES]);
        let (packets, began) = (self.packets(), Instant::now());
        let (mut left, mut turn) = (MESSAGES_LEN.max(2 * active), 0);
        let is_sent = self.run(PATIENCE, |pair| {
            let mut blocked = 0;
            while left > 0 && blocked < active && pair.port.room() > 0 {
                let (id, credit) = &pair.open[turn];
                let is_taken = pair.port.send_message(*id, credit, QUEUE, message.clone()).is_ok();
                (left, blocked) = if is_taken { (left - 1, 0) } else { (left, blocked + 1) };
                turn = (turn + 1) % active;
            }
            left == 0
        });
        ensure!(is_sent, "{left} messages found no room");
        self.run(Duration::from_secs(1), |_| false);
        let sent = self.packets() - packets;
        Ok((began.elapsed() / sent.max(1) as u32, sent))
    }
}

/// The process's resident memory, bytes.
fn resident_bytes() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS in /proc/self/status")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let idle: usize = numbers.next().unwrap_or(100_000);
    let active = numbers.next().unwrap_or(10_000).min(idle);
    ensure!(idle > 0 && active > 0, "give numbers from 1 on");
    let mut pair = Pair::new()?;
    let (empty, resident) = (ALLOCATOR.allocated(), resident_bytes()?);
    let began = Instant::now();
    pair.connect(idle)?;
    println!("{idle} connections, {:.1?} of both workers for each handshake", began.elapsed() / idle as u32);
    // Tickets and acknowledgments cross, and surveys find nothing more to watch.
    pair.run(Duration::from_secs(3), |_| false);
    let both = ALLOCATOR.allocated() - empty;
    println!("an idle connection: {} bytes of memory on both sides together", both / idle);
    println!("resident: {} bytes for each", resident_bytes()?.saturating_sub(resident) / idle);
    let began = Instant::now();
    pair.run(IDLE_SPAN, |_| false);
    let second = began.elapsed() / IDLE_SPAN.as_secs() as u32;
    println!("idle connections: {second:.1?} of both workers for a second");
    let mut senders = std::iter::successors(Some(1), |&senders| Some(senders * 10))
        .take_while(|&senders| senders < active)
        .collect::<Vec<_>>();
    senders.push(active);
    for senders in senders {
        let (packet, packets) = pair.send(senders)?;
        println!("{senders} active: {packet:.2?} of both workers for a packet, {packets} packets");
    }
    ensure!(pair.closed == 0, "{} connections ended", pair.closed);
    ensure!(pair.link.stats().overflowed == 0, "the link lost packets");
    // What messages took is given back.
    pair.run(Duration::from_secs(30), |_| false);
    let Pair { sides: [server, client], .. } = pair;
    for (name, side) in [("client", client), ("server", server)] {
        let before = ALLOCATOR.allocated();
        drop(side);
        println!(
            "{name}: {} bytes for each connection, 30 s after the last message",
            (before - ALLOCATOR.allocated()) / idle
        );
    }
    Ok(())
}
