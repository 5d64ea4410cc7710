//! What `stoq-gateway run --json` and `capture --json` print for programs: one JSON object a line on standard output, its kind in `event`.
//!
//! Fields are added to an event, and events to the list; neither is renamed nor removed. Log lines are for people and may change.

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

/// What happened.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The gateway serves.
    Up(Box<Up>),
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
    /// Whether today is within the dates of its certificates: otherwise no peer accepts it. The rest of what `/readyz` looks at may change
    /// at any time, so it is not told here.
    pub certificate_valid: bool,
    /// The version of the executable.
    pub version: &'static str,
    /// Who it is.
    #[serde(serialize_with = "as_text")]
    pub node_id: NodeId,
    /// The cipher that new connections get.
    pub cipher: String,
    /// The network of each worker, with its addresses.
    pub workers: Vec<NetworkInfo>,
    /// What the device does by itself; none where the kernel has it.
    pub offloads: Option<Offloads>,
    /// Whether the device's packet buffers lie in huge pages; none where the kernel has it.
    pub huge_pages: Option<bool>,
    /// Where the admin endpoint listens, if there is one.
    pub admin: Option<SocketAddr>,
    /// Where captures are served, if they are.
    pub capture: Option<PathBuf>,
}

/// What a gateway counted until its end, by worker.
#[derive(Serialize)]
pub struct Ended {
    workers: Vec<Counted>,
}

#[derive(Serialize)]
struct Counted {
    #[serde(serialize_with = "as_map")]
    counters: Vec<(&'static str, u64)>,
    /// Where the time went in the turns of its loop that were sampled.
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
    /// Prints it. Waits no longer than [`LOG_FLUSH_MS_MAX`] for a reader that takes nothing.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn print(&self) -> Result<(), OutputError> {
        let text = serde_json::to_string(self).map_err(std::io::Error::from)?;
        output::line_within(text, Duration::from_millis(LOG_FLUSH_MS_MAX))
    }
}
