//! A DPDK port by configuration.

use super::config::interface_under;
use super::{DpdkConfig, HugePagesConfig, LostPort, MemifMismatch, OpenError};
use crate::datagram::NetworkKind;
use crate::datagram::exception_path::ExceptionPath;
use crate::datagram::port_set::PortSet;
use crate::datagram::user_space::{InterfaceConfig, InterfaceError, KernelPackets, UserSpace};
use crate::limits::TX_PENDING_LEN_MAX;
use crate::neighbor::exchange::exchange;
use crate::nic::dpdk::DpdkNic;
use crate::nic::interface::{Interface, interface_of};
use crate::nic::rss::{RSS_KEY_BYTES, RSS_TABLE_LEN, Rss, RssKey};
use crate::nic::share::ShareNic;
use crate::nic::spread::SpreadNic;
use crate::nic::tap::Tapped;
use crate::nic::{Nic, Offloads};
use crate::node::ThreadSetup;
use crate::wire::Mac;
use crate::wire::ndp::link_local;
use crate::wire::prefix::Prefix;
use ::dpdk::{
    Eal, EalConfig, HugePages, LogLevel, Multicast, Pages, Port, PortConfig, PortFault, PortInfo,
    QueueMismatch, RssInfo,
};
use std::net::IpAddr;
use std::sync::Arc;

const _: () = assert!(RSS_KEY_BYTES == ::dpdk::RSS_KEY_BYTES);

/// One worker's network on a DPDK port.
pub(super) type DpdkNetwork = UserSpace<DpdkNic>;
/// One worker's network on a DPDK port, with a tap on it.
pub(super) type TappedNetwork = UserSpace<Tapped<DpdkNic>>;
/// One worker's network on a DPDK port that the workers share. It has a tap in any case: one more kind of network would be one more copy of
/// the worker's code, and an idle tap is one load a burst.
pub(super) type SpreadNetwork = UserSpace<Tapped<SpreadNic<DpdkNic>>>;

/// One worker's network on several DPDK ports, with a tap on each.
pub(super) type SeveralNetwork = PortSet<Tapped<ShareNic<DpdkNic>>>;

/// An open port, and the DPDK environment under it.
pub struct OpenPort {
    port: Port,
    eal: Arc<Eal>,
    interface: Option<Arc<Interface>>,
    is_spread: bool,
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

    /// Its device.
    pub fn device(&self) -> &str {
        &self.port.info().device
    }

    /// The kernel's interface under the port, if there is one.
    pub fn interface(&self) -> Option<&Interface> {
        self.interface.as_deref()
    }

    /// The device's offloads.
    pub fn offloads(&self) -> Offloads {
        let info = self.port.info();
        Offloads {
            rx_checksum: info.rx_checksum,
            tx_checksum: info.tx_checksum,
            rss: info.rss.is_some(),
            software_spread: self.is_spread,
            numa_node: info.numa_node,
        }
    }

    /// What happened to the port from outside, if it carries nothing any more.
    pub fn lost(&self) -> Option<LostPort> {
        let device = self.port.info().device.clone();
        self.port.fault().map(|fault| match fault {
            PortFault::Reset => LostPort::Reset(device),
            PortFault::Removed => LostPort::Removed(device),
        })
    }

    /// How a memif and its other side differ in their queues, if they do. The call may wait for a callback of the driver.
    pub fn mismatch(&self) -> Option<MemifMismatch> {
        self.port.queue_mismatch().map(|mismatch| match mismatch {
            QueueMismatch::Fewer { shared, own } => MemifMismatch::Fewer { shared, own },
            QueueMismatch::Refused { own } => MemifMismatch::Refused { own },
        })
    }

    /// Whether DPDK's memory lies in huge pages.
    pub fn huge_pages(&self) -> bool {
        self.eal.pages() == Pages::Huge
    }

