//! Reads configuration files: TOML in, types out that cannot hold a wrong state.
//!
//! The gateway and the client share every section; each has its own top level. Unknown keys are refused, and every error names
//! the file, the key and the fix.

mod anycast;
mod application;
mod check;
mod fleet;
mod load;
mod operation;
mod peers;
mod ports;
mod renamed;
mod rights;
mod tagged;

pub use anycast::AnycastConfig;
pub use application::{ApplicationConfig, DiscardConfig, EchoConfig, SeedConfig};
pub use fleet::{FleetConfig, FleetEtcdConfig, FleetKubernetesConfig, FleetProvider};
pub use load::{load_client, load_gateway};
pub use operation::{
    AdminConfig, CaptureConfig, LogConfig, LogFormat, OnPanic, QlogConfig, ReloadConfig, ShutdownConfig,
};
pub use peers::{
    ClientAuthConfig, HopsConfig, IdentityConfig, PeerGatewayConfig, TlsConfig, TransitClass, TransitConfig,
    TrustConfig,
};
pub use rights::{AllowConfig, Everything, PeersConfig, QueuesConfig, RightConfig, RightsConfig, allowed_by};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use stoq::names::GatewayAddress;
use stoq::network::{DpdkConfig, NetworkConfig};
use stoq::node::VerifyThreads;
use stoq::quic::transport::QuicConfig;
use stoq::worker::Idle;
use tagged::{section, tagged};

/// A fault of a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "{file}: cannot be read: {source}; give another file with --config, or see configs/ for examples"
    )]
    Read {
        /// The file.
        file: String,
        /// Why.
        r#source: std::io::Error,
    },
    /// The file is a private key, or has one as a value.
    #[error(
        "{file}: holds a private key; a configuration names the files of keys, so put the key into a file and give its path"
    )]
    HoldsKey {
        /// The file.
        file: String,
    },
    /// The file begins with no TOML. The error does not show the text, which may be a secret.
    #[error(
        "{file}: its first line is neither a section, such as `[network]`, nor `key = value`; give a configuration file"
    )]
    NotToml {
        /// The file.
        file: String,
    },
    /// The file is no TOML, has an unknown key, or a value of the wrong type.
    #[error("{file}: {}", .r#source.to_string().trim_end())]
    Parse {
        /// The file.
        file: String,
        /// The TOML reader's error, with the place in the file.
        r#source: Box<toml::de::Error>,
    },
    /// A value that cannot work.
    #[error("{file}: key `{key}`: {fix}")]
    Value {
        /// The file.
        file: String,
        /// The key, with its section.
        key: String,
        /// What is wrong, and the fix.
        fix: String,
    },
}

/// The gateway's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Workers and their cores.
    #[serde(default)]
    pub workers: WorkersConfig,
    /// The network.
    #[serde(deserialize_with = "network")]
    pub network: NetworkConfig,
    /// The gateway's own certificate and key.
    pub identity: IdentityConfig,
    /// The peers that it trusts.
    pub trust: TrustConfig,
    /// TLS policy.
    #[serde(default)]
    pub tls: TlsConfig,
    /// How connections behave.
    #[serde(default)]
    pub quic: QuicConfig,
    /// The applications, which serve requests and messages.
    #[serde(default)]
    pub application: Vec<ApplicationConfig>,
    /// Other gateways: this one forwards to them, mirrors from them, and tells them its holdings.
    #[serde(default)]
    pub gateway: Vec<PeerGatewayConfig>,
    /// The peers for which requests are forwarded, and the bounds.
    #[serde(default)]
    pub hops: HopsConfig,
    /// Its part in a fleet; without this section it is in none.
    pub fleet: Option<FleetConfig>,
    /// Addresses that are announced while it is ready; without this section none are.
    pub anycast: Option<AnycastConfig>,
    /// What each peer may do; without a section every peer may do everything.
    #[serde(default)]
    pub rights: Vec<RightsConfig>,
    /// The admin endpoint; without this section there is none.
    pub admin: Option<AdminConfig>,
    /// The end of a gateway.
    #[serde(default)]
    pub shutdown: ShutdownConfig,
    /// What triggers a reload.
    #[serde(default)]
    pub reload: ReloadConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// Captures of a DPDK port, which the kernel does not see.
    #[serde(default)]
    pub capture: CaptureConfig,
    /// Logs of QUIC connections.
    #[serde(default)]
    pub qlog: QlogConfig,
    /// BLAKE3 of the file, hexadecimal.
    #[serde(skip)]
    pub fingerprint: String,
}

