//! Configuration files: TOML in, types out in which a wrong state cannot be written.
//!
//! The gateway and the client share every section; each has its own top level. Unknown keys are refused, and every error names
//! the file, the key and what would be right.

use crate::application::Placement;
use crate::hop::Transit;
use crate::quic::transport::QuicConfig;
use crate::tls::{CipherSuite, NodeId};
use crate::wire::prefix::Prefix;
use crate::worker::Idle;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

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
        source: std::io::Error,
    },
    /// The file is no TOML, has an unknown key, or a value of the wrong type.
    #[error("{file}: {source}")]
    Parse {
        /// The file.
        file: String,
        /// Where and why, as the TOML reader says it.
        source: Box<toml::de::Error>,
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
    pub neighbor: Vec<NeighborConfig>,
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
    pub gateway: Option<SocketAddr>,
    /// Gateways by name, for `--via` and `--on`.
    #[serde(default)]
    pub neighbor: Vec<NeighborConfig>,
    /// Workers and their cores.
    #[serde(default)]
    pub workers: WorkersConfig,
    /// The network.
    #[serde(default)]
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

/// The way to the network: exactly one kind.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NetworkConfig {
    /// A DPDK port: the kernel is not on the packet's way.
    Dpdk(DpdkConfig),
    /// UDP sockets of the kernel: no privileges, no bypass.
    KernelUdp(KernelConfig),
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::KernelUdp(KernelConfig::default())
    }
}

/// A DPDK port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpdkConfig {
    /// A PCI address (`0000:3b:00.0`) or a virtual device (`net_memif0,role=server,…`). `env:NAME` in the file takes it from
    /// that environment variable: for who is told its device only when it starts.
    #[serde(deserialize_with = "device")]
    pub device: String,
    /// Addresses of this port with their prefix lengths.
    pub addresses: Vec<Prefix>,
    /// UDP port that QUIC uses.
    #[serde(default = "default_udp_port")]
    pub udp_port: u16,
    /// Next hop for IPv4 destinations off the link.
    pub gateway_v4: Option<Ipv4Addr>,
    /// Next hop for IPv6 destinations off the link.
    pub gateway_v6: Option<Ipv6Addr>,
    /// 802.1Q VLAN of all frames.
    pub vlan: Option<u16>,
    /// Largest layer-3 packet, bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Receive descriptors a queue.
    #[serde(default = "default_descriptors")]
    pub rx_descriptors: u16,
    /// Transmit descriptors a queue.
    #[serde(default = "default_descriptors")]
    pub tx_descriptors: u16,
    /// Receive buffers a queue; by default what the descriptors and one burst need.
    pub mbufs: Option<u32>,
    /// Take frames for every station: for devices that filter wrongly.
    #[serde(default)]
    pub promiscuous: bool,
    /// Use the device's checksum and RSS offloads where it has them.
    #[serde(default = "default_true")]
    pub offloads: bool,
    /// Huge pages: `required`, `preferred` or `none`.
    #[serde(default)]
    pub huge_pages: HugePagesConfig,
    /// Memory for DPDK, MiB.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u32,
    /// Prefix of DPDK's runtime files; by default one of this process.
    pub file_prefix: Option<String>,
    /// More EAL arguments, for what has no key here.
    #[serde(default)]
    pub eal_args: Vec<String>,
}

/// Whether DPDK lives in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePagesConfig {
    /// Do not start without.
    Required,
    /// Use them where they are, normal pages where not.
    #[default]
    Preferred,
    /// Normal pages.
    None,
}

/// Kernel UDP sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelConfig {
    /// Local addresses. Port 0 takes any free one: for clients.
    pub listen: Vec<SocketAddr>,
    /// Socket buffers asked for, each way, bytes. The kernel bounds them by net.core.rmem_max and wmem_max.
    pub buffer_bytes: usize,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()],
            buffer_bytes: 16 << 20,
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// PEM: the certificate, then intermediates if its authority is not trusted directly.
    pub certificate: PathBuf,
    /// PEM: the PKCS#8 private key, readable by its owner alone.
    pub key: PathBuf,
}

/// Whom a node trusts: at least one of the two; with both, both must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustConfig {
    /// PEM: certificates of the authorities.
    pub ca: Option<PathBuf>,
    /// Node IDs, as `stoq identity show` prints them.
    pub node_ids: Vec<NodeId>,
    /// Gateway: whether clients must show a certificate.
    pub client_auth: ClientAuthConfig,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthConfig {
    /// No connection without a trusted one.
    #[default]
    Required,
    /// Checked when shown.
    Optional,
    /// Never asked for.
    Off,
}

