//! Values of the right type that cannot work.

use super::{
    AdminConfig, ApplicationConfig, ConfigError, GatewayConfig, NeighborConfig, NetworkConfig, TrustConfig,
    WorkersConfig,
};
use crate::tls::NodeId;
use std::net::SocketAddr;
use std::path::Path;

/// Values that cannot work, found in this file.
pub(super) struct Check<'a> {
    pub(super) file: &'a Path,
}

impl Check<'_> {
    pub(super) fn value(&self, key: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        ConfigError::Value { file: self.file.display().to_string(), key: key.into(), fix: fix.into() }
    }

    pub(super) fn workers(&self, workers: &WorkersConfig) -> Result<(), ConfigError> {
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

    pub(super) fn admin(&self, admin: Option<&AdminConfig>) -> Result<(), ConfigError> {
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

    pub(super) fn network(&self, network: &NetworkConfig) -> Result<(), ConfigError> {
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

    pub(super) fn trust(&self, trust: &TrustConfig, may_be_empty: bool) -> Result<(), ConfigError> {
        if trust.ca.is_none() && trust.node_ids.is_empty() && !may_be_empty {
            let fix = "nobody is trusted; give `ca = \"ca.pem\"`, or `node_ids = [...]` as `stoq identity show` prints them";
            return Err(self.value("trust", fix));
        }
        Ok(())
    }

    pub(super) fn neighbors(
        &self,
        neighbors: &[NeighborConfig],
        need_addresses: bool,
    ) -> Result<(), ConfigError> {
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

    pub(super) fn hops(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
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

    pub(super) fn capture(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
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

    pub(super) fn applications(&self, applications: &[ApplicationConfig]) -> Result<(), ConfigError> {
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
