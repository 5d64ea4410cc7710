//! Whether the machine has the memory and the cores for a configuration.

use super::NetworkConfig;
use crate::limits::WORKERS_PER_CORE_MAX;
use crate::memory;

/// More memory than the machine has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{keys} asks for {wanted_mib} MiB, and this machine has {total_mib} MiB of memory; give less")]
pub struct MemoryError {
    keys: String,
    wanted_mib: u64,
    total_mib: u64,
}

/// Compares the memory of DPDK and of a store's memory tier of `tier_bytes` with the machine's. Returns the memory
/// asked for and the machine's, MiB.
///
/// # Errors
/// [`MemoryError`] if the machine has less.
pub fn ensure_memory(config: &NetworkConfig, tier_bytes: u64) -> Result<(u64, u64), MemoryError> {
    compare(config, tier_bytes, memory::of_machine() >> 20)
}

/// More workers than the cores can run in turn.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "workers.count = {workers} overloads the {cores} cores that this process may run on: connections would time out while \
     their workers wait; give at most {}", cores * WORKERS_PER_CORE_MAX
)]
pub struct CoresError {
    workers: usize,
    cores: usize,
}

/// Compares the workers with the cores that this process may run on.
///
/// # Errors
/// [`CoresError`] if there are more than [`WORKERS_PER_CORE_MAX`] workers for each core.
pub fn ensure_cores(workers: usize) -> Result<(), CoresError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if workers > cores * WORKERS_PER_CORE_MAX { Err(CoresError { workers, cores }) } else { Ok(()) }
}

fn compare(network: &NetworkConfig, tier_bytes: u64, total_mib: u64) -> Result<(u64, u64), MemoryError> {
    let mut keys = Vec::new();
    let mut wanted_mib = 0;
    if tier_bytes > 0 {
        keys.push(format!("application.memory_bytes = {tier_bytes}"));
        wanted_mib += tier_bytes >> 20;
    }
    if let NetworkConfig::Dpdk(dpdk) = network {
        keys.push(format!("network.memory_mib = {}", dpdk.memory_mib));
        wanted_mib += u64::from(dpdk.memory_mib);
    }
    if wanted_mib > total_mib {
        return Err(MemoryError { keys: keys.join(" and "), wanted_mib, total_mib });
    }
    Ok((wanted_mib, total_mib))
}

#[cfg(test)]
mod tests {
    use super::super::DpdkConfig;
    use super::*;

    #[test]
    fn more_memory_than_the_machine_has_is_refused_with_the_keys_that_ask_for_it() {
        let network: DpdkConfig = serde_json::from_str(
            "{\"device\": \"net_null0\", \"addresses\": [\"10.77.0.1/24\"], \"memory_mib\": 256}",
        )
        .unwrap();
        let network = NetworkConfig::Dpdk(network);
        let compare = |total_mib| compare(&network, 1 << 30, total_mib);
        assert_eq!(compare(1280), Ok((1280, 1280)));
        let error = compare(1279).unwrap_err().to_string();
        assert!(
            error.contains("application.memory_bytes = 1073741824 and network.memory_mib = 256"),
            "{error}"
        );
        assert!(error.contains("1280 MiB") && error.contains("1279 MiB"), "{error}");
    }

    #[test]
    fn a_thousand_workers_on_each_core_are_refused_and_one_is_not() {
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(ensure_cores(cores * WORKERS_PER_CORE_MAX), Ok(()));
        let error = ensure_cores(cores * WORKERS_PER_CORE_MAX + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("give at most {}", cores * WORKERS_PER_CORE_MAX)), "{error}");
    }
}