/// Another gateway: for a gateway one of its neighbours, for a client one that it may name in routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighborConfig {
    /// What people here call it, on the command line and in logs; the wire knows no names.
    pub name: Option<String>,
    /// Who it is.
    pub node_id: NodeId,
    /// Where it is, of both families; tried in turn. A client gives none for a gateway that it reaches through others.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
}

/// Forwarding of requests (protocol §5).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HopsConfig {
    /// For whom: `"nobody"`, `"neighbors"`, `"authenticated"` (whoever showed a trusted certificate), `"anyone"`, or a list
    /// of node IDs.
    pub transit: TransitConfig,
    /// The most bytes that one forwarded request may pass, both directions together; none: what the asker allows.
    pub budget_max_bytes: Option<u64>,
    /// Keep payloads that pass and may be kept, in the seed store; by default where that has a `capacity_bytes`.
    pub cache: Option<bool>,
    /// Connections that a worker keeps to neighbours at once; the one used longest ago makes room.
    pub connections_max: usize,
}

impl Default for HopsConfig {
    fn default() -> Self {
        Self {
            transit: TransitConfig::Class(TransitClass::Authenticated),
            budget_max_bytes: None,
            cache: None,
            connections_max: crate::limits::NEIGHBOR_CONNECTIONS_DEFAULT,
        }
    }
}

/// For whom a gateway forwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`transit` is \"nobody\", \"neighbors\", \"authenticated\", \"anyone\", or a list of node IDs"
)]
pub enum TransitConfig {
    /// A class of peers.
    Class(TransitClass),
    /// These nodes.
    Nodes(Vec<NodeId>),
}

/// A class of peers to forward for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransitClass {
    /// None.
    Nobody,
    /// Configured neighbours.
    Neighbors,
    /// Whoever showed a trusted certificate.
    Authenticated,
    /// Whoever may connect.
    Anyone,
}

impl TransitConfig {
    /// As the rules of hops have it.
    pub fn transit(&self) -> Transit {
        match self {
            Self::Class(TransitClass::Nobody) => Transit::Nobody,
            Self::Class(TransitClass::Neighbors) => Transit::Neighbors,
            Self::Class(TransitClass::Authenticated) => Transit::Authenticated,
            Self::Class(TransitClass::Anyone) => Transit::Anyone,
            Self::Nodes(nodes) => Transit::Listed(nodes.iter().copied().collect()),
        }
    }
}

/// TLS policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Only X25519MLKEM768; peers without it are refused.
    pub require_post_quantum: bool,
    /// Accept certificates with classical (ECDSA, Ed25519) signatures.
    pub allow_classical_peers: bool,
    /// Which AEAD is offered first.
    pub cipher: CipherSuite,
    /// Take early data (0-RTT) of what does no harm when it is replayed: small FETCHes, LOCATE, messages for queues that are
    /// marked `replay_safe`.
    pub early_data: bool,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            require_post_quantum: true,
            allow_classical_peers: false,
            cipher: CipherSuite::Aes128Gcm,
            early_data: true,
        }
    }
}

/// One application of a gateway.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ApplicationConfig {
    /// Sends every message back.
    Echo(EchoConfig),
    /// Counts messages and drops them: the far end of benchmarks.
    Discard(DiscardConfig),
    /// Keeps payloads and serves them.
    Seed(SeedConfig),
}

impl ApplicationConfig {
    /// Queue numbers whose messages and PUTs it takes.
    pub fn queues(&self) -> &[u64] {
        match self {
            Self::Echo(echo) => &echo.queues,
            Self::Discard(discard) => &discard.queues,
            Self::Seed(seed) => &seed.queues,
        }
    }
}

/// What sends every message back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EchoConfig {
    /// Queue numbers whose messages it takes.
    pub queues: Vec<u64>,
    /// On the worker's thread or on one of its own.
    #[serde(default = "default_plain_placement")]
    pub placement: Placement,
    /// Take messages in early data too, where they could be replayed.
    #[serde(default)]
    pub replay_safe: bool,
}

/// What counts and drops.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscardConfig {
    /// Queue numbers whose messages and PUTs it takes.
    pub queues: Vec<u64>,
    /// On the worker's thread or on one of its own.
    #[serde(default = "default_plain_placement")]
    pub placement: Placement,
    /// Take messages in early data too, where they could be replayed.
    #[serde(default)]
    pub replay_safe: bool,
    /// Check payloads that are put before they are dropped. Without it they are dropped as they come, which shows what
    /// checking costs; nothing is kept either way.
    #[serde(default = "default_true")]
    pub verify: bool,
}

