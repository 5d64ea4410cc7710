//! What a world keeps in memory, counted by the allocator of its process.

use super::Simulation;
use super::flights::flights;
use crate::ALLOCATOR;
use crate::forged::stranger;
use crate::samples::samples;
use crate::support::{MEMORY_TIER_BYTES, identities, trust};
use std::time::{Duration, Instant};
use stoq::limits::MEMORY_BLOCK_BYTES;

/// What a connection keeps beside what its window is charged for, bytes: QUIC, its TLS session and its streams.
const CONNECTION_BYTES: usize = 128 << 10;
/// What may be kept for a byte that is charged: an allocation is at most twice as long as what it is charged for.
const KEPT_FACTOR: usize = 2;
/// What the tables, timers, rings and sessions of a host may grow by, bytes.
const HOST_BYTES: usize = 384 << 10;
/// The bytes of batches after which a gateway's database takes its journal over: until then their rows stay in memory.
pub(super) const JOURNAL_BYTES_MAX: u64 = 8192;
/// Rows of a journal that is taken over, and of the one that goes on meanwhile, and the batch that is written, bytes.
const JOURNAL_BYTES: usize = 3 * JOURNAL_BYTES_MAX as usize;
/// What may be left of a world, bytes: tables of the process grow.
const LEFT_BYTES: usize = 1 << 20;
/// How long the threads of a world that is over may take to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for those of a gateway that crashed.
const THREADS_PATIENCE: Duration = Duration::from_secs(10);

/// What was allocated at a moment, bytes.
#[derive(Clone, Copy)]
pub(super) struct Baseline(usize);

impl Baseline {
    pub(super) fn now() -> Self {
        Self(ALLOCATOR.allocated())
    }

    fn growth(self) -> usize {
        ALLOCATOR.allocated().saturating_sub(self.0)
    }

    /// A world is over: it has given everything back.
    pub(super) fn assert_nothing_is_left(self) {
        let begun = Instant::now();
        while self.growth() > LEFT_BYTES && begun.elapsed() < PATIENCE {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let left = self.growth();
        assert!(left <= LEFT_BYTES, "{left} bytes are left of a world");
    }
}

/// Makes everything that worlds share.
pub(super) fn warm_up() {
    samples();
    flights();
    stranger();
    identities();
    trust();
}

impl Simulation {
    /// The memory of a world stays under its bound, where connections hold these bytes and this number of requests is in flight.
    pub(super) fn assert_memory(&mut self, held_bytes: usize, requests: usize) {
        let gateways = self.setup.gateways;
        let (mut connections, mut blocks_bytes) = (self.world.raw.len(), 0);
        for index in 0..gateways {
            let gateway = self.world.gateway(index);
            connections += gateway.connections();
            let memory = gateway.memory.as_ref().expect("a gateway has a memory tier");
            // A read that found no block, or went ahead, may have taken one. It stays in the tier's pool when its payload goes.
            let stats = memory.stats();
            let blocks_max = stats.misses + stats.ahead;
            blocks_bytes += (blocks_max * MEMORY_BLOCK_BYTES as u64).min(MEMORY_TIER_BYTES) as usize;
        }
        connections += self.world.clients.iter().map(|client| client.connections()).sum::<usize>();
        // An answer that is not read, or a PUT whose consumer has no room, keeps its payload at most.
        let longest = samples().payloads.iter().map(|sample| sample.bytes.len()).max().unwrap_or(0);
        let charged = held_bytes + requests * longest + JOURNAL_BYTES * gateways + self.own_bytes();
        let slack = HOST_BYTES * (gateways + self.setup.clients + 1);
        let bound = slack + connections * CONNECTION_BYTES + blocks_bytes + KEPT_FACTOR * charged;
        // The threads of a gateway that crashed end by themselves, and with them its store.
        let begun = Instant::now();
        while self.memory.growth() > bound && begun.elapsed() < THREADS_PATIENCE {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let growth = self.memory.growth();
        self.note(format_args!("{growth} of {bound} bytes"));
        assert!(
            growth <= bound,
            "{growth} bytes are kept; {connections} connections and {charged} charged bytes allow {bound}\n{}",
            self.world.report()
        );
    }

    /// What the test itself keeps: what clients and hostile peers got and have not sent, frames on the link, and the models of the disks.
    fn own_bytes(&self) -> usize {
        let callers = self.world.clients.iter().flat_map(|client| &client.callers);
        let got: usize = callers
            .map(|caller| {
                let requests: usize = caller.requests.values().map(|request| request.bytes()).sum();
                let messages: usize = caller.messages.iter().map(|(.., message)| message.len()).sum();
                requests + messages + caller.unsent_bytes()
            })
            .sum();
        // The streams of a peer that reads none are in its QUIC.
        let raw: usize = self.world.raw.iter().map(|raw| raw.quic.stats().udp_rx.bytes as usize).sum();
        let disks: usize = self.disks.iter().map(|disk| disk.model_bytes()).sum();
        got + raw + disks + self.world.link.in_flight_bytes() as usize
    }
}
