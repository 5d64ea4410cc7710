//! Whether this process may have a PCI device, as far as the kernel's files show: DPDK itself says only that it found no port.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    eal::{EalConfig, Pages},
    error::DpdkError,
};

/// Kernel drivers that share their device with DPDK.
const SHARING: [&str; 2] = ["mlx4_core", "mlx5_core"];
/// Bit of capabilities(7).
const CAP_IPC_LOCK: u32 = 14;

/// What a process may do, and where it sees the devices.
struct Process {
    sys: PathBuf,
    dev: PathBuf,
    uid: u32,
    /// Memory that it may pin, MiB; `None`: any.
    pinned_mib_max: Option<usize>,
}

/// Refuses the PCI devices of a configuration that this process may not have.
pub(crate) fn require_all(config: &EalConfig, pages: Pages) -> Result<(), DpdkError> {
    if config.pci_allow.is_empty() {
        return Ok(());
    }
    let process = Process {
        sys: "/sys".into(),
        dev: "/dev".into(),
        uid: fs::metadata("/proc/self").map_or(0, |own| own.uid()),
        pinned_mib_max: pinned_mib_max(),
    };
    let addresses = config.pci_allow.iter().filter_map(|text| address(text));
    addresses.into_iter().try_for_each(|address| process.require(address, pages, config.memory_mib))
}

/// `[dddd:]bb:dd.f` in hexadecimal, with its domain.
pub(crate) fn address(text: &str) -> Option<String> {
    let (rest, function) = text.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0000"));
    let hex = |part: &str, digits| part.len() == digits && part.chars().all(|c| c.is_ascii_hexdigit());
    let well_formed = parts.next().is_none()
        && hex(domain, 4)
        && hex(bus, 2)
        && hex(device, 2)
        && function.len() == 1
        && ('0'..='7').contains(&function.chars().next()?);
    well_formed.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

impl Process {
    fn require(&self, device: String, pages: Pages, memory_mib: usize) -> Result<(), DpdkError> {
        let sysfs = self.sys.join("bus/pci/devices").join(&device);
        if !sysfs.exists() {
            return Err(DpdkError::NoSuchPciDevice { device });
        }
        let driver = name_of_link(&sysfs.join("driver"));
        let (driver, node) = match driver.as_deref() {
            Some("vfio-pci") => match self.group(&sysfs) {
                Some(node) => return self.require_group(device, node, memory_mib),
                None => ("vfio-pci without an IOMMU".to_owned(), None),
            },
            Some(uio @ ("uio_pci_generic" | "igb_uio")) => (uio.to_owned(), self.uio(&sysfs)),
            Some(other) if SHARING.contains(&other) => return Ok(()),
            Some(other) => return Err(DpdkError::NotBound { device, driver: format!("`{other}`") }),
            None => return Err(DpdkError::NotBound { device, driver: "no driver".into() }),
        };
        // The device is given physical addresses: root alone learns them, and normal pages move.
        if self.uid != 0 {
            return Err(DpdkError::DeviceOfRoot { device, driver });
        }
        if pages == Pages::Normal {
            return Err(DpdkError::DeviceOnNormalPages { device, driver, memory_mib });
        }
        // The kernel opens it for any number of processes, which would take the device from each other.
        match node.filter(|node| is_open_elsewhere(node)) {
            Some(node) => Err(DpdkError::DeviceHeld { device, node }),
            None => Ok(()),
        }
    }

    /// The node of a device's group, if the group is behind an IOMMU.
    fn group(&self, sysfs: &Path) -> Option<PathBuf> {
        let group = sysfs.join("iommu_group");
        let is_without =
            fs::read_to_string(group.join("name")).is_ok_and(|name| name.trim() == "vfio-noiommu");
        Some(self.dev.join("vfio").join(name_of_link(&group)?)).filter(|_| !is_without)
    }

    /// The node of a device on a driver of uio.
    fn uio(&self, sysfs: &Path) -> Option<PathBuf> {
        let entry = fs::read_dir(sysfs.join("uio")).ok()?.flatten().next()?;
        Some(self.dev.join(entry.file_name()))
    }

    fn require_group(&self, device: String, node: PathBuf, memory_mib: usize) -> Result<(), DpdkError> {
        for node in [self.dev.join("vfio/vfio"), node] {
            match OpenOptions::new().read(true).write(true).open(&node) {
                Ok(_) => {}
                // The kernel opens a group once.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    return Err(DpdkError::DeviceHeld { device, node });
                }
                Err(error) => {
                    return Err(DpdkError::DeviceClosed { device, node, uid: self.uid, error });
                }
            }
        }
        match self.pinned_mib_max {
            Some(max_mib) if max_mib < memory_mib => {
                Err(DpdkError::PinnedMemory { device, max_mib, memory_mib })
            }
            _ => Ok(()),
        }
    }
}