/// Where payloads are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedConfig {
    /// Queue numbers whose PUTs it takes.
    pub queues: Vec<u64>,
    /// On a thread of its own, since disks block; on the worker's only where the directory is in memory.
    #[serde(default = "default_seed_placement")]
    pub placement: Placement,
    /// The directory; made if it is not there.
    pub directory: PathBuf,
    /// Bytes it may hold; none leaves it to the disk.
    pub capacity_bytes: Option<u64>,
    /// Bytes that one peer may have kept here; none: all there are.
    pub quota_bytes: Option<u64>,
    /// How long to keep what a peer names no lease for, seconds; 0: without end.
    #[serde(default)]
    pub lease_default_s: u64,
    /// The longest lease given, seconds; 0: as long as is asked.
    #[serde(default)]
    pub lease_max_s: u64,
    /// Bytes of memory for hot payloads, in huge pages where they are reserved.
    #[serde(default = "default_memory_bytes")]
    pub memory_bytes: u64,
}

/// The admin endpoint: metrics, health, status.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where it listens, TCP.
    pub listen: SocketAddr,
    /// Its certificate, for HTTPS; of any kind that scrapers take.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
    /// A file with the bearer token that askers must show.
    pub token_file: Option<PathBuf>,
    /// Listen on other addresses than loopback without TLS and token all the same.
    pub insecure: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
        Self { listen, certificate: None, key: None, token_file: None, insecure: false }
    }
}

/// How a gateway ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long running requests may take to finish after the first signal, milliseconds.
    pub drain_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_ms: 5_000 }
    }
}

/// When the configuration is read again while the gateway runs; on SIGHUP it always is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadConfig {
    /// When the file, the certificate, the key or the authorities' certificates have changed.
    pub watch: bool,
}

impl Default for ReloadConfig {
    fn default() -> Self {
        Self { watch: true }
    }
}

/// qlog of connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QlogConfig {
    /// Where a file for each logged connection goes; none: nothing is logged.
    pub directory: Option<PathBuf>,
    /// Log one of so many connections of each worker.
    pub sample: u32,
    /// Bytes that the logs in the directory may have; then nothing more is logged.
    pub bytes_max: u64,
}

impl Default for QlogConfig {
    fn default() -> Self {
        Self { directory: None, sample: 1, bytes_max: 1 << 30 }
    }
}

/// Captures of a DPDK port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureConfig {
    /// The Unix socket that `stoq-gateway capture` asks at; none: the port cannot be captured.
    pub socket: Option<PathBuf>,
    /// Put the TLS secrets of connections that begin during a capture into it: whoever has it then reads what they say.
    pub key_log: bool,
}

/// Logging.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`, or per module: `info,stoq::tls=debug`. `STOQ_LOG` overrides it.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Lines that one place in the code may say in a second, the main thread's aside; what is more is left out and counted.
    /// 0: no bound.
    pub lines_per_s: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, lines_per_s: 10 }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let device = String::deserialize(deserializer)?;
    match device.strip_prefix("env:") {
        None => Ok(device),
        Some(name) => match std::env::var(name) {
            Ok(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
            _ => Err(D::Error::custom(format!(
                "`device` is \"env:{name}\", and that environment variable names no device"
            ))),
        },
    }
}

fn default_udp_port() -> u16 {
    4433
}
fn default_mtu() -> u16 {
    1500
}
fn default_descriptors() -> u16 {
    1024
}
fn default_memory_mb() -> u32 {
    256
}
fn default_memory_bytes() -> u64 {
    512 << 20
}
fn default_plain_placement() -> Placement {
    Placement::Worker
}
fn default_seed_placement() -> Placement {
    Placement::Thread
}
fn default_true() -> bool {
    true
}

