//! The appliance: from a configuration to a running gateway, and to its orderly end.

use super::network::{Opened, Running};
use super::tls;
use crate::application::{Application, Discard, Echo, Placement};
use crate::config::{ApplicationConfig, GatewayConfig, SeedConfig};
use crate::node::{Host, Hosted, MakeApplication, Node, NodeConfig};
use crate::seed::{MemoryTier, Seed, Store, StoreConfig};
use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The signals that end a gateway. Take them before it starts: one that comes meanwhile then ends it in order.
///
/// # Errors
/// When signals cannot be taken.
pub fn end_signals() -> anyhow::Result<Signals> {
    Signals::new([SIGINT, SIGTERM]).context("cannot take signals")
}

/// A gateway that serves.
pub struct Gateway {
    node: Running<Node>,
    drain: Duration,
}

impl Gateway {
    /// Opens everything and starts serving.
    ///
    /// # Errors
    /// Whatever cannot be opened, with the fix.
    pub fn start(config: &GatewayConfig) -> anyhow::Result<Self> {
        let (server, identity) = tls::server(&config.tls, &config.identity, &config.trust)?;
        // The network first: DPDK takes its huge pages before the store does.
        let opened = Opened::open(&config.network, config.workers.count.into())?;
        let hosted = config.application.iter().map(hosted).collect::<anyhow::Result<Vec<_>>>()?;
        let node = NodeConfig {
            server: Some(server),
            client: None,
            quic: config.quic.clone(),
            idle: config.workers.idle,
            cores: config.workers.cores.clone(),
            thread_setup: opened.thread_setup(),
        };
        let node = opened.start_node(&node, hosted)?;
        for (worker, network) in node.networks().iter().enumerate() {
            let local: Vec<_> = network.local.iter().map(ToString::to_string).collect();
            let core = config.workers.cores.get(worker);
            tracing::info!(worker, core, %network, local = local.join(" "), "serving");
        }
        let (node_id, cipher) = (identity.node_id(), config.tls.cipher);
        tracing::info!(%node_id, %cipher, version = env!("CARGO_PKG_VERSION"), "gateway ready");
        Ok(Self { node, drain: Duration::from_millis(config.shutdown.drain_ms) })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Serves until one of `signals` comes, then finishes what runs; a second one cuts that short.
    pub fn run(self, mut signals: Signals) {
        let handle = signals.handle();
        let mut arrived = signals.forever();
        arrived.next();
        tracing::info!(
            drain_ms = self.drain.as_millis() as u64,
            "stopping: no new requests; finishing what runs"
        );
        std::thread::scope(|scope| {
            // A second signal ends the process while the drain goes on.
            scope.spawn(move || {
                if arrived.next().is_some() {
                    tracing::warn!("second signal: not waiting for what runs");
                    std::process::exit(130);
                }
            });
            self.stop();
            handle.close();
        });
    }

    /// Finishes what runs, closes every connection and the network.
    pub fn stop(self) {
        self.node.drain(self.drain);
        let stats = self.node.device_stats();
        if !stats.is_empty() {
            let counts: Vec<_> = stats.iter().map(|(name, value)| format!("{name}={value}")).collect();
            tracing::info!(stats = counts.join(" "), "port counted");
        }
        drop(self.node);
        tracing::info!("stopped");
    }
}

fn hosted(config: &ApplicationConfig) -> anyhow::Result<Hosted> {
    fn boxed<A: Application + 'static>(make: impl Fn() -> A + Send + 'static) -> MakeApplication {
        Box::new(move |_worker| Box::new(make()))
    }
    let (name, store, placement, make) = match config {
        ApplicationConfig::Echo(plain) => ("echo", false, plain.placement, boxed(Echo::default)),
        ApplicationConfig::Discard(plain) => ("discard", false, plain.placement, boxed(Discard::default)),
        ApplicationConfig::Seed(seed) => ("seed", true, seed.placement, seed_application(seed)?),
    };
    let host = Host::Node(placement, make);
    Ok(Hosted { name: name.into(), queues: config.queues().to_vec(), store, host })
}

fn seed_application(config: &SeedConfig) -> anyhow::Result<MakeApplication> {
    if config.placement == Placement::Worker {
        tracing::warn!(
            "the seed store runs on the worker's thread: every wait for the disk stops the network"
        );
    }
    let kept = StoreConfig { capacity_bytes: config.capacity_bytes, ..StoreConfig::default() };
    let store = Store::open(&config.directory, kept)?;
    let memory = MemoryTier::new(config.memory_bytes, true);
    let (store, memory) = (Arc::new(store), Arc::new(Mutex::new(memory)));
    Ok(Box::new(move |_worker| Box::new(Seed::new(store.clone(), memory.clone()))))
}
