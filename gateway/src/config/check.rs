//! Finds values that have the right type and cannot work.

use super::renamed::KeyOwner;
use super::{
    AdminConfig, ApplicationConfig, ConfigError, GatewayConfig, NetworkConfig, PeerGatewayConfig, SeedConfig,
    TrustConfig, WorkersConfig,
};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use stoq::peer_text::is_plain;
use stoq::quic::transport::{PeerControl, QuicConfig};
use stoq::tls::NodeId;
use stoq::wire::IpFamily;
use stoq::wire::gue::GUE_PORT;

/// Checks the values of one file.
pub(super) struct ConfigCheck<'a> {
    pub(super) file: &'a Path,
}

impl ConfigCheck<'_> {
    pub(super) fn value(&self, key: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        ConfigError::Value { file: self.file.display().to_string(), key: key.into(), fix: fix.into() }
    }

    pub(super) fn workers(&self, workers: &WorkersConfig) -> Result<(), ConfigError> {
        let count = usize::from(workers.count);
        if !workers.cores.is_empty() && workers.cores.len() != count {
            let fix =
                format!("{} cores for {count} workers; name one core each, or none", workers.cores.len());
            return Err(self.value("workers.cores", fix));
        }
        let (threads, verify_cores) = (usize::from(workers.verify_threads), workers.verify_cores.len());
        if verify_cores != 0 && verify_cores != threads {
            let fix =
                format!("{verify_cores} cores for {threads} verify threads; name one core each, or none");
            return Err(self.value("workers.verify_cores", fix));
        }
        let mut sorted = [&workers.cores[..], &workers.verify_cores[..]].concat();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(self.value(
                "workers.cores",
                format!("core {} is named twice; a worker or verify thread needs its own", pair[0]),
            ));
        }
        Ok(())
    }

    pub(super) fn admin(&self, admin: Option<&AdminConfig>) -> Result<(), ConfigError> {
        let Some(admin) = admin else { return Ok(()) };
        let tls = match (&admin.certificate, &admin.key) {
            (Some(_), Some(_)) => true,
            (None, None) => false,
            (Some(_), None) => return Err(self.value("admin.key", "a certificate needs its key: give both")),
            (None, Some(_)) => {
                return Err(self.value("admin.certificate", "a key needs its certificate: give both"));
            }
        };
        let guarded = tls && admin.token_file.is_some();
        if !admin.listen.ip().is_loopback() && !guarded && !admin.insecure {
            let fix = format!(
                "{} can be reached by others: give certificate, key and token_file, or listen on 127.0.0.1; \
                 `insecure = true` allows it without them",
                admin.listen
            );
            return Err(self.value("admin.listen", fix));
        }
        Ok(())
    }

    pub(super) fn anycast(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
        let Some(anycast) = &config.anycast else { return Ok(()) };
        if config.admin.is_none() {
            let fix = "addresses are announced while the admin endpoint says ready: add an [admin] section, such as `listen = \"127.0.0.1:9464\"`";
            return Err(self.value("anycast", fix));
        }
        anycast.fault(&config.network).map_or(Ok(()), |(key, fix)| Err(self.value(key, fix)))
    }

    /// Packets of GUE have a port of their own.
    pub(super) fn handover(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
        let hands_over = config.fleet.as_ref().is_some_and(|fleet| fleet.handover);
        let key = match &config.network {
            NetworkConfig::Dpdk(dpdk) => (dpdk.udp_port == GUE_PORT).then_some("network.udp_port"),
            NetworkConfig::KernelUdp(kernel) => {
                let is_taken = kernel.listen.iter().any(|address| address.port() == GUE_PORT);
                is_taken.then_some("network.listen")
            }
        };
        let fix = format!("{GUE_PORT} is the port of fleet.handover; give another, such as 4433");
        key.filter(|_| hands_over).map_or(Ok(()), |key| Err(self.value(key, fix)))
    }

    pub(super) fn network(&self, network: &NetworkConfig) -> Result<(), ConfigError> {
        match network {
            NetworkConfig::Dpdk(dpdk) => self.ports(dpdk),
            NetworkConfig::KernelUdp(kernel) if kernel.listen.is_empty() => {
                Err(self.value("network.listen", "give at least one address, such as [\"0.0.0.0:4433\"]"))
            }
            NetworkConfig::KernelUdp(kernel) => self.listen(&kernel.listen),
        }
    }

    /// Checks the numbers of `[quic]` against each other and against the port.
    pub(super) fn quic(&self, quic: &QuicConfig, network: &NetworkConfig) -> Result<(), ConfigError> {
        let (stream, whole) = (quic.stream_receive_window_bytes, quic.receive_window_bytes);
        if whole < stream {
            let fix = format!(
                "{whole} is less than quic.stream_receive_window_bytes, {stream}: one stream would block all others; \
                 give at least {stream}, or lower the other key"
            );
            return Err(self.value("quic.receive_window_bytes", fix));
        }
        let (idle, keep_alive) = (quic.idle_timeout_ms, quic.keep_alive_ms);
        if idle > 0 && keep_alive >= idle {
            let fix = format!(
                "{keep_alive} is not less than quic.idle_timeout_ms, {idle}: a quiet connection would end before its first \
                 PING; give {} or less, or 0 for no PINGs",
                idle / 3
            );
            return Err(self.value("quic.keep_alive_ms", fix));
        }
        quic.check().map_err(|error| self.value("quic.rate_bits_per_s", error.to_string()))?;
        if let NetworkConfig::Dpdk(dpdk) = network {
            let mtu = dpdk.smallest_mtu();
            let most = quic.largest_payload(mtu, IpFamily::V4);
            if quic.initial_udp_payload_bytes > most {
                let fix = format!(
                    "{} is more than a port with network.mtu = {} carries; give at most {most}, or 0 for the largest that it carries",
                    quic.initial_udp_payload_bytes, mtu
                );
                return Err(self.value("quic.initial_udp_payload_bytes", fix));
            }
        }
        Ok(())
    }

    /// How the connections to peer gateways are controlled.
    pub(super) fn controls(
        &self,
        peer_gateways: &[PeerGatewayConfig],
        quic: &QuicConfig,
        owner: KeyOwner,
    ) -> Result<(), ConfigError> {
        for peer_gateway in peer_gateways {
            let own = peer_gateway.control();
            if owner == KeyOwner::Client && own != PeerControl::default() {
                let key =
                    if own.rate_bits_per_s.is_some() { "rate_bits_per_s" } else { "congestion_control" };
                let fix = format!("a client has it for all of its connections; write it as quic.{key}");
                return Err(self.value(format!("gateway.{key}"), fix));
            }
            let checked = quic.with(&own).check();
            checked.map_err(|error| self.value("gateway.rate_bits_per_s", error.to_string()))?;
        }
        Ok(())
    }

    /// Refuses addresses that conflict. Port 0 is a new port each time.
    fn listen(&self, listen: &[SocketAddr]) -> Result<(), ConfigError> {
        for (at, address) in listen.iter().enumerate().filter(|(_, address)| address.port() != 0) {
            let same = |ip: IpAddr| ip.to_canonical();
            let beside = listen[..at].iter().chain(&listen[at + 1..]).find(|other| {
                let (ip, other_ip) = (same(address.ip()), same(other.ip()));
                let covers = other_ip.is_unspecified() && other_ip.is_ipv4() == ip.is_ipv4();
                other.port() == address.port() && (ip == other_ip || covers)
            });
            if let Some(other) = beside {
                return Err(self.value(
                    "network.listen",
                    format!("{other} and {address} are the same port of the same address; leave one out"),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn trust(&self, trust: &TrustConfig, may_be_empty: bool) -> Result<(), ConfigError> {
        if trust.ca.is_none() && trust.node_ids.is_empty() && !may_be_empty {
            let fix = "no peer is trusted; give `ca = \"ca.pem\"`, or `node_ids = [...]` as `stoq identity show` prints them";
            return Err(self.value("trust", fix));
        }
        Ok(())
    }

    pub(super) fn peer_gateways(
        &self,
        peer_gateways: &[PeerGatewayConfig],
        need_addresses: bool,
    ) -> Result<(), ConfigError> {
        for (index, peer_gateway) in peer_gateways.iter().enumerate() {
            if need_addresses && peer_gateway.addresses.is_empty() {
                let fix = format!(
                    "{} has none; give at least one, such as [\"10.77.0.2:4433\"]",
                    peer_gateway.node_id
                );
                return Err(self.value("gateway.addresses", fix));
            }
            let before = &peer_gateways[..index];
            if before.iter().any(|other| other.node_id == peer_gateway.node_id) {
                let fix = format!("{} is named twice; name every peer gateway once", peer_gateway.node_id);
                return Err(self.value("gateway.node_id", fix));
            }
            let Some(name) = &peer_gateway.name else { continue };
            // The command line takes names in lists, and beside addresses and node IDs.
            let taken = name.parse::<SocketAddr>().is_ok() || name.parse::<NodeId>().is_ok();
            let shown = name.chars().all(is_plain);
            if name.is_empty() || name.contains([',', ' ']) || taken || !shown {
                let fix = format!(
                    "{name:?} is empty, has letters that are not seen, or reads as a list, an address or a node ID; give one word, such as \"north\""
                );
                return Err(self.value("gateway.name", fix));
            }
            if before.iter().any(|other| other.name.as_ref() == Some(name)) {
                return Err(self.value("gateway.name", "two peer gateways have the same name; rename one"));
            }
        }
        Ok(())
    }

    pub(super) fn hops(&self, config: &GatewayConfig) -> Result<(), ConfigError> {
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
            if let ApplicationConfig::Seed(seed) = application {
                self.seed(seed)?;
            }
            stores += usize::from(matches!(application, ApplicationConfig::Seed(_)));
            for queue in application.queues() {
                if seen.contains(queue) {
                    return Err(self.value(
                        "application.queues",
                        format!("queue {queue} belongs to two applications; remove it from one"),
                    ));
                }
                seen.push(*queue);
            }
        }
        if stores > 1 {
            return Err(self.value(
                "application",
                "two applications of kind \"seed\", and a gateway has one store; remove one",
            ));
        }
        Ok(())
    }

    fn seed(&self, seed: &SeedConfig) -> Result<(), ConfigError> {
        if let (Some(capacity), Some(quota)) = (seed.capacity_bytes, seed.quota_bytes)
            && quota > capacity
        {
            let fix = format!(
                "{quota} is more than application.capacity_bytes, {capacity}; give at most that, or leave it out"
            );
            return Err(self.value("application.quota_bytes", fix));
        }
        let (default, max) = (seed.lease_default_s, seed.lease_max_s);
        if max > 0 && default > max {
            let fix = format!("{default} is more than application.lease_max_s, {max}; give at most that");
            return Err(self.value("application.lease_default_s", fix));
        }
        Ok(())
    }
}
