//! Addresses that are announced while the gateway is ready.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use stoq::network::NetworkConfig;
use stoq::wire::prefix::Prefix;

/// The longest name of an interface in the kernel.
const INTERFACE_LEN_MAX: usize = 15;

/// A TUN interface that has addresses exactly while the gateway is ready, for a routing daemon to announce.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnycastConfig {
    /// The interface's name; the gateway makes it, and the kernel removes it with the process.
    pub interface: String,
    /// Its addresses, without a prefix length: each is a host's.
    pub addresses: Vec<IpAddr>,
    /// How long a gateway that stops serves on after the addresses are off, so that routers send packets elsewhere, milliseconds.
    #[serde(default = "settle_ms")]
    pub settle_ms: u64,
    /// Whether the interface also carries the packets that a DPDK port receives for this host and STOQ does not use, and the kernel's answers.
    #[serde(default)]
    pub exception_path: bool,
}

fn settle_ms() -> u64 {
    1000
}

impl AnycastConfig {
    /// The key of the first value that cannot work, and the fix.
    pub(super) fn fault(&self, network: &NetworkConfig) -> Option<(&'static str, String)> {
        let name = &self.interface;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > INTERFACE_LEN_MAX || !name.chars().all(is_plain) {
            let fix = format!(
                "{name:?} names no interface; give 1 to {INTERFACE_LEN_MAX} letters, digits, `-`, `_` or `.`, such as \"stoq0\""
            );
            return Some(("anycast.interface", fix));
        }
        if self.addresses.is_empty() {
            return Some((
                "anycast.addresses",
                "give at least one address, such as [\"203.0.113.1\"]".into(),
            ));
        }
        let is_host = |address: &IpAddr| {
            let v6_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !v6_local
        };
        let no_host = self.addresses.iter().find(|address| !is_host(address)).map(|address| {
            (
                "anycast.addresses",
                format!("{address} is no host's address in a network; give a unicast address"),
            )
        });
        no_host.or_else(|| self.fault_with(network))
    }

    /// The key of the first value that cannot work on this network, and the fix.
    fn fault_with(&self, network: &NetworkConfig) -> Option<(&'static str, String)> {
        match network {
            NetworkConfig::KernelUdp(_) => self.exception_path.then(|| {
                let fix =
                    "it is for a DPDK port: the kernel has all packets of its own interfaces; leave it out";
                ("anycast.exception_path", fix.into())
            }),
            NetworkConfig::Dpdk(ports) => {
                let of_ports: Vec<_> =
                    ports.ports().flat_map(|port| &port.addresses).map(Prefix::address).collect();
                let missing = self.addresses.iter().find(|address| !of_ports.contains(address))?;
                let prefix_len = if missing.is_ipv4() { 32 } else { 128 };
                let fix = format!(
                    "the port takes no packets for {missing}; add \"{missing}/{prefix_len}\" to network.addresses"
                );
                Some(("anycast.addresses", fix))
            }
        }
    }
}
