//! A DPDK port by configuration.

use super::{DpdkConfig, HugePagesConfig, LostPort, OpenError};
use crate::datagram::NetworkKind;
use crate::datagram::user_space::{InterfaceConfig, InterfaceError, UserSpace};
use crate::limits::TX_PENDING_LEN_MAX;
use crate::neighbor::exchange::exchange;
use crate::nic::dpdk::DpdkNic;
use crate::nic::interface::{Interface, interface_of};
use crate::nic::tap::Tapped;
use crate::nic::{Nic, Offloads};
use crate::node::ThreadSetup;
use crate::wire::Mac;
use crate::wire::ndp::link_local;
use crate::wire::prefix::Prefix;
use ::dpdk::{Eal, EalConfig, HugePages, LogLevel, Multicast, Pages, Port, PortConfig, PortFault};
use std::net::IpAddr;
use std::sync::Arc;

/// One worker's network on a DPDK port.
pub(super) type DpdkNetwork = UserSpace<DpdkNic>;
/// One worker's network on a DPDK port, with a tap on it.
pub(super) type TappedNetwork = UserSpace<Tapped<DpdkNic>>;

/// An open port, and the DPDK environment under it.
pub(super) struct OpenPort {
    port: Port,
    eal: Arc<Eal>,
    interface: Option<Arc<Interface>>,
}

impl OpenPort {
    /// Registers worker threads with DPDK: they then have caches of packet buffers.
    pub(super) fn thread_setup(&self) -> ThreadSetup {
        let eal = self.eal.clone();
        Arc::new(move || match eal.register_thread() {
            Ok(registered) => Box::new(registered),
            Err(error) => {
                tracing::warn!(%error, "a worker runs without a cache of packet buffers");
                Box::new(())
            }
        })
    }

    /// The kernel's interface under the port, if there is one.
    pub(super) fn interface(&self) -> Option<&Arc<Interface>> {
        self.interface.as_ref()
    }

    /// The device's offloads.
    pub(super) fn offloads(&self) -> Offloads {
        let info = self.port.info();
        Offloads {
            rx_checksum: info.rx_checksum,
            tx_checksum: info.tx_checksum,
            rss: info.rss,
            numa_node: info.numa_node,
        }
    }

    /// What happened to the port from outside, if it carries nothing any more.
    pub(super) fn lost(&self) -> Option<LostPort> {
        let device = self.port.info().device.clone();
        self.port.fault().map(|fault| match fault {
            PortFault::Reset => LostPort::Reset(device),
            PortFault::Removed => LostPort::Removed(device),
        })
    }

    /// Whether DPDK's memory lies in huge pages.
    pub(super) fn huge_pages(&self) -> bool {
        self.eal.pages() == Pages::Huge
    }

    /// The port's statistics by DPDK's names.
    pub(super) fn stats(&self) -> Vec<(&'static str, u64)> {
        let stats = self.port.stats();
        vec![
            ("ipackets", stats.ipackets),
            ("opackets", stats.opackets),
            ("ibytes", stats.ibytes),
            ("obytes", stats.obytes),
            ("imissed", stats.imissed),
            ("ierrors", stats.ierrors),
            ("oerrors", stats.oerrors),
            ("rx_nombuf", stats.rx_nombuf),
        ]
    }
}

