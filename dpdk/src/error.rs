//! Errors of devices and of DPDK's environment, with their fixes.

use std::{
    ffi::{CStr, c_int},
    path::PathBuf,
};

/// An error of DPDK's environment or of a port. The text names the fix.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    /// DPDK's environment starts once in a process, even if it was dropped since.
    #[error("DPDK was already started in this process, and it can only be started once")]
    AlreadyStarted,

    /// Huge pages were required, and too few are free.
    #[error(
        "DPDK needs {needed_mib} MiB of free huge pages, and {free_mib} MiB are: \
         reserve them with `echo {pages} > /proc/sys/vm/nr_hugepages`, lower `memory_mib`, \
         or do without huge pages"
    )]
    NoHugePages {
        /// MiB needed.
        needed_mib: usize,
        /// MiB free in huge pages of all sizes.
        free_mib: usize,
        /// The number of huge pages of the default size to reserve in all.
        pages: usize,
    },

    /// A configured string that DPDK cannot take.
    #[error("`{0}` contains a zero byte, or a blank where DPDK allows none: leave it out")]
    InvalidArgument(String),

    /// A file prefix names a folder: not every string is allowed.
    #[error("file prefix `{0}` must be made of letters, digits, `-`, `_` and `.`, and not begin with `.`")]
    InvalidFilePrefix(String),

    /// EAL refused to start.
    #[error(
        "DPDK did not start: {reason}; its own log above says more (raise the log level if it is silent)"
    )]
    Eal {
        /// EAL's error.
        reason: String,
    },

    /// A thread could not be registered with DPDK.
    #[error(
        "DPDK cannot register another thread: {reason}; give fewer workers, since it knows at most 128 threads"
    )]
    RegisterThread {
        /// EAL's error.
        reason: String,
    },

    /// No PCI device has this address.
    #[error("there is no PCI device {device}: `stoq-bind-nic status` lists the network devices")]
    NoSuchPciDevice {
        /// The address as configured.
        device: String,
    },

    /// A PCI device that is not in DPDK's allow-list.
    #[error("PCI device {device} is not in the allow-list that DPDK was started with: add it there")]
    NotAllowed {
        /// The address as configured.
        device: String,
    },

    /// A PCI device that is bound to no driver, or to one that DPDK cannot use.
    #[error(
        "PCI device {device} is bound to {driver}, which DPDK cannot use: \
         `stoq-bind-nic bind {device}` as root gives it to DPDK"
    )]
    NotBound {
        /// The PCI address.
        device: String,
        /// The kernel driver it is bound to, or `no driver`.
        driver: String,
    },

    /// A file by which a PCI device is reached cannot be opened.
    #[error(
        "PCI device {device} is reached by {}, which cannot be opened ({error}): `chown {uid} {}` as root, or start as a user of the \
         group `stoq`, to which the package's udev rule gives it", node.display(), node.display()
    )]
    DeviceClosed {
        /// The PCI address.
        device: String,
        /// The file.
        node: PathBuf,
        /// The user of this process.
        uid: u32,
        /// The kernel's error.
        error: std::io::Error,
    },

    /// Another process has the PCI device.
    #[error("another process has PCI device {device}, by {}: stop it, or give another device", node.display())]
    DeviceHeld {
        /// The PCI address.
        device: String,
        /// The file that the other process has open.
        node: PathBuf,
    },

    /// A driver that gives a PCI device physical addresses, and this process is not root.
    #[error(
        "PCI device {device} is on {driver}, which serves root alone: run as root, or switch an IOMMU on and \
         `stoq-bind-nic bind {device}`"
    )]
    DeviceOfRoot {
        /// The PCI address.
        device: String,
        /// The kernel's driver.
        driver: String,
    },

    /// A driver that gives a PCI device physical addresses, and DPDK's memory is on normal pages.
    #[error(
        "PCI device {device} is on {driver}, which needs huge pages: `stoq-hugepages reserve {memory_mib}` as root, and let \
         `huge_pages` be \"required\""
    )]
    DeviceOnNormalPages {
        /// The PCI address.
        device: String,
        /// The kernel's driver.
        driver: String,
        /// Memory for DPDK, MiB.
        memory_mib: usize,
    },

    /// An IOMMU maps pinned memory, and this process may pin too little.
    #[error(
        "this process may pin {max_mib} MiB, and PCI device {device} needs the {memory_mib} MiB of `memory_mib`: set LimitMEMLOCK=infinity in \
         its unit, `prlimit --memlock=unlimited` before its command as root, or `--ulimit memlock=-1` for its container"
    )]
    PinnedMemory {
        /// The PCI address.
        device: String,
        /// What the process may pin, MiB.
        max_mib: usize,
        /// Memory for DPDK, MiB.
        memory_mib: usize,
    },

    /// The driver refused the device or its arguments.
    #[error(
        "cannot open device `{device}`: {reason}; check its arguments, and that its driver's plug-in (librte_net_*.so) is installed: \
         package {package}, with a number at its end (`apt-cache search librte-net`)"
    )]
    Probe {
        /// The device as configured.
        device: String,
        /// The package with its driver.
        package: String,
        /// The driver's error.
        reason: String,
    },

    /// The device was found, but it is no Ethernet port.
    #[error("device `{device}` has no Ethernet port: give another device")]
    NoPort {
        /// The device as configured.
        device: String,
    },

    /// The port is open already in this process.
    #[error("device `{device}` is open already: give each port a device of its own")]
    AlreadyOpen {
        /// The device's name.
        device: String,
    },

    /// More queue pairs than the device has, or none.
    #[error(
        "device `{device}` has 1 to {max} queue pairs, but {asked} are configured: set `queues` in that range, or leave it out"
    )]
    Queues {
        /// The device's name.
        device: String,
        /// Queue pairs configured.
        asked: u16,
        /// The device's maximum.
        max: u16,
    },

    /// An MTU larger than the device takes.
    #[error(
        "device `{device}` takes an MTU of {min} to {max} bytes, but {asked} is configured: set `mtu` in that range"
    )]
    Mtu {
        /// The device's name.
        device: String,
        /// The configured MTU, bytes.
        asked: u16,
        /// Smallest, bytes.
        min: u16,
        /// Largest, bytes.
        max: u32,
    },

    /// Another process serves this memif socket.
    #[error("another process listens on memif socket {}: stop it, or configure another socket", path.display())]
    SocketInUse {
        /// The socket's path.
        path: PathBuf,
    },

    /// The directory of a memif socket is missing.
    #[error("the directory {} of a memif socket is missing: `mkdir -p {}`", folder.display(), folder.display())]
    NoSocketFolder {
        /// The directory.
        folder: PathBuf,
    },

    /// A file that is no socket is at the memif socket's path.
    #[error("{} exists and cannot be replaced by a memif socket ({reason}): configure another socket", path.display())]
    SocketPath {
        /// The socket's path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// No process serves the memif socket that a client connects to.
    #[error("nothing listens on memif socket {}: start the side with `role=server` first", path.display())]
    NoServer {
        /// The socket's path.
        path: PathBuf,
    },

    /// memif's driver would unmap its rings under a burst, and the process would crash.
    #[error(
        "no memif port can be opened safely ({reason}): its driver must find `rte_intr_callback_register` in the executable, which must be linked \
         with DPDK's shared libraries, and the kernel must have membarrier(2), which a system call filter must allow"
    )]
    MemifUnsafe {
        /// The reason.
        reason: String,
    },

    /// DPDK's memory cannot hold a packet pool.
    #[error(
        "no memory for {mbufs} packet buffers of {room} bytes for queue {queue} of `{device}`: \
         raise `memory_mib`, or lower the queues, descriptors or MTU"
    )]
    NoMemory {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u16,
        /// Buffers needed.
        mbufs: u32,
        /// Bytes of room in each.
        room: u16,
    },

    /// The driver holds the buffers of a receive pool, and could receive no burst into the rest.
    #[error(
        "driver {driver} of device `{device}` leaves {left} buffers in the receive pool of queue {queue}, and {least} must be free: raise `mbufs`, \
         or lower `rx_descriptors`"
    )]
    Starved {
        /// The device's name.
        device: String,
        /// The driver's name.
        driver: String,
        /// The queue.
        queue: u16,
        /// Buffers left.
        left: u32,
        /// Buffers that a burst needs.
        least: u32,
    },

    /// The driver failed at a step of opening.
    #[error("device `{device}` did not {step}: {reason}")]
    Port {
        /// The device's name.
        device: String,
        /// The step that failed.
        step: &'static str,
        /// The driver's error.
        reason: String,
    },
}

/// The text of a negative `errno` from the shim.
pub(crate) fn reason(code: c_int) -> String {
    // SAFETY: the function gives a valid C string for any number; it is copied before this thread asks for another.
    let text = unsafe { CStr::from_ptr(dpdk_sys::stoq_strerror(code.abs())) };
    text.to_string_lossy().into_owned()
}
