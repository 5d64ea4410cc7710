//! The packages of DPDK's drivers: on Debian each driver is a plug-in with a package of its own.

use std::{fs, path::Path};

use crate::device::Device;

/// The drivers of PCI devices, by the number of the maker.
const MAKERS: [(&str, &str); 7] = [
    ("0x8086", "librte-net-e1000, -igc, -ixgbe, -i40e, -iavf or -ice, as the model is"),
    ("0x1af4", "librte-net-virtio"),
    ("0x15ad", "librte-net-vmxnet3"),
    ("0x15b3", "librte-net-mlx5, or -mlx4 for a ConnectX-3"),
    ("0x14e4", "librte-net-bnxt"),
    ("0x1d0f", "librte-net-ena"),
    ("0x1077", "librte-net-qede"),
];

/// The package with a device's driver, as far as it can be told, without the number of DPDK's interface that is at the end of its name.
pub(crate) fn package(device: &Device, sys: &Path) -> String {
    match device {
        Device::Pci(address) => {
            let maker = fs::read_to_string(sys.join("bus/pci/devices").join(address).join("vendor"));
            let known =
                maker.ok().and_then(|maker| MAKERS.iter().find(|(number, _)| *number == maker.trim()));
            known.map_or("librte-net-…, by its maker".into(), |(_, package)| (*package).into())
        }
        Device::Virtual { name, .. } => {
            let driver = name.trim_end_matches(|last: char| last.is_ascii_digit());
            let driver =
                driver.trim_start_matches("net_").trim_end_matches("_user").trim_start_matches("eth_");
            format!("librte-net-{}", driver.replace('_', "-"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_a_driver_is_named() {
        let sys = tempfile::tempdir().unwrap();
        let of = |device: &str| package(&Device::parse(device, 1518).unwrap(), sys.path());
        assert_eq!(of("net_memif0,id=0"), "librte-net-memif");
        assert_eq!(of("net_af_xdp0,iface=eth1"), "librte-net-af-xdp");
        assert_eq!(of("net_virtio_user0,path=/dev/vhost-net"), "librte-net-virtio");
        assert!(of("0000:00:08.0").contains("by its maker"));
        let at = sys.path().join("bus/pci/devices/0000:00:08.0");
        fs::create_dir_all(&at).unwrap();
        for (maker, package) in
            [("0x15ad", "librte-net-vmxnet3"), ("0x8086", "-ixgbe"), ("0xffff", "by its maker")]
        {
            fs::write(at.join("vendor"), format!("{maker}\n")).unwrap();
            assert!(of("0000:00:08.0").contains(package));
        }
    }
}
