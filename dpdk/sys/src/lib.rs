//! The externs of `shim.c`, which wraps DPDK's inline functions and hides its structs, and of the C files beside it.
//!
//! Everything here is raw: use the crate `dpdk`. Functions that return `int` give zero or more for success
//! and a negative `errno` otherwise, unless they say something else.

use std::ffi::{c_char, c_int, c_void};

/// The device checked the frame's IP and UDP checksums, and they hold.
pub const RX_CHECKSUM_GOOD: u32 = 1;
/// The device found a checksum wrong.
pub const RX_CHECKSUM_BAD: u32 = 2;
/// The frame lies in several buffers: `data` covers only the first, `len` is of the whole.
pub const RX_CHAINED: u32 = 4;

/// Send the frame as it is.
pub const TX_PLAIN: u8 = 0;
/// The device fills in the IPv4 header checksum and the UDP checksum.
pub const TX_UDP_V4: u8 = 1;
/// The device fills in the UDP checksum over IPv6.
pub const TX_UDP_V6: u8 = 2;

/// The device carries nothing until it is reset.
pub const FAULT_RESET: c_int = 1;
/// The device is gone.
pub const FAULT_REMOVED: c_int = 2;

/// One frame of a received burst.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RxFrame {
    /// The frame's first byte; valid until its mbuf is freed.
    pub data: *const u8,
    /// Bytes in the frame.
    pub len: u32,
    /// `RX_*` flags.
    pub flags: u32,
}

/// One frame to transmit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TxFrame {
    /// Bytes in the frame.
    pub len: u16,
    /// One of the `TX_*` kinds.
    pub kind: u8,
    /// Bytes before the IP header; read for kinds other than [`TX_PLAIN`].
    pub l2_len: u8,
}

/// A port's capabilities, before it is configured.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PortCaps {
    /// The driver's name, ended by a zero.
    pub driver: [u8; 32],
    /// Station address.
    pub mac: [u8; 6],
    /// Most queue pairs.
    pub queues_max: u16,
    /// The driver's largest MTU.
    pub mtu_max: u32,
    /// NUMA node, or -1.
    pub numa_node: i32,
}

/// The requested configuration of a port; `port_configure` writes back the granted descriptors and the last
/// three fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PortSetup {
    /// DPDK's port number.
    pub port: u16,
    /// Queue pairs.
    pub queues: u16,
    /// MTU to configure.
    pub mtu: u16,
    /// Descriptors a receive queue.
    pub rx_descriptors: u16,
    /// Descriptors a transmit queue.
    pub tx_descriptors: u16,
    /// Enable checksum offloads where there are any.
    pub want_checksum: u8,
    /// Enable RSS where there is any.
    pub want_rss: u8,
    /// Granted: the device checks IPv4 and UDP checksums.
    pub rx_checksum: u8,
    /// Granted: the device fills in IPv4 and UDP checksums.
    pub tx_checksum: u8,
    /// Granted: the device spreads flows over the queues.
    pub rss: u8,
    /// Zero.
    pub reserved: u8,
}

/// Bytes of an RSS key.
pub const RSS_KEY_BYTES: usize = 52;

/// What is asked of receive-side scaling, and what the device uses.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rss {
    /// The key to use.
    pub key: [u8; RSS_KEY_BYTES],
    /// Bytes of it that the device takes; 0 where it takes none.
    pub key_len: u8,
    /// Granted: flows are told apart by UDP ports, not by addresses alone.
    pub ports: u8,
    /// Granted: the device hashes by the key.
    pub own_key: u8,
    /// Zero.
    pub reserved: u8,
    /// Entries of the device's table, if entry `i` is queue `i` modulo the number of queues; 0 otherwise.
    pub table_len: u16,
}

/// A port's own counters, named as DPDK names them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct PortStats {
    pub ipackets: u64,
    pub opackets: u64,
    pub ibytes: u64,
    pub obytes: u64,
    pub imissed: u64,
    pub ierrors: u64,
    pub oerrors: u64,
    pub rx_nombuf: u64,
}