/// Starts DPDK and opens the port, with one queue pair for each of `workers`; `nic` makes the network device of each, by its number.
///
/// # Errors
/// [`OpenError`], with the fix.
pub(super) fn open<N: Nic>(
    config: &DpdkConfig,
    workers: usize,
    nic: impl Fn(DpdkNic, usize) -> N,
) -> Result<(OpenPort, Vec<UserSpace<N>>), OpenError> {
    let under = require_interface(config)?;
    let is_pci = !config.device.starts_with("net_");
    let eal = Eal::init(&EalConfig {
        huge_pages: match config.huge_pages {
            HugePagesConfig::Required => HugePages::Required,
            HugePagesConfig::Preferred => HugePages::Preferred,
            HugePagesConfig::None => HugePages::None,
        },
        memory_mib: config.memory_mib as usize,
        file_prefix: config.file_prefix.clone().unwrap_or_else(|| format!("stoq-{}", std::process::id())),
        pci_allow: if is_pci { vec![config.device.clone()] } else { Vec::new() },
        extra_args: config.eal_args.clone(),
        log_level: LogLevel::Error,
        ..EalConfig::default()
    })?;
    let eal = Arc::new(eal);
    if eal.pages() == Pages::Normal && config.huge_pages == HugePagesConfig::Preferred {
        tracing::warn!(
            "fewer than {} MiB of huge pages are free: DPDK runs on normal pages, slower; reserve them with `echo {} > /proc/sys/vm/nr_hugepages`",
            config.memory_mib,
            config.memory_mib.div_ceil(2)
        );
    }
    let port = PortConfig {
        device: config.device.clone(),
        queues: workers as u16,
        rx_descriptors: config.rx_descriptors,
        tx_descriptors: config.tx_descriptors,
        mtu: config.mtu,
        rx_mbufs: config.mbufs,
        tx_pending_len_max: TX_PENDING_LEN_MAX,
        checksum: config.offloads,
        rss: config.offloads && workers > 1,
        promiscuous: config.promiscuous,
    };
    let (port, pairs) = Port::open(&eal, &port)?;
    // net_tap makes its own interface.
    let under = under.or_else(|| interface_of(&config.device).and_then(|name| Interface::find(name).ok()));
    if let Some(fault) = under.as_ref().and_then(|under| under.view().fault()) {
        tracing::warn!("{fault}");
    }
    let under = under.map(Arc::new);
    let info = port.info();
    tracing::info!(
        device = info.device,
        driver = info.driver,
        mtu = info.mtu,
        queues = info.queues,
        rx_checksum = info.rx_checksum,
        tx_checksum = info.tx_checksum,
        rss = info.rss,
        pages = ?eal.pages(),
        "DPDK port open"
    );
    let groups = groups(info.mac, config.addresses.iter().map(Prefix::address));
    if let Multicast::Refused(reason) = port.hear(&groups) {
        tracing::warn!(
            device = info.device,
            reason,
            "the port refuses multicast frames: no neighbor finds its IPv6 addresses; for a virtual function, have the host trust it: \
             `ip link set IF vf N trust on`"
        );
    }
    let interface = InterfaceConfig {
        addresses: config.addresses.clone(),
        next_hop_v4: config.next_hop_v4,
        next_hop_v6: config.next_hop_v6,
        vlan: config.vlan,
        udp_port: config.udp_port,
        udp_checksum: config.udp_checksum,
    };
    let queues = pairs
        .into_iter()
        .zip(exchange(workers))
        .enumerate()
        .map(|(index, (pair, exchange))| {
            let device = DpdkNic::new(pair).with_interface(under.clone());
            let stations = config.stations.iter().map(|(&address, station)| (address, station.mac()));
            let queue = UserSpace::new(nic(device, index), &interface, NetworkKind::Dpdk)?;
            let queue = queue.with_stations(stations)?;
            // An ARP reply may arrive on another queue than that of the request.
            Ok(if workers > 1 { queue.with_exchange(exchange) } else { queue })
        })
        .collect::<Result<_, InterfaceError>>()
        .map_err(OpenError::Addresses)?;
    Ok((OpenPort { port, eal, interface: under }, queues))
}

/// The multicast groups of a host with these addresses, as stations: all hosts and, for each IPv6 address, its solicited-node group.
/// Each host has a link-local one.
fn groups(mac: Mac, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Mac> {
    let mut groups = Vec::new();
    for address in addresses.into_iter().chain([link_local(mac).into()]) {
        match address {
            // RFC 1112 §6.4: 224.0.0.1.
            IpAddr::V4(_) => groups.push([0x01, 0x00, 0x5e, 0, 0, 1]),
            // RFC 4291 §2.8: a host recognizes ff02::1 and the solicited-node groups of its addresses. RFC 2464 §7 maps them.
            IpAddr::V6(address) => {
                let [.., a, b, c] = address.octets();
                groups.extend([[0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0xff, a, b, c]]);
            }
        }
    }
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The kernel's interface that net_af_packet or net_af_xdp uses; `None` for other devices.
///
/// # Errors
/// [`OpenError`] if the interface does not exist, or its MTU is below the port's: the kernel silently drops larger packets.
fn require_interface(config: &DpdkConfig) -> Result<Option<Interface>, OpenError> {
    let Some(name) = interface_of(&config.device).filter(|_| config.device.starts_with("net_af_")) else {
        return Ok(None);
    };
    let interface =
        Interface::find(name).map_err(|error| OpenError::NoInterface { name: name.to_owned(), error })?;
    let mtu = interface.view().mtu;
    match mtu.filter(|&mtu| mtu < u32::from(config.mtu)) {
        Some(mtu) => Err(OpenError::InterfaceMtu { name: name.to_owned(), mtu, wanted: config.mtu }),
        None => Ok(Some(interface)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_hears_all_hosts_and_the_solicited_nodes_of_its_addresses() {
        let mac = [0x52, 0x54, 0, 0xaa, 0xbb, 0xcc];
        let addresses =
            ["192.0.2.1", "fd08::2", "2001:db8::12:3456", "2001:db8::2"].map(|text| text.parse().unwrap());
        let mut expected = [
            [0x01, 0x00, 0x5e, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
            [0x33, 0x33, 0xff, 0, 0, 2],
            [0x33, 0x33, 0xff, 0x12, 0x34, 0x56],
            [0x33, 0x33, 0xff, 0xaa, 0xbb, 0xcc],
        ];
        expected.sort_unstable();
        assert_eq!(groups(mac, addresses), expected);
    }
}