fn name_of_link(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Whether a process has this file open, as far as this one sees.
fn is_open_elsewhere(node: &Path) -> bool {
    let files =
        |process: fs::DirEntry| fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.flat_map(files).any(|file| fs::read_link(file.path()).is_ok_and(|file| file == node))
}

/// Memory that this process may pin, MiB; `None`: any.
fn pinned_mib_max() -> Option<usize> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(Path::new("/proc/self").join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let capabilities = field("status", "CapEff:").and_then(|text| u64::from_str_radix(&text, 16).ok());
    if capabilities.is_some_and(|capabilities| capabilities >> CAP_IPC_LOCK & 1 == 1) {
        return None;
    }
    // Bytes, or `unlimited`.
    field("limits", "Max locked memory")?.parse::<usize>().ok().map(|bytes| bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const DEVICE: &str = "0000:3b:00.0";

    /// A tree like /sys and /dev, with one device on this driver, in group 4 if it has a group.
    fn machine(driver: &str, grouped: bool) -> (tempfile::TempDir, Process) {
        let root = tempfile::tempdir().unwrap();
        let process = Process {
            sys: root.path().join("sys"),
            dev: root.path().join("dev"),
            uid: 100,
            pinned_mib_max: None,
        };
        let sysfs = process.sys.join("bus/pci/devices").join(DEVICE);
        fs::create_dir_all(&sysfs).unwrap();
        fs::create_dir_all(process.dev.join("vfio")).unwrap();
        symlink(Path::new("../../drivers").join(driver), sysfs.join("driver")).unwrap();
        if grouped {
            symlink("../../../kernel/iommu_groups/4", sysfs.join("iommu_group")).unwrap();
            for node in ["vfio", "4"] {
                fs::write(process.dev.join("vfio").join(node), "").unwrap();
            }
        }
        (root, process)
    }

    fn refused(process: &Process, pages: Pages) -> String {
        process.require(DEVICE.into(), pages, 256).unwrap_err().to_string()
    }

    #[test]
    fn an_address_may_be_short() {
        assert_eq!(address("3B:00.1").as_deref(), Some("0000:3b:00.1"));
        for text in ["net_af_packet0,iface=eth0.100", "3b:00.9", "0:0:0:0.1"] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn a_device_of_the_kernel_is_refused_with_the_command_that_binds_it() {
        let (_root, process) = machine("ixgbe", true);
        let error = refused(&process, Pages::Huge);
        assert!(
            error.contains("is bound to `ixgbe`, which DPDK cannot use: `stoq-bind-nic bind 0000:3b:00.0`"),
            "{error}"
        );
        let (_root, process) = machine("mlx5_core", true);
        process.require(DEVICE.into(), Pages::Normal, 256).unwrap();
        let error = process.require("0000:00:01.0".into(), Pages::Huge, 256).unwrap_err().to_string();
        assert!(error.contains("there is no PCI device 0000:00:01.0: `stoq-bind-nic status`"), "{error}");
    }

    #[test]
    fn a_group_that_cannot_be_opened_is_refused_with_its_node() {
        let (_root, process) = machine("vfio-pci", true);
        process.require(DEVICE.into(), Pages::Normal, 256).unwrap();
        // Root opens files of any mode; a directory it cannot write.
        let node = process.dev.join("vfio/4");
        fs::set_permissions(&node, fs::Permissions::from_mode(0o000)).unwrap();
        if OpenOptions::new().write(true).open(&node).is_ok() {
            fs::remove_file(&node).unwrap();
            fs::create_dir(&node).unwrap();
        }
        let error = refused(&process, Pages::Huge);
        assert!(
            error.contains("which cannot be opened (")
                && error.contains(&format!("`chown 100 {}` as root", node.display())),
            "{error}"
        );
    }

    #[test]
    fn memory_that_may_not_be_pinned_is_refused() {
        let (_root, mut process) = machine("vfio-pci", true);
        process.pinned_mib_max = Some(8);
        let error = refused(&process, Pages::Huge);
        assert!(error.contains("may pin 8 MiB") && error.contains("LimitMEMLOCK=infinity"), "{error}");
        process.pinned_mib_max = Some(256);
        process.require(DEVICE.into(), Pages::Huge, 256).unwrap();
    }

    #[test]
    fn without_an_iommu_a_device_needs_root_and_huge_pages() {
        for driver in ["uio_pci_generic", "igb_uio", "vfio-pci"] {
            let (_root, mut process) = machine(driver, false);
            let error = refused(&process, Pages::Huge);
            assert!(error.contains(driver) && error.contains("serves root alone: run as root"), "{error}");
            process.uid = 0;
            let error = refused(&process, Pages::Normal);
            assert!(error.contains("which needs huge pages: `stoq-hugepages reserve 256`"), "{error}");
            process.require(DEVICE.into(), Pages::Huge, 256).unwrap();
        }
    }

    #[test]
    fn a_device_on_uio_that_a_process_has_open_is_refused() {
        let (_root, mut process) = machine("uio_pci_generic", false);
        process.uid = 0;
        let sysfs = process.sys.join("bus/pci/devices").join(DEVICE);
        fs::create_dir_all(sysfs.join("uio/uio0")).unwrap();
        let held = fs::File::create(process.dev.join("uio0")).unwrap();
        let error = refused(&process, Pages::Huge);
        assert!(error.starts_with("another process has PCI device 0000:3b:00.0, by "), "{error}");
        drop(held);
        process.require(DEVICE.into(), Pages::Huge, 256).unwrap();
    }
}