impl GatewayConfig {
    /// The seed, if there is one.
    pub fn seed(&self) -> Option<&SeedConfig> {
        self.application.iter().find_map(|application| match application {
            ApplicationConfig::Seed(seed) => Some(seed),
            _ => None,
        })
    }

    /// The most that the seed's memory tier takes, bytes.
    pub fn memory_tier_bytes(&self) -> u64 {
        self.seed().map_or(0, |seed| seed.memory_bytes)
    }

    /// Whether the members of its fleet are its peer gateways: it has a directory, and trusts other nodes.
    pub fn dials_members(&self) -> bool {
        let trusts = self.trust.ca.is_some() || !self.trust.node_ids.is_empty();
        trusts && self.fleet.as_ref().is_some_and(|fleet| fleet.provider.is_some())
    }

    /// Whether forwarded payloads are kept.
    pub fn keeps_passing(&self) -> bool {
        let bounded = self.seed().is_some_and(|seed| seed.capacity_bytes.is_some());
        self.hops.cache.unwrap_or(bounded)
    }
}

/// The client's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The gateway to connect to, where the command line names none.
    pub connect: Option<GatewayAddress>,
    /// Gateways by name, for `--via` and `--on`.
    #[serde(default)]
    pub gateway: Vec<PeerGatewayConfig>,
    /// Workers and their cores.
    #[serde(default)]
    pub workers: WorkersConfig,
    /// The network.
    #[serde(default, deserialize_with = "network")]
    pub network: NetworkConfig,
    /// The client's own certificate and key, for gateways that ask for one.
    pub identity: Option<IdentityConfig>,
    /// The gateways that it trusts.
    pub trust: TrustConfig,
    /// TLS policy.
    #[serde(default)]
    pub tls: TlsConfig,
    /// How connections behave.
    #[serde(default)]
    pub quic: QuicConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
}

/// Worker threads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkersConfig {
    /// Their number. Each has a network queue of its own.
    pub count: u16,
    /// The core of each, in order; if empty, workers are not pinned.
    pub cores: Vec<usize>,
    /// How an idle worker waits, and an idle verify thread.
    pub idle: Idle,
    /// Threads that check payloads for the workers.
    pub verify_threads: u16,
    /// The core of each, in order; if empty, verify threads are not pinned.
    pub verify_cores: Vec<usize>,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        let idle = Idle::Adaptive;
        Self { count: 1, cores: Vec::new(), idle, verify_threads: 0, verify_cores: Vec::new() }
    }
}

impl WorkersConfig {
    /// The verify threads.
    pub fn verify(&self) -> VerifyThreads {
        VerifyThreads { count: self.verify_threads.into(), cores: self.verify_cores.clone() }
    }
}

/// Reads `[network]`, whose `kind` decides its keys.
fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkConfig, D::Error> {
    let (kind, keys) = tagged(deserializer)?;
    match kind.as_str() {
        "dpdk" => section(with_shared(keys).map_err(D::Error::custom)?).map(NetworkConfig::Dpdk),
        "kernel-udp" => section(keys).map(NetworkConfig::KernelUdp),
        _ => Err(D::Error::unknown_variant(&kind, &["dpdk", "kernel-udp"])),
    }
}

/// Gives each `[[network.port]]` the keys of `[network]` that all ports share. A port itself has none of them.
fn with_shared(mut keys: toml::Table) -> Result<toml::Table, String> {
    let shared: Vec<_> = DpdkConfig::SHARED_KEYS
        .iter()
        .filter_map(|key| keys.get_key_value(*key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let Some(toml::Value::Array(ports)) = keys.get_mut("port") else { return Ok(keys) };
    for port in ports.iter_mut().filter_map(toml::Value::as_table_mut) {
        if let Some(key) = DpdkConfig::SHARED_KEYS.iter().find(|key| port.contains_key(**key)) {
            return Err(format!("`{key}` of a [[network.port]] is of all ports: write it under [network]"));
        }
        if port.contains_key("port") {
            return Err("a [[network.port]] has no ports of its own: write each beside it".into());
        }
        port.extend(shared.iter().cloned());
    }
    Ok(keys)
}
