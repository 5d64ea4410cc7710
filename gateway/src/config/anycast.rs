//! Addresses that are announced while the gateway is ready.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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
}

fn settle_ms() -> u64 {
    1000
}

impl AnycastConfig {
    /// The key of the first value that cannot work, and the fix.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
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
        self.addresses.iter().find(|address| !is_host(address)).map(|address| {
            (
                "anycast.addresses",
                format!("{address} is no host's address in a network; give a unicast address"),
            )
        })
    }
}
