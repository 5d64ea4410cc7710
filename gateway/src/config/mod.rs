//! Configuration files: TOML in, types out in which a wrong state cannot be written.
//!
//! The gateway and the client share every section; each has its own top level. Unknown keys are refused, and every error names
//! the file, the key and what would be right.

mod application;
mod check;
mod operation;
mod peers;
mod renamed;
mod tagged;

pub use application::{ApplicationConfig, DiscardConfig, EchoConfig, SeedConfig};
pub use operation::{
    AdminConfig, CaptureConfig, LogConfig, LogFormat, QlogConfig, ReloadConfig, ShutdownConfig,
};
pub use peers::{
    ClientAuthConfig, HopsConfig, IdentityConfig, PeerGatewayConfig, TlsConfig, TransitClass, TransitConfig,
    TrustConfig,
};

use crate::ranges;
use check::Check;
use renamed::{Owner, check_names};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::{Path, PathBuf};
use stoq::names::GatewayAddress;
use stoq::network::NetworkConfig;
use stoq::quic::transport::QuicConfig;
use stoq::worker::Idle;
use tagged::{section, tagged};

/// What can be wrong with a configuration file.
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
    /// The file is no TOML, has an unknown key, or a value of the wrong type.
    #[error("{file}: {}", .r#source.to_string().trim_end())]
    Parse {
        /// The file.
        file: String,
        /// Where and why, as the TOML reader says it.
        r#source: Box<toml::de::Error>,
    },
    /// A value that cannot work.
    #[error("{file}: key `{key}`: {fix}")]
    Value {
        /// The file.
        file: String,
        /// The key, with its section.
        key: String,
        /// What is wrong and what would be right.
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
    /// Whom it trusts.
    pub trust: TrustConfig,
    /// TLS policy.
    #[serde(default)]
    pub tls: TlsConfig,
    /// How connections behave.
    #[serde(default)]
    pub quic: QuicConfig,
    /// What serves requests and messages.
    #[serde(default)]
    pub application: Vec<ApplicationConfig>,
    /// Other gateways: to forward to, to mirror from, to tell of what is kept here.
    #[serde(default)]
    pub gateway: Vec<PeerGatewayConfig>,
    /// For whom requests are forwarded, and how much.
    #[serde(default)]
    pub hops: HopsConfig,
    /// The admin endpoint; without this section there is none.
    pub admin: Option<AdminConfig>,
    /// How it ends.
    #[serde(default)]
    pub shutdown: ShutdownConfig,
    /// When this file is read again.
    #[serde(default)]
    pub reload: ReloadConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// Captures of a port that the kernel does not see.
    #[serde(default)]
    pub capture: CaptureConfig,
    /// Logs of what QUIC does.
    #[serde(default)]
    pub qlog: QlogConfig,
    /// BLAKE3 of the file, hexadecimal: which configuration runs.
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

    /// Whether payloads that pass are kept.
    pub fn keeps_passing(&self) -> bool {
        let bounded = self.seed().is_some_and(|seed| seed.capacity_bytes.is_some());
        self.hops.cache.unwrap_or(bounded)
    }
}

/// The client's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The gateway to talk to, where the command line names none.
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
    /// Whom it trusts.
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
    /// How many: one a network queue.
    pub count: u16,
    /// The core of each, in order; empty lets them float.
    pub cores: Vec<usize>,
    /// What an idle worker does.
    pub idle: Idle,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self { count: 1, cores: Vec::new(), idle: Idle::Adaptive }
    }
}

/// Reads and checks the gateway's file. Relative paths in it are taken from where the file lies.
///
/// # Errors
/// [`ConfigError`], naming the file, the key and the fix.
pub fn load_gateway(file: &Path) -> Result<GatewayConfig, ConfigError> {
    let (mut config, text): (GatewayConfig, _) = read(file, Owner::Gateway)?;
    config.fingerprint = blake3::hash(text.as_bytes()).to_hex().to_string();
    let base = file.parent().unwrap_or(Path::new(""));
    config.identity.resolve(base);
    config.trust.resolve(base);
    for path in [&mut config.capture.socket, &mut config.qlog.directory].into_iter().flatten() {
        resolve(base, path);
    }
    for application in &mut config.application {
        if let ApplicationConfig::Seed(seed) = application {
            resolve(base, &mut seed.directory);
        }
    }
    if let Some(admin) = &mut config.admin {
        let files = [&mut admin.certificate, &mut admin.key, &mut admin.token_file];
        files.into_iter().flatten().for_each(|path| resolve(base, path));
    }
    let check = Check { file };
    check.admin(config.admin.as_ref())?;
    check.workers(&config.workers)?;
    check.network(&config.network)?;
    check.quic(&config.quic, &config.network)?;
    check.applications(&config.application)?;
    check.peer_gateways(&config.gateway, true)?;
    // Peer gateways are connected to, so they must be trusted.
    check.trust(
        &config.trust,
        config.gateway.is_empty() && config.trust.client_auth == ClientAuthConfig::Off,
    )?;
    check.hops(&config)?;
    check.capture(&config)?;
    if let NetworkConfig::KernelUdp(kernel) = &config.network
        && kernel.listen.iter().any(|address| address.port() == 0)
    {
        return Err(check.value("network.listen", "a gateway needs a fixed port, such as 4433"));
    }
    Ok(config)
}

/// Reads and checks the client's file. Relative paths in it are taken from where the file lies.
///
/// # Errors
/// [`ConfigError`], naming the file, the key and the fix.
pub fn load_client(file: &Path) -> Result<ClientConfig, ConfigError> {
    let (mut config, _): (ClientConfig, _) = read(file, Owner::Client)?;
    let base = file.parent().unwrap_or(Path::new(""));
    if let Some(identity) = &mut config.identity {
        identity.resolve(base);
    }
    config.trust.resolve(base);
    let check = Check { file };
    check.workers(&config.workers)?;
    check.network(&config.network)?;
    check.quic(&config.quic, &config.network)?;
    check.trust(&config.trust, false)?;
    check.peer_gateways(&config.gateway, false)?;
    Ok(config)
}

/// The way to the network, by its `kind`.
fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkConfig, D::Error> {
    let (kind, keys) = tagged(deserializer)?;
    match kind.as_str() {
        "dpdk" => section(keys).map(NetworkConfig::Dpdk),
        "kernel-udp" => section(keys).map(NetworkConfig::KernelUdp),
        _ => Err(D::Error::unknown_variant(&kind, &["dpdk", "kernel-udp"])),
    }
}

/// The file, read and as text.
fn read<T: DeserializeOwned>(path: &Path, owner: Owner) -> Result<(T, String), ConfigError> {
    let file = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
    // Before the types: they say of an old name only that it is unknown, and of a number that is out of range what it was not.
    let check = |table| check_names(&table, owner).and_then(|()| ranges::check_keys(&table));
    if let Err((key, fix)) = text.parse().map_or(Ok(()), check) {
        return Err(ConfigError::Value { file, key, fix });
    }
    match toml::from_str(&text) {
        Ok(parsed) => Ok((parsed, text)),
        Err(source) => Err(ConfigError::Parse { file, source: Box::new(source) }),
    }
}

fn resolve(base: &Path, path: &mut PathBuf) {
    *path = base.join(&*path);
}

impl IdentityConfig {
    fn resolve(&mut self, base: &Path) {
        resolve(base, &mut self.certificate);
        resolve(base, &mut self.key);
    }
}

impl TrustConfig {
    fn resolve(&mut self, base: &Path) {
        if let Some(ca) = &mut self.ca {
            resolve(base, ca);
        }
    }
}
