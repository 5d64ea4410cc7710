//! Finds DPDK ports that cannot work, each by itself or beside the others.

use super::ConfigError;
use super::check::ConfigCheck;
use stoq::limits::{PORTS_LEN_MAX, STATIONS_LEN_MAX};
use stoq::neighbor::route::IpRoutes;
use stoq::network::DpdkConfig;
use stoq::nic::interface::interface_of;
use stoq::wire::Mac;
use stoq::wire::prefix::Prefix;

/// Receive buffers that a queue needs in addition to one for each descriptor: two bursts, and the buffers in a thread's cache.
const MBUFS_BESIDE_RX: u32 = 512;

/// In the place of the port's own station.
const NO_STATION: Mac = [0x02, 0, 0, 0, 0, 0];

impl ConfigCheck<'_> {
    /// Checks the ports of a network.
    pub(super) fn ports(&self, dpdk: &DpdkConfig) -> Result<(), ConfigError> {
        let ports: Vec<_> = dpdk.ports().collect();
        if ports.len() > PORTS_LEN_MAX {
            let fix = format!("{} ports are too many; give {PORTS_LEN_MAX} at most", ports.len());
            return Err(self.value("network.port", fix));
        }
        for (at, port) in ports.iter().enumerate() {
            let section = if at == 0 { "network" } else { "network.port" };
            self.port(port, section)?;
            for other in &ports[..at] {
                self.beside(port, other)?;
            }
        }
        Ok(())
    }

    fn port(&self, port: &DpdkConfig, section: &str) -> Result<(), ConfigError> {
        let key = |name: &str| format!("{section}.{name}");
        if port.addresses.is_empty() {
            return Err(self.value(key("addresses"), "give at least one, such as [\"10.77.0.1/24\"]"));
        }
        self.stations(port, section)?;
        let least = u32::from(port.rx_descriptors) + MBUFS_BESIDE_RX;
        if let Some(mbufs) = port.mbufs.filter(|mbufs| *mbufs < least) {
            let fix = format!(
                "{mbufs} buffers are too few for {} receive descriptors; give at least {least}, or leave it out",
                port.rx_descriptors
            );
            return Err(self.value(key("mbufs"), fix));
        }
        Ok(())
    }

    /// Checks that the stations of the configuration are those of neighbors.
    fn stations(&self, port: &DpdkConfig, section: &str) -> Result<(), ConfigError> {
        let key = format!("{section}.stations");
        let len = port.stations.len();
        if len > STATIONS_LEN_MAX {
            let fix = format!("{len} stations are too many; give {STATIONS_LEN_MAX} at most");
            return Err(self.value(key, fix));
        }
        // The port's own station is not known yet. Addresses that contradict each other are told when the port is opened.
        let Ok(routes) = IpRoutes::new(NO_STATION, &port.addresses, port.next_hop_v4, port.next_hop_v6)
        else {
            return Ok(());
        };
        for &address in port.stations.keys() {
            routes.check_neighbor(address).map_err(|error| self.value(&*key, error.to_string()))?;
        }
        Ok(())
    }

    /// Checks that a port and one before it have neither a device nor a network in common.
    fn beside(&self, port: &DpdkConfig, other: &DpdkConfig) -> Result<(), ConfigError> {
        if is_same_device(&port.device, &other.device) {
            let fix = format!("{} has the device of another port; give each port its own", port.device);
            return Err(self.value("network.port.device", fix));
        }
        for ours in &port.addresses {
            let is_shared =
                |theirs: &&Prefix| ours.contains(theirs.address()) || theirs.contains(ours.address());
            if let Some(theirs) = other.addresses.iter().find(is_shared) {
                let fix = format!(
                    "{ours} and {theirs} are on one network, and a route names one port; give each port networks of its own"
                );
                return Err(self.value("network.port.addresses", fix));
            }
        }
        Ok(())
    }
}

/// Whether two devices are the same: by name, as PCI addresses with or without a domain, or by the kernel's interface under them.
fn is_same_device(a: &str, b: &str) -> bool {
    let name = |device: &str| {
        let name = device.split(',').next().unwrap_or_default().to_ascii_lowercase();
        if name.starts_with("net_") || name.matches(':').count() > 1 { name } else { format!("0000:{name}") }
    };
    let interface = interface_of(a);
    name(a) == name(b) || (interface.is_some() && interface == interface_of(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_recognized_by_each_of_its_names() {
        for (a, b) in [
            ("0000:3b:00.0", "3b:00.0"),
            ("0000:3B:00.0", "0000:3b:00.0,rx_vec=1"),
            ("net_memif0,socket=a", "net_memif0,socket=b"),
            ("net_af_packet0,iface=eth1", "net_af_xdp0,iface=eth1"),
        ] {
            assert!(is_same_device(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("0000:3b:00.0", "0000:3b:00.1"),
            ("0001:3b:00.0", "3b:00.0"),
            ("net_memif0,socket=a", "net_memif1,socket=a,id=1"),
            ("net_af_packet0,iface=eth1", "net_af_packet1,iface=eth2"),
        ] {
            assert!(!is_same_device(a, b), "{a} {b}");
        }
    }
}
