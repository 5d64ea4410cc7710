//! The files that the process may have open: its limit, and how many a configuration can need.

use crate::config::GatewayConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use stoq::limits::{ADMIN_CONNECTIONS_MAX, QLOG_FILES_OPEN_MAX, STORE_FILES_LEN_MAX};
use stoq::network::NetworkConfig;

/// Files that a process has open beside those that other bounds name: standard streams, logs, signals, watches, a port.
const PROCESS_FILES_LEN: u64 = 128;
/// The same of each worker.
const WORKER_FILES_LEN: u64 = 16;

/// The soft limit of open files and the hard one, which the process may raise the soft one to.
pub fn limits() -> (u64, u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX))
}

/// Raises the soft limit of open files to the hard one.
///
/// # Errors
/// The kernel refuses it.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The most files that a gateway has open beside its store's.
fn beside_store(config: &GatewayConfig) -> u64 {
    let addresses = match &config.network {
        NetworkConfig::KernelUdp(kernel) => kernel.listen.len() as u64,
        NetworkConfig::Dpdk(_) => 0,
    };
    let workers = u64::from(config.workers.count) * (WORKER_FILES_LEN + addresses);
    // As many connections from loopback as from elsewhere.
    let admin = config.admin.as_ref().map_or(0, |_| 2 * ADMIN_CONNECTIONS_MAX as u64);
    let qlog = config.qlog.directory.as_ref().map_or(0, |_| QLOG_FILES_OPEN_MAX as u64);
    PROCESS_FILES_LEN + workers + admin + qlog
}

/// The most files that a gateway of this configuration has open, whatever its peers ask for.
pub fn needed(config: &GatewayConfig) -> u64 {
    beside_store(config) + config.seed().map_or(0, |_| STORE_FILES_LEN_MAX)
}

/// The files that a limit leaves to the store.
pub fn for_store(config: &GatewayConfig, limit: u64) -> u64 {
    limit.saturating_sub(beside_store(config)).min(STORE_FILES_LEN_MAX)
}