/// Reads and checks the gateway's file. Relative paths in it are taken from where the file lies.
///
/// # Errors
/// [`ConfigError`], naming the file, the key and the fix.
pub fn load_gateway(file: &Path) -> Result<GatewayConfig, ConfigError> {
    let (mut config, text): (GatewayConfig, _) = read(file)?;
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
    check.applications(&config.application)?;
    check.neighbors(&config.neighbor, true)?;
    // Neighbours are connected to, so they must be trusted.
    check.trust(
        &config.trust,
        config.neighbor.is_empty() && config.trust.client_auth == ClientAuthConfig::Off,
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
    let (mut config, _): (ClientConfig, _) = read(file)?;
    let base = file.parent().unwrap_or(Path::new(""));
    if let Some(identity) = &mut config.identity {
        identity.resolve(base);
    }
    config.trust.resolve(base);
    let check = Check { file };
    check.workers(&config.workers)?;
    check.network(&config.network)?;
    check.trust(&config.trust, false)?;
    check.neighbors(&config.neighbor, false)?;
    Ok(config)
}

/// The file, read and as text.
fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, String), ConfigError> {
    let file = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
    match toml::from_str(&text) {
        Ok(parsed) => Ok((parsed, text)),
        Err(source) => Err(ConfigError::Parse { file, source: Box::new(source) }),
    }
}

// What serde derives for enums with a tag forgets which key was wrong; these two know it.

impl<'de> Deserialize<'de> for NetworkConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, keys) = tagged(deserializer)?;
        match kind.as_str() {
            "dpdk" => section(keys).map(Self::Dpdk),
            "kernel-udp" => section(keys).map(Self::KernelUdp),
            _ => Err(D::Error::unknown_variant(&kind, &["dpdk", "kernel-udp"])),
        }
    }
}

impl<'de> Deserialize<'de> for ApplicationConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, keys) = tagged(deserializer)?;
        match kind.as_str() {
            "echo" => section(keys).map(Self::Echo),
            "discard" => section(keys).map(Self::Discard),
            "seed" => section(keys).map(Self::Seed),
            _ => Err(D::Error::unknown_variant(&kind, &["echo", "discard", "seed"])),
        }
    }
}

fn tagged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, toml::Table), D::Error> {
    let mut keys = toml::Table::deserialize(deserializer)?;
    match keys.remove("kind") {
        Some(toml::Value::String(kind)) => Ok((kind, keys)),
        Some(_) => Err(D::Error::custom("`kind` must be a string")),
        None => Err(D::Error::missing_field("kind")),
    }
}

fn section<T: DeserializeOwned, E: Error>(keys: toml::Table) -> Result<T, E> {
    keys.try_into().map_err(|error: toml::de::Error| E::custom(error.to_string().trim_end()))
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

struct Check<'a> {
    file: &'a Path,
}