// The other side of each of these is a _Static_assert in shim.c.
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RxFrame>() == 16 && offset_of!(RxFrame, flags) == 12);
    assert!(size_of::<TxFrame>() == 4 && offset_of!(TxFrame, l2_len) == 3);
    assert!(size_of::<PortCaps>() == 48 && offset_of!(PortCaps, numa_node) == 44);
    assert!(size_of::<PortSetup>() == 16 && offset_of!(PortSetup, rss) == 14);
    assert!(size_of::<PortStats>() == 64);
    assert!(size_of::<Rss>() == 58 && offset_of!(Rss, table_len) == 56);
};

unsafe extern "C" {
    /// `rte_eal_init`, with logs to stderr that never wait for its reader, and the caller's CPU affinity kept.
    pub fn stoq_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    /// Writes of DPDK's log that were lost, because standard error would not take them at once. At any time, on any thread.
    pub fn stoq_log_writes_lost() -> u64;
    /// `rte_eal_cleanup`.
    pub fn stoq_eal_cleanup() -> c_int;
    /// The folder that EAL made for this process, as a C string that EAL owns.
    pub fn stoq_eal_runtime_dir() -> *const c_char;
    /// The text of an `errno`, DPDK's own included. Valid on this thread until the next call.
    pub fn stoq_strerror(error: c_int) -> *const c_char;
    /// 1: registered by this call; 0: DPDK knew this thread already.
    pub fn stoq_thread_register() -> c_int;
    /// `rte_thread_unregister`.
    pub fn stoq_thread_unregister();
    /// Cycles of the time-stamp counter a second.
    pub fn stoq_tsc_hz() -> u64;
    /// `rte_eal_hotplug_add`.
    pub fn stoq_device_add(bus: *const c_char, name: *const c_char, args: *const c_char) -> c_int;
    /// `rte_eal_hotplug_remove`.
    pub fn stoq_device_remove(bus: *const c_char, name: *const c_char) -> c_int;
    /// `rte_eth_dev_get_port_by_name`.
    pub fn stoq_port_find(name: *const c_char, port: *mut u16) -> c_int;
    /// Reads a port's capabilities.
    pub fn stoq_port_caps(port: u16, caps: *mut PortCaps) -> c_int;
    /// Configures a stopped port and writes the granted settings, and the length that the device's RSS key has.
    pub fn stoq_port_configure(setup: *mut PortSetup, rss: *mut Rss) -> c_int;
    /// Sets the RSS table of a started port that was configured with RSS, and writes what the device uses.
    pub fn stoq_port_rss(port: u16, queues: u16, rss: *mut Rss);
    /// Sets up one queue pair of a configured port.
    pub fn stoq_queue_setup(
        setup: *const PortSetup,
        queue: u16,
        numa_node: c_int,
        rx_pool: *mut c_void,
    ) -> c_int;
    /// Starts a port whose queues are all set up.
    pub fn stoq_port_start(port: u16, promiscuous: bool) -> c_int;
    /// Has a started port receive `len` multicast groups, the addresses of 6 bytes at `groups`. 0: the device takes the groups. 1: it takes
    /// all multicast frames instead. `-ENOTSUP`: it has no filter.
    pub fn stoq_port_hear(port: u16, groups: *const u8, len: u32) -> c_int;
    /// Notes from now on what happens to the port and its device from outside.
    pub fn stoq_port_watch(port: u16, device: *const c_char) -> c_int;
    /// Ends [`stoq_port_watch`], before the port closes.
    pub fn stoq_port_unwatch(port: u16, device: *const c_char);
    /// Has [`stoq_port_fault`] look for rings of this length in the registers of a started port.
    pub fn stoq_port_watch_rings(port: u16, ring_bytes: u32);
    /// The first fault of a watched port: 0 or one of `FAULT_*`.
    pub fn stoq_port_fault(port: u16) -> c_int;
    /// Stops a port and closes it; `by_interrupts` on EAL's interrupt thread, as memif needs it.
    pub fn stoq_port_close(port: u16, by_interrupts: bool);
    /// The link as the driver knows it now; does not wait.
    pub fn stoq_port_link_up(port: u16) -> bool;
    /// `rte_eth_stats_get`.
    pub fn stoq_port_stats(port: u16, stats: *mut PortStats) -> c_int;
    /// A pool of packet buffers, or null.
    pub fn stoq_pool_create(
        name: *const c_char,
        mbufs: u32,
        cache: u32,
        room: u16,
        numa_node: c_int,
    ) -> *mut c_void;
    /// A pool whose buffers are a memory page each, all in one piece of memory, or null. net_af_xdp needs one.
    pub fn stoq_pool_create_paged(
        name: *const c_char,
        mbufs: u32,
        cache: u32,
        numa_node: c_int,
    ) -> *mut c_void;
    /// Frees an unused pool.
    pub fn stoq_pool_free(pool: *mut c_void);
    /// Buffers free in a pool, those in per-thread caches included.
    pub fn stoq_pool_available(pool: *mut c_void) -> u32;
    /// Whether memif's driver is kept from unmapping what a burst uses: 0, or `-ENOTSUP` where it would not call `memif.c`, or the kernel's
    /// `errno` where it has no membarrier(2). To be asked before a memif port is made.
    pub fn stoq_memif_ready() -> c_int;
    /// Whether a memif client's control channel is open.
    pub fn stoq_memif_has_server(port: u16) -> bool;
    /// Has EAL's interrupt thread connect a memif client once more. Does not wait.
    pub fn stoq_memif_reconnect(port: u16) -> c_int;
    /// Ends [`stoq_memif_reconnect`], before the port closes.
    pub fn stoq_memif_forget(port: u16);
    /// How many of the first `queues` queues of a memif port have rings of the other side, both to receive and to send by.
    pub fn stoq_memif_rings(port: u16, queues: u16) -> u16;
    /// How often in a row the server of a client's port has ended the connection before the link was up.
    pub fn stoq_memif_refusals(port: u16) -> u32;
    /// The gate of one memif queue, or null without memory.
    pub fn stoq_gate_new(port: u16, queue: u16, sends: bool) -> *mut c_void;
    /// Frees the gate of a queue that is polled no more.
    pub fn stoq_gate_free(gate: *mut c_void);
    /// Receives up to `max` frames into two arrays of that length; the caller then owns the mbufs. `gate` is that of a memif queue, or
    /// null.
    pub fn stoq_rx_burst(
        port: u16,
        queue: u16,
        mbufs: *mut *mut c_void,
        frames: *mut RxFrame,
        max: u16,
        gate: *mut c_void,
    ) -> u16;
    /// Copies a chained frame into one piece of at most `capacity` bytes; returns the bytes written.
    pub fn stoq_rx_copy(mbuf: *const c_void, to: *mut u8, capacity: u32) -> u32;
    /// Frees `len` mbufs that the caller owns.
    pub fn stoq_free(mbufs: *mut *mut c_void, len: u32);
    /// Allocates `len` mbufs or none, and writes where each one's data begins.
    pub fn stoq_tx_alloc(pool: *mut c_void, mbufs: *mut *mut c_void, data: *mut *mut u8, len: u32) -> c_int;
    /// Sends from the front of two arrays of length `len`; the device owns the frames that it took. See
    /// `shim.c` for `ready`; `gate` is that of a memif queue, or null.
    pub fn stoq_tx_burst(
        port: u16,
        queue: u16,
        mbufs: *mut *mut c_void,
        frames: *const TxFrame,
        len: u16,
        ready: *mut u16,
        gate: *mut c_void,
    ) -> u16;
}
