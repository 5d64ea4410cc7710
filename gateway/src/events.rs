//! Events that `stoq-gateway run --json` and `capture --json` print for programs: one JSON object a line on standard output, its kind in
//! `event`.
//!
//! Events and fields may be added. None is renamed or removed. Log lines are for people and may change.

use crate::output::{self, OutputError};
use serde::{Serialize, Serializer};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use stoq::datagram::NetworkInfo;
use stoq::limits::LOG_FLUSH_MS_MAX;
use stoq::nic::Offloads;
use stoq::stages::Sampled;
use stoq::tls::NodeId;
use stoq::worker::WorkerStatus;

/// An event.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The gateway serves.
    Up(Box<Up>),
    /// A reload took effect.
    Reloaded(Reloaded),
    /// A reload was refused. The configuration before it stays in effect.
    ReloadRefused {
        /// The reason, as in the log.
        error: String,
    },
    /// The gateway has ended in order.
    Ended(Ended),
    /// The gateway sends the frames of a capture from now on.
    Recording,
    /// The capture is written.
    Recorded {
        /// Frames in it.
        frames: u64,
    },
}

/// A gateway that serves.
#[derive(Serialize)]
pub struct Up {
    /// Whether its certificates are within their dates; otherwise no peer accepts it. The other conditions of `/readyz` may change at any
    /// time, so they are not part of the event.
    pub certificate_valid: bool,
    /// The version of the executable.
    pub version: &'static str,
    /// Its node ID.
    #[serde(serialize_with = "as_text")]
    pub node_id: NodeId,
    /// The cipher that new connections get.
    pub cipher: String,
    /// The network of each worker, with its addresses.
    pub workers: Vec<NetworkInfo>,
    /// The offloads of the device, the first one of several; none on kernel sockets.
    pub offloads: Option<Offloads>,
    /// Whether the device's packet buffers lie in huge pages; none on kernel sockets.
    pub huge_pages: Option<bool>,
    /// The admin endpoint's address, if there is one.
    pub admin: Option<SocketAddr>,
    /// The capture socket, if there is one.
    pub capture: Option<PathBuf>,
}

/// The outcome of a reload.
#[derive(Serialize)]
pub struct Reloaded {
    /// Keys of the configuration that have new values, as paths; `certificate` where its file has another one.
    pub changed: Vec<String>,
    /// Keys whose values differ from those at the start, and take effect at the next start.
    pub needs_restart: Vec<String>,
    /// The gateway's node ID, which changes with its key.
    #[serde(serialize_with = "as_text")]
    pub node_id: NodeId,
}

/// The final counters of a gateway, by worker.
#[derive(Serialize)]
pub struct Ended {
    workers: Vec<Counted>,
}

#[derive(Serialize)]
struct Counted {
    #[serde(serialize_with = "as_map")]
    counters: Vec<(&'static str, u64)>,
    /// The time of each stage in the sampled turns of the worker's loop.
    stages: Sampled,
}

impl Ended {
    pub(crate) fn of<'a>(statuses: impl IntoIterator<Item = &'a WorkerStatus>) -> Self {
        let counted = |status: &WorkerStatus| Counted {
            counters: status.counters.snapshot().filter(|(_, value)| *value > 0).collect(),
            stages: status.counters.stages.sampled(),
        };
        Self { workers: statuses.into_iter().map(counted).collect() }
    }
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn as_map<S: Serializer>(counters: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counters.iter().copied())
}

impl Event {
    /// Prints the event. Fails after [`LOG_FLUSH_MS_MAX`].
    ///
    /// # Errors
    /// Standard output is closed or full, or its reader took too long.
    pub fn print(&self) -> Result<(), OutputError> {
        let text = serde_json::to_string(self).map_err(std::io::Error::from)?;
        output::line_within(text, Duration::from_millis(LOG_FLUSH_MS_MAX))
    }
}
