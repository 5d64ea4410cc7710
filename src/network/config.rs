//! The configuration of a network.

use crate::nic::interface::{Interface, interface_of};
use crate::wire::StationAddress;
use crate::wire::prefix::Prefix;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What Ethernet carries, bytes of layer 3.
const ETHERNET_MTU: u16 = 1500;
/// What IPv6 and QUIC need, bytes of layer 3 (RFC 8200 §5, RFC 9000 §14).
const LEAST_MTU: u16 = 1280;

/// The network: exactly one kind.
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
    /// A PCI address (`0000:3b:00.0`) or a virtual device (`net_memif0,role=server,…`). `env:NAME` in the
    /// file takes it from that environment variable, for a device that is known only at the start.
    #[serde(deserialize_with = "device")]
    pub device: String,
    /// Addresses of this port with their prefix lengths.
    pub addresses: Vec<Prefix>,
    /// UDP port that QUIC uses.
    #[serde(default = "default_udp_port")]
    pub udp_port: u16,
    /// Next hop for IPv4 destinations off the link.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop for IPv6 destinations off the link.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// The stations of neighbors, by address: they are never asked for, and no packet changes them.
    #[serde(default)]
    pub stations: BTreeMap<IpAddr, StationAddress>,
    /// 802.1Q VLAN of all frames.
    pub vlan: Option<u16>,
    /// Largest layer-3 packet, bytes; see [`DpdkConfig::mtu`].
    pub mtu: Option<u16>,
    /// Queue pairs of the device that are used; by default one for each worker, or as many as the device has. Workers beyond them share
    /// them.
    pub queues: Option<u16>,
    /// Receive descriptors of a queue.
    #[serde(default = "default_descriptors")]
    pub rx_descriptors: u16,
    /// Transmit descriptors of a queue.
    #[serde(default = "default_descriptors")]
    pub tx_descriptors: u16,
    /// Receive buffers of a queue; by default enough for the descriptors and one burst.
    pub mbufs: Option<u32>,
    /// Take frames for every station: for devices that filter wrongly.
    #[serde(default)]
    pub promiscuous: bool,
    /// Use the device's checksum and RSS offloads.
    #[serde(default = "default_true")]
    pub offloads: bool,
    /// Give datagrams over IPv4 a UDP checksum if the device fills in none.
    #[serde(default = "default_true")]
    pub udp_checksum: bool,
    /// Huge pages: `required`, `preferred` or `none`.
    #[serde(default)]
    pub huge_pages: HugePagesConfig,
    /// Memory for DPDK, MiB.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u32,
    /// Prefix of DPDK's runtime files; by default one of this process.
    pub file_prefix: Option<String>,
    /// More EAL arguments, for options without a key here.
    #[serde(default)]
    pub eal_args: Vec<String>,
    /// Further ports. Each worker has a queue at each port. Keys of the whole process, such as `memory_mib`, are those of the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<DpdkConfig>,
}

impl DpdkConfig {
    /// Its keys that are of the process or of all ports, and not of one.
    pub const SHARED_KEYS: [&str; 6] =
        ["udp_port", "udp_checksum", "huge_pages", "memory_mib", "file_prefix", "eal_args"];

    /// All ports: this one and the further ones.
    pub fn ports(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(&self.port)
    }

    /// The largest layer-3 packet that all ports carry, bytes.
    pub fn smallest_mtu(&self) -> u16 {
        self.ports().map(Self::mtu).min().unwrap_or(ETHERNET_MTU)
    }

    /// The largest layer-3 packet, bytes: the one that was named; else that of Ethernet, or what the kernel's interface under the port carries if that
    /// is less.
    pub fn mtu(&self) -> u16 {
        let interface = || {
            let name = interface_under(&self.device)?;
            let mtu = Interface::find(name).ok()?.view().mtu?;
            u16::try_from(mtu).ok().filter(|mtu| (LEAST_MTU..ETHERNET_MTU).contains(mtu))
        };
        self.mtu.or_else(interface).unwrap_or(ETHERNET_MTU)
    }
}

/// The kernel's interface that net_af_packet or net_af_xdp uses; `None` for other devices.
pub(super) fn interface_under(device: &str) -> Option<&str> {
    interface_of(device).filter(|_| device.starts_with("net_af_"))
}

/// Whether DPDK uses huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePagesConfig {
    /// Do not start without them.
    Required,
    /// Use them if there are some, and normal pages otherwise.
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
    /// Requested socket buffers, each way, bytes. The kernel bounds them by net.core.rmem_max and wmem_max.
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
fn default_descriptors() -> u16 {
    1024
}
fn default_memory_mib() -> u32 {
    256
}

fn default_true() -> bool {
    true
}