    /// The port's statistics by DPDK's names.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
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

/// An opened port with its queues.
pub(super) struct OpenedPort {
    pub(super) port: OpenPort,
    pub(super) queues: Vec<DpdkNic>,
    /// The hash by which the workers share the queues, if not each of them has one that the device fills.
    pub(super) spread: Option<Rss>,
}

fn is_pci(config: &DpdkConfig) -> bool {
    !config.device.starts_with("net_")
}

/// Starts DPDK for the ports of this configuration.
///
/// # Errors
/// [`OpenError`], with the fix.
pub(super) fn start_dpdk(config: &DpdkConfig) -> Result<Arc<Eal>, OpenError> {
    for port in config.ports() {
        require_interface(port)?;
    }
    let eal = Eal::init(&EalConfig {
        huge_pages: match config.huge_pages {
            HugePagesConfig::Required => HugePages::Required,
            HugePagesConfig::Preferred => HugePages::Preferred,
            HugePagesConfig::None => HugePages::None,
        },
        memory_mib: config.memory_mib as usize,
        file_prefix: config.file_prefix.clone().unwrap_or_else(|| format!("stoq-{}", std::process::id())),
        pci_allow: config.ports().filter(|port| is_pci(port)).map(|port| port.device.clone()).collect(),
        single_file_segments: config.ports().any(|port| port.device.starts_with("net_virtio_user")),
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
    Ok(eal)
}

/// Opens a port, with a queue pair for each of `workers`, or as many as the device has. Its flows are spread by `key`.
///
/// # Errors
/// [`OpenError`], with the fix.
pub(super) fn open(
    eal: &Arc<Eal>,
    config: &DpdkConfig,
    workers: usize,
    key: &RssKey,
) -> Result<OpenedPort, OpenError> {
    let under = require_interface(config)?;
    let port = PortConfig {
        device: config.device.clone(),
        queues: config.queues.map_or(workers, |queues| workers.min(queues.into())) as u16,
        fewer_queues: config.queues.is_none(),
        workers: workers as u16,
        rx_descriptors: config.rx_descriptors,
        tx_descriptors: config.tx_descriptors,
        mtu: config.mtu(),
        rx_mbufs: config.mbufs,
        tx_pending_len_max: TX_PENDING_LEN_MAX,
        checksum: config.offloads,
        rss_key: (config.offloads && workers > 1).then(|| *key.bytes()),
        promiscuous: config.promiscuous,
    };
    let (port, pairs) = Port::open(eal, &port)?;
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
        rss = told(info.rss),
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
    let queues: Vec<_> =
        pairs.into_iter().map(|pair| DpdkNic::new(pair).with_interface(under.clone())).collect();
    let spread =
        is_spread(info, is_pci(config), workers).then(|| Rss::new(key, table_len(info.rss, workers)));
    if spread.is_some() {
        tracing::info!(
            device = info.device,
            queues = info.queues,
            workers,
            "not each worker has a queue that the device fills: flows are spread over the workers in software, and workers without a queue \
             receive and send by those of others"
        );
    }
    let port = OpenPort { port, eal: eal.clone(), interface: under, is_spread: spread.is_some() };
    Ok(OpenedPort { port, queues, spread })
}

/// Whether the workers share the queues: these are too few, or the device is a NIC that fills only the first. Behind a virtual device there is
/// a kernel or a peer that fills them all.
fn is_spread(port: &PortInfo, is_pci: bool, workers: usize) -> bool {
    usize::from(port.queues) < workers || (workers > 1 && is_pci && port.rss.is_none())
}

/// The entries of the table by which software spreads flows: those of the device's table, so that most frames stay where they arrive, and enough
/// for each worker.
fn table_len(device: Option<RssInfo>, workers: usize) -> u16 {
    let least = 8 * workers.next_power_of_two();
    let of_device = device.and_then(|rss| rss.table_len).unwrap_or(RSS_TABLE_LEN);
    of_device.max(least.try_into().unwrap_or(u16::MAX))
}

/// How a device spreads flows, for the log: by what it hashes, and whether key and table are those that were asked for.
fn told(rss: Option<RssInfo>) -> String {
    let Some(RssInfo { ports, own_key, table_len }) = rss else { return "none".into() };
    let by = if ports { "addresses and ports" } else { "addresses" };
    let of = |is_own| if is_own { "ours" } else { "the driver's" };
    format!("by {by}, key {}, table {}", of(own_key), of(table_len.is_some()))
}

/// The network of each worker on its share of an open port. With an exception path, each gives the kernel its packets, and the kernel's
/// leave by the first or by none of these.
///
/// # Errors
/// [`OpenError::Addresses`] if the port's addresses and its device contradict each other.
pub(super) fn networks<N: Nic>(
    config: &DpdkConfig,
    nics: impl ExactSizeIterator<Item = N>,
    exceptions: Option<(&Arc<ExceptionPath>, KernelPackets)>,
) -> Result<Vec<UserSpace<N>>, OpenError> {
    let interface = InterfaceConfig {
        addresses: config.addresses.clone(),
        next_hop_v4: config.next_hop_v4,
        next_hop_v6: config.next_hop_v6,
        vlan: config.vlan,
        udp_port: config.udp_port,
        udp_checksum: config.udp_checksum,
    };
    let workers = nics.len();
    nics.zip(exchange(workers))
        .enumerate()
        .map(|(worker, (nic, exchange))| {
            let stations = config.stations.iter().map(|(&address, station)| (address, station.mac()));
            let queue = UserSpace::new(nic, &interface, NetworkKind::Dpdk)?;
            let mut queue = queue.with_stations(stations)?;
            if let Some((path, of_first)) = exceptions {
                let leave = if worker == 0 { of_first } else { KernelPackets::LeaveElsewhere };
                queue = queue.with_exceptions(path.clone(), leave);
            }
            // An ARP reply may arrive on another queue than that of the request.
            Ok(if workers > 1 { queue.with_exchange(exchange) } else { queue })
        })
        .collect::<Result<_, InterfaceError>>()
        .map_err(OpenError::Addresses)
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
    let Some(name) = interface_under(&config.device) else { return Ok(None) };
    let interface =
        Interface::find(name).map_err(|error| OpenError::NoInterface { name: name.to_owned(), error })?;
    let (mtu, wanted) = (interface.view().mtu, config.mtu());
    match mtu.filter(|&mtu| mtu < u32::from(wanted)) {
        Some(mtu) => Err(OpenError::InterfaceMtu { name: name.to_owned(), mtu, wanted }),
        None => Ok(Some(interface)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_what_no_device_spreads() {
        let rss = Some(RssInfo { ports: true, own_key: true, table_len: Some(512) });
        let port = |queues, rss| PortInfo { queues, rss, ..PortInfo::default() };
        assert!(is_spread(&port(1, None), false, 2), "fewer queues than workers");
        assert!(is_spread(&port(2, rss), true, 4));
        assert!(is_spread(&port(2, None), true, 2), "a NIC without RSS fills its first queue");
        assert!(!is_spread(&port(2, None), false, 2), "the peer of a memif fills its queues");
        assert!(!is_spread(&port(2, rss), true, 2) && !is_spread(&port(1, None), true, 1));
        assert_eq!((table_len(rss, 3), table_len(None, 3), table_len(None, 100)), (512, 128, 1024));
    }

    #[test]
    fn the_log_tells_how_flows_are_spread() {
        assert_eq!(told(None), "none");
        let own = RssInfo { ports: true, own_key: true, table_len: Some(128) };
        assert_eq!(told(Some(own)), "by addresses and ports, key ours, table ours");
        let other = RssInfo { ports: false, own_key: false, table_len: None };
        assert_eq!(told(Some(other)), "by addresses, key the driver's, table the driver's");
    }

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
