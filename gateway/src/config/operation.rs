//! Sections for the operation of a gateway: admin endpoint, shutdown, reload, qlog, captures, logging.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The admin endpoint: metrics, health, status.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// The TCP address on which it listens.
    pub listen: SocketAddr,
    /// Its certificate, for HTTPS; of any kind that scrapers accept.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
    /// A file with the bearer token that HTTP requests must carry.
    pub token_file: Option<PathBuf>,
    /// Names under which it answers without a token, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Allow an address other than loopback without TLS and token.
    pub insecure: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
        Self { listen, certificate: None, key: None, token_file: None, hosts: Vec::new(), insecure: false }
    }
}

/// The end of a gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long running requests may take to finish after the first signal, milliseconds.
    pub drain_ms: u64,
    /// How a panic of one of the gateway's threads ends the gateway.
    pub on_panic: OnPanic,
}

/// How a panic ends the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPanic {
    /// In order: the other workers finish their requests.
    Drain,
    /// At once, by SIGABRT, with the stack of the panic in the core dump.
    Abort,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_ms: 5_000, on_panic: OnPanic::Drain }
    }
}

/// What triggers a reload. SIGHUP always does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadConfig {
    /// Reload when the file changes, or a certificate, key or token file that it names.
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
    /// The directory for one file a logged connection; none: nothing is logged.
    pub directory: Option<PathBuf>,
    /// Log every `sample`-th connection of each worker.
    pub sample: u32,
    /// Bytes that the logs in the directory may have. When they have that many, nothing more is logged.
    pub capacity_bytes: u64,
}

impl Default for QlogConfig {
    fn default() -> Self {
        Self { directory: None, sample: 1, capacity_bytes: 1 << 30 }
    }
}

/// Captures of a DPDK port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureConfig {
    /// The Unix socket to which `stoq-gateway capture` connects; none: the port cannot be captured.
    pub socket: Option<PathBuf>,
    /// Put the TLS secrets of connections that begin during a capture into it: a reader of the capture can then decrypt these connections.
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
    /// Lines a second that one place in the code may log; further lines are left out and counted. Lines of the main thread are not
    /// bounded. 0: no bound.
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
