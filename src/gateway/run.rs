//! The appliance: from a configuration to a running gateway, and to its orderly end.

use super::network::{Opened, Running};
use super::tls;
use crate::admin::{Admin, Facts, Parts, Source};
use crate::application::{Application, Discard, Echo, Placement};
use crate::config::{ApplicationConfig, GatewayConfig, SeedConfig};
use crate::hop::{Hops, Policy};
use crate::node::{Host, Hosted, MakeApplication, Node, NodeConfig};
use crate::seed::{Cache, MemoryTier, Seed, SeedParts, Store, StoreConfig};
use crate::tls::{Identity, NodeId};
use crate::worker::Neighbor;
use anyhow::Context;
use quinn_proto::crypto::rustls::QuicClientConfig;
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
    admin: Option<Admin>,
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
        let neighbors = config
            .neighbor
            .iter()
            .map(|neighbor| Neighbor { node: neighbor.node_id, addresses: neighbor.addresses.clone() });
        let policy = Policy {
            own: identity.node_id(),
            transit: config.hops.transit.transit(),
            budget_bytes_max: config.hops.budget_max_bytes.unwrap_or(u64::MAX),
        };
        let known = config.neighbor.iter().map(|neighbor| neighbor.node_id);
        let hops = Arc::new(Hops::new(policy, known.collect()));
        let seeds = Seeds::new(identity.node_id(), &hops, config)?;
        let hosted = config.application.iter().map(|app| seeds.hosted(app)).collect();
        let node = NodeConfig {
            server: Some(server),
            client: client_tls(config)?,
            neighbors: neighbors.collect(),
            neighbor_connections_max: config.hops.connections_max,
            hops: Some(hops),
            cache: seeds.cache()?,
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
        let admin = admin(config, &node, &identity, &seeds)?;
        let (node_id, cipher) = (identity.node_id(), config.tls.cipher);
        tracing::info!(%node_id, %cipher, version = env!("CARGO_PKG_VERSION"), "gateway ready");
        Ok(Self { node, admin, drain: Duration::from_millis(config.shutdown.drain_ms) })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The admin endpoint, if there is one.
    pub fn admin(&self) -> Option<&Admin> {
        self.admin.as_ref()
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
        // It looks at the device, so it ends before that is closed.
        drop(self.admin);
        drop(self.node);
        tracing::info!("stopped");
    }
}

/// What the admin endpoint shows that may change while the gateway runs.
///
/// # Errors
/// A certificate that cannot be read.
pub fn facts(config: &GatewayConfig, identity: &Identity) -> anyhow::Result<Facts> {
    Ok(Facts {
        fingerprint: config.fingerprint.clone(),
        certificate: identity.summary()?,
        neighbors: config.neighbor.iter().map(|neighbor| (neighbor.node_id, neighbor.name.clone())).collect(),
    })
}

fn admin(
    config: &GatewayConfig,
    node: &Running<Node>,
    identity: &Identity,
    seeds: &Seeds,
) -> anyhow::Result<Option<Admin>> {
    let Some(admin) = &config.admin else { return Ok(None) };
    let parts = Parts {
        shared: node.shared().clone(),
        statuses: node.statuses().to_vec(),
        networks: node.networks().to_vec(),
        cores: config.workers.cores.clone(),
        device: node.device(),
        store: seeds.parts.as_ref().map(|parts| parts.store.clone()),
        memory: seeds.parts.as_ref().map(|parts| parts.memory.clone()),
    };
    Admin::start(admin, Source::new(parts, facts(config, identity)?)).map(Some)
}

/// What the gateway shows when it connects to neighbours; nothing without any.
fn client_tls(config: &GatewayConfig) -> anyhow::Result<Option<Arc<QuicClientConfig>>> {
    if config.neighbor.is_empty() {
        return Ok(None);
    }
    Ok(Some(tls::client(&config.tls, Some(&config.identity), &config.trust)?))
}

/// The gateway's seed store, if it has one, shared by all who need it.
struct Seeds {
    parts: Option<SeedParts>,
    cache: bool,
}

impl Seeds {
    /// Opens the store that the configuration names.
    fn new(own: NodeId, hops: &Arc<Hops>, config: &GatewayConfig) -> anyhow::Result<Self> {
        let seed = config.application.iter().find_map(|application| match application {
            ApplicationConfig::Seed(seed) => Some(seed),
            _ => None,
        });
        let bounded = seed.is_some_and(|seed| seed.capacity_bytes.is_some());
        let parts = seed.map(|seed| open_store(seed, own, hops)).transpose()?;
        Ok(Self { parts, cache: config.hops.cache.unwrap_or(bounded) })
    }

    fn cache(&self) -> anyhow::Result<Option<Cache>> {
        let store = self.parts.as_ref().filter(|_| self.cache).map(|parts| parts.store.clone());
        store.map(Cache::start).transpose().context("cannot start the cache's thread")
    }

    fn hosted(&self, config: &ApplicationConfig) -> Hosted {
        fn boxed<A: Application + 'static>(make: impl Fn() -> A + Send + 'static) -> MakeApplication {
            Box::new(move |_worker| Box::new(make()))
        }
        let parts = self.parts.clone();
        let queues = config.queues().to_vec();
        match (config, parts) {
            (ApplicationConfig::Echo(echo), _) => Hosted {
                replay_safe: echo.replay_safe,
                ..Hosted::new("echo", queues, Host::Node(echo.placement, boxed(Echo::default)))
            },
            (ApplicationConfig::Discard(discard), _) => Hosted {
                replay_safe: discard.replay_safe,
                unchecked: !discard.verify,
                ..Hosted::new("discard", queues, Host::Node(discard.placement, boxed(Discard::default)))
            },
            (ApplicationConfig::Seed(seed), Some(parts)) => {
                let make: MakeApplication =
                    Box::new(move |worker| Box::new(Seed::new(parts.clone(), worker)));
                Hosted { store: true, ..Hosted::new("seed", queues, Host::Node(seed.placement, make)) }
            }
            (ApplicationConfig::Seed(_), None) => unreachable!("its store was opened"),
        }
    }
}

fn open_store(config: &SeedConfig, own: NodeId, hops: &Arc<Hops>) -> anyhow::Result<SeedParts> {
    if config.placement == Placement::Worker {
        tracing::warn!(
            "the seed store runs on the worker's thread: every wait for the disk stops the network"
        );
    }
    let kept = StoreConfig {
        capacity_bytes: config.capacity_bytes,
        quota_bytes: config.quota_bytes,
        lease_default_s: config.lease_default_s,
        lease_max_s: config.lease_max_s,
    };
    let store = Arc::new(Store::open(&config.directory, kept)?);
    let memory = Arc::new(Mutex::new(MemoryTier::new(config.memory_bytes, true)));
    Ok(SeedParts { own: Some(own), hops: Some(hops.clone()), ..SeedParts::alone(store, memory) })
}