impl Check<'_> {
    fn value(&self, key: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        ConfigError::Value { file: self.file.display().to_string(), key: key.into(), fix: fix.into() }
    }

    fn workers(&self, workers: &WorkersConfig) -> Result<(), ConfigError> {
        let count = usize::from(workers.count);
        if count == 0 || count > crate::limits::WORKERS_MAX {
            let fix = format!("{count} workers; give 1 to {}", crate::limits::WORKERS_MAX);
            return Err(self.value("workers.count", fix));
        }
        if !workers.cores.is_empty() && workers.cores.len() != count {
            let fix =
                format!("{} cores for {count} workers; name one core each, or none", workers.cores.len());
            return Err(self.value("workers.cores", fix));
        }
        let mut sorted = workers.cores.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(self
                .value("workers.cores", format!("core {} is named twice; a worker needs its own", pair[0])));
        }
        Ok(())
    }

    fn admin(&self, admin: Option<&AdminConfig>) -> Result<(), ConfigError> {
        let Some(admin) = admin else { return Ok(()) };
        let tls = match (&admin.certificate, &admin.key) {
            (Some(_), Some(_)) => true,
            (None, None) => false,
            (Some(_), None) => return Err(self.value("admin.key", "a certificate needs its key")),
            (None, Some(_)) => return Err(self.value("admin.certificate", "a key needs its certificate")),
        };
        let guarded = tls && admin.token_file.is_some();
        if !admin.listen.ip().is_loopback() && !guarded && !admin.insecure {
            let fix = format!(
                "{} can be reached by others: give certificate, key and token_file, or listen on 127.0.0.1; \
                 `insecure = true` does without",
                admin.listen
            );
            return Err(self.value("admin.listen", fix));
        }
        Ok(())
    }

    fn network(&self, network: &NetworkConfig) -> Result<(), ConfigError> {
        match network {
            NetworkConfig::Dpdk(dpdk) => {
                if dpdk.addresses.is_empty() {
                    return Err(
                        self.value("network.addresses", "give at least one, such as [\"10.77.0.1/24\"]")
                    );
                }
                if dpdk.mtu < 1280 {
                    let fix = format!(
                        "{} is below 1280, which IPv6 and QUIC need (RFC 8200 §5, RFC 9000 §14)",
                        dpdk.mtu
                    );
                    return Err(self.value("network.mtu", fix));
                }
                if dpdk.vlan.is_some_and(|vlan| vlan == 0 || vlan > 4094) {
                    return Err(self.value("network.vlan", "a VLAN is 1 to 4094"));
                }
                if dpdk.udp_port == 0 {
                    return Err(self.value("network.udp_port", "a port is 1 to 65535"));
                }
                Ok(())
            }
            NetworkConfig::KernelUdp(kernel) if kernel.listen.is_empty() => {
                Err(self.value("network.listen", "give at least one address, such as [\"0.0.0.0:4433\"]"))
            }
            NetworkConfig::KernelUdp(_) => Ok(()),
        }
    }

    fn trust(&self, trust: &TrustConfig, may_be_empty: bool) -> Result<(), ConfigError> {
        if trust.ca.is_none() && trust.node_ids.is_empty() && !may_be_empty {
            let fix = "nobody is trusted; give `ca = \"ca.pem\"`, or `node_ids = [...]` as `stoq identity show` prints them";
            return Err(self.value("trust", fix));
        }
        Ok(())
    }

    fn neighbors(&self, neighbors: &[NeighborConfig], need_addresses: bool) -> Result<(), ConfigError> {
        for (index, neighbor) in neighbors.iter().enumerate() {
            if need_addresses && neighbor.addresses.is_empty() {
                let fix =
                    format!("{} has none; give at least one, such as [\"10.77.0.2:4433\"]", neighbor.node_id);
                return Err(self.value("neighbor.addresses", fix));
            }
            let before = &neighbors[..index];
            if before.iter().any(|other| other.node_id == neighbor.node_id) {
                let fix = format!("{} is named twice; name every neighbour once", neighbor.node_id);
                return Err(self.value("neighbor.node_id", fix));
            }
            let Some(name) = &neighbor.name else { continue };
            // The command line takes names in lists, and beside addresses and node IDs.
            let taken = name.parse::<SocketAddr>().is_ok() || name.parse::<NodeId>().is_ok();
            if name.is_empty() || name.contains([',', ' ']) || taken {
                let fix =
                    format!("{name:?} cannot be told from something else; give one word, such as \"north\"");
                return Err(self.value("neighbor.name", fix));
            }
            if before.iter().any(|other| other.name.as_ref() == Some(name)) {
                return Err(self.value("neighbor.name", "two neighbours have the same name"));
            }
        }
        Ok(())
    }

    fn hops(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
        if config.hops.connections_max == 0 {
            return Err(self.value("hops.connections_max", "0 connections reach nobody; give at least 1"));
        }
        if config.hops.budget_max_bytes == Some(0) {
            return Err(
                self.value("hops.budget_max_bytes", "0 bytes pass nothing; give at least 1, or leave it out")
            );
        }
        let bounded = config
            .application
            .iter()
            .any(|app| matches!(app, ApplicationConfig::Seed(seed) if seed.capacity_bytes.is_some()));
        if config.hops.cache == Some(true) && !bounded {
            let fix = "needs an application of kind \"seed\" with a capacity_bytes: a cache without a bound fills the disk";
            return Err(self.value("hops.cache", fix));
        }
        Ok(())
    }

    fn capture(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
        if config.qlog.sample == 0 {
            return Err(self.value("qlog.sample", "one of 0 connections is none; give at least 1"));
        }
        let dpdk = matches!(config.network, NetworkConfig::Dpdk(_));
        if config.capture.socket.is_some() && !dpdk {
            let fix = "kernel sockets are captured by the kernel's tools, such as tcpdump; leave it out";
            return Err(self.value("capture.socket", fix));
        }
        if config.capture.key_log && config.capture.socket.is_none() {
            return Err(
                self.value("capture.key_log", "needs capture.socket, such as \"/run/stoq/capture.sock\"")
            );
        }
        Ok(())
    }

    fn applications(&self, applications: &[ApplicationConfig]) -> Result<(), ConfigError> {
        let mut seen = Vec::new();
        let mut stores = 0;
        for application in applications {
            stores += usize::from(matches!(application, ApplicationConfig::Seed(_)));
            for queue in application.queues() {
                if seen.contains(queue) {
                    return Err(self
                        .value("application.queues", format!("queue {queue} belongs to two applications")));
                }
                seen.push(*queue);
            }
        }
        if stores > 1 {
            return Err(
                self.value("application", "two applications of kind \"seed\"; a gateway has one store")
            );
        }
        Ok(())
    }
}
