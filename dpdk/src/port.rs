//! One Ethernet port: opened, started, and closed when its last queue is dropped.

use std::{
    collections::hash_map::Entry,
    ffi::{CStr, CString, c_int},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    device::{self, Device, Memif},
    eal::Eal,
    error::{DpdkError, reason},
    gate::{self, Gate, Way},
    pair::QueuePair,
    pool::{CACHE_LEN_MAX, Pool, ROOM_BYTES_MAX},
    queue::{BURST_LEN_MAX, PENDING_LEN_MAX, RxQueue, TxQueue},
    ring::RING_LEN,
    rss,
    settings::{Multicast, PortConfig, PortFault, PortInfo, PortStats, QueueMismatch},
    stash::STASH_LEN,
};

/// Ethernet header and one VLAN tag: a frame's bytes beyond its MTU.
const FRAME_OVERHEAD_BYTES: u16 = 14 + 4;
/// RFC 791: every link takes 68 bytes.
const MTU_MIN: u16 = 68;
const MTU_MAX: u16 = 63 * 1024 - FRAME_OVERHEAD_BYTES;
/// Buffers that net_af_xdp keeps in a queue's fill ring, and at most in its completion ring
/// (XSK_RING_PROD__DEFAULT_NUM_DESCS, XSK_RING_CONS__DEFAULT_NUM_DESCS).
const AF_XDP_RING_LEN: u32 = 2048;
/// The largest frame in a buffer of net_af_xdp, a page of 4096 bytes without DPDK's headers (64 + 128 bytes),
/// its headroom (128) and the kernel's own (XDP_PACKET_HEADROOM, 256).
const AF_XDP_FRAME_BYTES_MAX: u32 = 4096 - 64 - 128 - 128 - 256;
/// Rings of receive descriptors that net_vmxnet3 fills for a queue, each as long as `rx_descriptors`.
const VMXNET3_RINGS: u32 = 2;
/// A receive descriptor of net_e1000_igb_vf.
const IGB_DESCRIPTOR_BYTES: u32 = 16;
/// Buffers of a pool that one more worker may hold: in a ring, in a burst or a stash, and in its cache.
const TRAVELLING_LEN_MAX: u32 = RING_LEN as u32 + BURST_LEN_MAX as u32 + CACHE_LEN_MAX;
/// Room that every driver takes, bytes.
const ROOM_BYTES_MIN: u16 = 2048;
/// Between two attempts of a memif client to reach its server.
const RECONNECT_INTERVAL_MS: u64 = 1000;
/// errno(3): the driver has no such function.
const ENOTSUP: c_int = -95;

const _: () = assert!((MTU_MAX + FRAME_OVERHEAD_BYTES).next_multiple_of(1024) <= ROOM_BYTES_MAX);

/// A started port. It stops and closes when this handle and all of its queues have been dropped.
#[derive(Debug)]
pub struct Port {
    shared: Arc<OpenPort>,
}

impl Port {
    /// Opens a device, configures it and starts it. Does not wait for the link.
    ///
    /// Virtual devices are made here and removed when the port closes. For a memif server with a socket file, a stale
    /// file is replaced and the file is removed at the close.
    ///
    /// # Errors
    ///
    /// A [`DpdkError`] about the device; no device stays open then.
    pub fn open(eal: &Arc<Eal>, config: &PortConfig) -> Result<(Self, Vec<QueuePair>), DpdkError> {
        if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
            return Err(mtu_error(config, MTU_MAX.into()));
        }
        let frame_bytes = config.mtu + FRAME_OVERHEAD_BYTES;
        let device = Device::parse(&config.device, frame_bytes)?;
        let pending_max = config.tx_pending_len_max.clamp(1, PENDING_LEN_MAX);
        let mut port = OpenPort::attach(eal, device)?;
        port.start(config, frame_bytes, pending_max)?;

        let shared = Arc::new(port);
        let pairs = (0..shared.info.queues)
            .map(|queue| QueuePair {
                rx: RxQueue::new(shared.clone(), queue),
                tx: TxQueue::new(shared.clone(), queue, frame_bytes.into(), pending_max),
                shared: shared.clone(),
            })
            .collect();
        Ok((Self { shared }, pairs))
    }

    /// The port's device and settings.
    pub fn info(&self) -> &PortInfo {
        &self.shared.info
    }

    /// Whether the link is up, without waiting.
    pub fn link_up(&self) -> bool {
        self.shared.link_up()
    }

    /// Has the device receive frames to these multicast groups, in the place of those that it was given before. A device that takes no list
    /// is asked for all multicast frames.
    pub fn hear(&self, groups: &[[u8; 6]]) -> Multicast {
        let _one_at_a_time = self.shared.status.lock();
        // SAFETY: the port is started, and the addresses are as many as their number says.
        let code =
            unsafe { dpdk_sys::stoq_port_hear(self.shared.id, groups.as_ptr().cast(), groups.len() as u32) };
        match code {
            0 => Multicast::Groups,
            1 => Multicast::All,
            ENOTSUP => Multicast::Unfiltered,
            refused => Multicast::Refused(reason(refused)),
        }
    }

    /// What happened to the port from outside, if anything did: it then carries nothing until it is opened again.
    pub fn fault(&self) -> Option<PortFault> {
        let _one_at_a_time = self.shared.status.lock();
        // SAFETY: the port is open and started, and the function reads its registers and an atomic.
        match unsafe { dpdk_sys::stoq_port_fault(self.shared.id) } {
            dpdk_sys::FAULT_RESET => Some(PortFault::Reset),
            dpdk_sys::FAULT_REMOVED => Some(PortFault::Removed),
            _ => None,
        }
    }

    /// How a memif and its other side differ in their queues, if they do. The call may wait for a callback of the driver.
    pub fn queue_mismatch(&self) -> Option<QueueMismatch> {
        self.shared.device.memif()?;
        gate::mismatch(self.shared.id, self.shared.info.queues, self.link_up())
    }

    /// The port's own counters; zeros if the driver has none.
    pub fn stats(&self) -> PortStats {
        let mut s = dpdk_sys::PortStats::default();
        let _one_at_a_time = self.shared.status.lock();
        // SAFETY: the port is open for as long as `shared` lives, and `s` is valid for the result.
        unsafe { dpdk_sys::stoq_port_stats(self.shared.id, &mut s) };
        PortStats {
            ipackets: s.ipackets,
            opackets: s.opackets,
            ibytes: s.ibytes,
            obytes: s.obytes,
            imissed: s.imissed,
            ierrors: s.ierrors,
            oerrors: s.oerrors,
            rx_nombuf: s.rx_nombuf,
        }
    }
}

/// The shared part of a port and its queues: the device, its buffers, and the duty to close it.
#[derive(Debug)]
pub(crate) struct OpenPort {
    pub(crate) id: u16,
    device: Device,
    /// Whether this process made the device, or woke it, and must remove it.
    hotplugged: bool,
    /// Whether the events of the port are noted.
    watched: bool,
    served_socket: Option<PathBuf>,
    pub(crate) info: PortInfo,
    /// Of queue `q`: the receive pool at `2 q`, the transmit pool at `2 q + 1`.
    pools: Vec<Pool>,
    /// Drivers do not expect two threads to read counters or the link at once. The time of a memif client's latest attempt to connect
    /// again.
    status: Mutex<Option<Instant>>,
    link: AtomicBool,
    eal: Arc<Eal>,
}

impl OpenPort {
    /// Finds the device's port, after making the device if need be.
    fn attach(eal: &Arc<Eal>, device: Device) -> Result<Self, DpdkError> {
        let mut control = eal.control();
        let name = device.name().to_owned();
        if control.open.contains(&name) {
            return Err(DpdkError::AlreadyOpen { device: name });
        }
        if device.memif().is_some() {
            // SAFETY: the function looks up a symbol and makes a system call.
            let code = unsafe { dpdk_sys::stoq_memif_ready() };
            if code < 0 {
                return Err(DpdkError::MemifUnsafe { reason: reason(code) });
            }
        }
        let mut served_socket = None;
        if let Some((memif, path)) = device.memif().and_then(|memif| Some((memif, memif.socket.clone()?))) {
            if memif.server {
                // Ports of one process may share a listener.
                if !control.served_sockets.contains_key(&path) {
                    device::clear_stale_socket(&path)?;
                }
                served_socket = Some(path);
            } else {
                device::require_listener(&path)?;
            }
        }
        let (id, hotplugged) = match device::find(&name) {
            Some(id) => (id, false),
            None => (device::hotplug(eal, &device)?, true),
        };
        control.open.insert(name);
        if let Some(path) = &served_socket {
            *control.served_sockets.entry(path.clone()).or_default() += 1;
        }
        Ok(Self {
            id,
            device,
            hotplugged,
            watched: false,
            served_socket,
            info: PortInfo::default(),
            pools: Vec::new(),
            status: Mutex::default(),
            link: AtomicBool::new(false),
            eal: eal.clone(),
        })
    }

    /// Configures the port and its queues, and starts it.
    fn start(&mut self, config: &PortConfig, frame_bytes: u16, pending_max: usize) -> Result<(), DpdkError> {
        let eal = self.eal.clone();
        let _one_at_a_time = eal.control();
        let mut caps = dpdk_sys::PortCaps::default();
        // SAFETY: `caps` is a valid place for the result, and the port number is of a port that is attached.
        let code = unsafe { dpdk_sys::stoq_port_caps(self.id, &mut caps) };
        self.check(code, "report its capabilities")?;
        let driver = CStr::from_bytes_until_nul(&caps.driver).unwrap_or_default().to_string_lossy();
        let queues = self.queues(config, &driver, caps.queues_max)?;
        if self.device.is_af_xdp() {
            caps.mtu_max = caps.mtu_max.min(AF_XDP_FRAME_BYTES_MAX - u32::from(FRAME_OVERHEAD_BYTES));
        }
        // memif claims 1518-byte frames whatever its buffers are: its buffers decide.
        let memif_bsize = self.device.memif().map(|memif| memif.bsize);
        if memif_bsize.is_none() && u32::from(config.mtu) > caps.mtu_max {
            return Err(mtu_error(config, caps.mtu_max));
        }
        let mut setup = dpdk_sys::PortSetup {
            port: self.id,
            queues,
            mtu: u32::from(config.mtu).min(caps.mtu_max) as u16,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            want_checksum: config.checksum.into(),
            want_rss: config.rss_key.is_some().into(),
            ..Default::default()
        };
        let mut rss = rss::asked(config.rss_key);
        // SAFETY: both structs are valid for reads and writes; the port is attached, stopped and ours alone.
        let code = unsafe { dpdk_sys::stoq_port_configure(&mut setup, &mut rss) };
        self.check(code, "take its configuration")?;

        // memif copies whole frames only between buffers of exactly its own size. Drivers of some NICs round
        // buffers down to 1 KiB.
        let room = memif_bsize.map_or_else(
            || frame_bytes.next_multiple_of(1024).max(ROOM_BYTES_MIN),
            |bsize| bsize.max(frame_bytes).min(ROOM_BYTES_MAX),
        );
        let mbufs = self.buffers(config, &driver, &setup, pending_max);
        for queue in 0..queues {
            self.set_up_queue(&setup, queue, caps.numa_node, room, mbufs)?;
        }
        self.info = PortInfo {
            device: self.device.name().into(),
            driver: driver.into(),
            mac: caps.mac,
            mtu: config.mtu,
            numa_node: u32::try_from(caps.numa_node).ok(),
            queues,
            rx_descriptors: setup.rx_descriptors,
            tx_descriptors: setup.tx_descriptors,
            rx_checksum: setup.rx_checksum != 0,
            tx_checksum: setup.tx_checksum != 0,
            rss: None,
        };
        self.watch()?;
        // SAFETY: the port is configured and every queue is set up.
        let code = unsafe { dpdk_sys::stoq_port_start(self.id, config.promiscuous) };
        self.check(code, "start")?;
        if self.info.driver == "net_e1000_igb_vf" {
            let ring_bytes = u32::from(self.info.rx_descriptors) * IGB_DESCRIPTOR_BYTES;
            // SAFETY: the port is started, and no other thread knows it.
            unsafe { dpdk_sys::stoq_port_watch_rings(self.id, ring_bytes) };
        }
        self.info.rss = (setup.rss != 0).then(|| rss::set(self.id, queues, &mut rss));
        self.ensure_room_to_receive()
    }

    /// Notes from now on what happens to the port from outside.
    fn watch(&mut self) -> Result<(), DpdkError> {
        let name = device::c_string(self.device.name())?;
        // SAFETY: the port is attached, and its device's name is a C string, which DPDK copies.
        let code = unsafe { dpdk_sys::stoq_port_watch(self.id, name.as_ptr()) };
        self.check(code, "let itself be watched")?;
        self.watched = true;
        Ok(())
    }

    /// The number of queue pairs to configure, where the driver claims `max`.
    fn queues(&self, config: &PortConfig, driver: &str, max: u16) -> Result<u16, DpdkError> {
        // net_e1000_em claims two of each device, and fills the first; an 82540 has no second, and what is sent by it vanishes.
        let max = if driver == "net_e1000_em" { 1 } else { max };
        let queues = if config.fewer_queues { config.queues.min(max) } else { config.queues };
        if (1..=max).contains(&queues) {
            return Ok(queues);
        }
        Err(DpdkError::Queues { device: self.device.name().into(), asked: config.queues, max })
    }

    /// Buffers of each queue: of its receive pool, and of its transmit pool.
    fn buffers(
        &self,
        config: &PortConfig,
        driver: &str,
        setup: &dpdk_sys::PortSetup,
        pending_max: usize,
    ) -> (u32, u32) {
        // Each worker may keep a cache of any pool for itself.
        let is_shared = config.workers > setup.queues || (config.workers > 1 && setup.rss == 0);
        let travelling = if is_shared { u32::from(config.workers) * TRAVELLING_LEN_MAX } else { 0 };
        let rx_least = self.buffers_held(driver, setup) + 2 * BURST_LEN_MAX as u32 + CACHE_LEN_MAX;
        let rx = config.rx_mbufs.unwrap_or(0).max(rx_least);
        let tx = u32::from(setup.tx_descriptors) + pending_max as u32 + 2 * STASH_LEN as u32 + CACHE_LEN_MAX;
        (rx + travelling, tx + travelling)
    }

    /// Buffers of a receive pool that the driver holds when nothing arrives.
    fn buffers_held(&self, driver: &str, setup: &dpdk_sys::PortSetup) -> u32 {
        let descriptors = u32::from(setup.rx_descriptors);
        if self.device.is_af_xdp() {
            // It also sends from the receive buffers, into which it copies. They are in its fill ring, in its transmit
            // ring, which is as long as the receive ring, and in its completion ring, and must not run out for receiving.
            2 * descriptors + 2 * AF_XDP_RING_LEN
        } else if driver == "net_vmxnet3" {
            VMXNET3_RINGS * descriptors
        } else {
            descriptors
        }
    }

    /// A driver that took more buffers than expected would receive nothing, and say nothing.
    fn ensure_room_to_receive(&self) -> Result<(), DpdkError> {
        (0..self.info.queues)
            .try_for_each(|queue| room_to_receive(&self.info, queue, self.rx_pool(queue).available()))
    }

    fn check(&self, code: c_int, step: &'static str) -> Result<(), DpdkError> {
        if code >= 0 {
            return Ok(());
        }
        Err(DpdkError::Port { device: self.device.name().into(), step, reason: reason(code) })
    }

    fn set_up_queue(
        &mut self,
        setup: &dpdk_sys::PortSetup,
        queue: u16,
        numa_node: c_int,
        room: u16,
        (rx_mbufs, tx_mbufs): (u32, u32),
    ) -> Result<(), DpdkError> {
        let af_xdp = self.device.is_af_xdp();
        for (kind, mbufs, paged) in [("rx", rx_mbufs, af_xdp), ("tx", tx_mbufs, false)] {
            let name = format!("stoq_{}_{queue}_{kind}", self.id);
            let pool = if paged {
                Pool::create_paged(&name, mbufs, numa_node)
            } else {
                Pool::create(&name, mbufs, room, numa_node)
            };
            let device = self.device.name().into();
            self.pools.push(pool.ok_or(DpdkError::NoMemory { device, queue, mbufs, room })?);
        }
        // SAFETY: the port is configured with more than `queue` queues; the pool outlives the port's close, because
        // `Drop` closes first and frees the pools after.
        let code =
            unsafe { dpdk_sys::stoq_queue_setup(setup, queue, numa_node, self.rx_pool(queue).as_ptr()) };
        self.check(code, "set up a queue")
    }

    pub(crate) fn rx_pool(&self, queue: u16) -> &Pool {
        &self.pools[2 * usize::from(queue)]
    }

    pub(crate) fn tx_pool(&self, queue: u16) -> &Pool {
        &self.pools[2 * usize::from(queue) + 1]
    }

    /// A gate for a queue, where the driver needs one.
    pub(crate) fn gate(&self, queue: u16, way: Way) -> Gate {
        if self.device.memif().is_some() { Gate::new(self.id, queue, way) } else { Gate::none() }
    }

    pub(crate) fn tx_checksum(&self) -> bool {
        self.info.tx_checksum
    }

    /// Never waits: while another thread calls the driver, this gives the last answer.
    pub(crate) fn link_up(&self) -> bool {
        if let Ok(mut reconnected) = self.status.try_lock() {
            // SAFETY: the port is open for as long as this lives.
            let up = unsafe { dpdk_sys::stoq_port_link_up(self.id) };
            self.link.store(up, Ordering::Relaxed);
            if !up && let Some(memif) = self.device.memif() {
                self.reconnect(memif, &mut reconnected);
            }
        }
        self.link.load(Ordering::Relaxed)
    }

    /// Has the driver connect a client again whose server ended, once a server listens; the driver itself connects once, at the start.
    #[cold]
    fn reconnect(&self, memif: &Memif, last: &mut Option<Instant>) {
        // SAFETY: the function reads an atomic of a port that is open.
        if memif.server || unsafe { dpdk_sys::stoq_memif_has_server(self.id) } {
            return;
        }
        let now = Instant::now();
        let interval = Duration::from_millis(RECONNECT_INTERVAL_MS);
        if last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            return;
        }
        *last = Some(now);
        if memif.socket.as_ref().is_none_or(|path| device::require_listener(path).is_ok()) {
            // SAFETY: the port is started, and its close ends this first.
            unsafe { dpdk_sys::stoq_memif_reconnect(self.id) };
        }
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        let eal = self.eal.clone();
        let mut control = eal.control();
        let is_memif = self.device.memif().is_some();
        if self.watched
            && let Ok(name) = device::c_string(self.device.name())
        {
            // SAFETY: the port is watched, and the name is a C string.
            unsafe { dpdk_sys::stoq_port_unwatch(self.id, name.as_ptr()) };
        }
        // SAFETY: the queues hold an Arc of this, so none is polled any more and all their buffers are back. Stopping
        // a port that never started and closing one that was never configured are no-ops of the driver layer.
        unsafe {
            if is_memif {
                dpdk_sys::stoq_memif_forget(self.id);
            }
            dpdk_sys::stoq_port_close(self.id, is_memif);
        }
        if self.hotplugged
            && let (Ok(bus), Ok(name)) = (CString::new(self.device.bus()), CString::new(self.device.name()))
        {
            // SAFETY: both are C strings, and the device's only port has just been closed.
            unsafe { dpdk_sys::stoq_device_remove(bus.as_ptr(), name.as_ptr()) };
        }
        // Under the lock: the next port may get this number, and with it these pools' names.
        self.pools.clear();
        control.open.remove(self.device.name());
        if let Some(path) = self.served_socket.take()
            && let Entry::Occupied(mut served) = control.served_sockets.entry(path)
        {
            *served.get_mut() -= 1;
            if *served.get() == 0 {
                // The driver removes its socket, unless it failed to open half-way, or a client of this process still
                // shares it.
                let _ = device::clear_stale_socket(&served.remove_entry().0);
            }
        }
    }
}

fn mtu_error(config: &PortConfig, max: u32) -> DpdkError {
    DpdkError::Mtu { device: config.device.clone(), asked: config.mtu, min: MTU_MIN, max }
}

/// Refuses a queue whose receive pool has no room for a burst after the driver filled its rings.
fn room_to_receive(port: &PortInfo, queue: u16, left: u32) -> Result<(), DpdkError> {
    let least = BURST_LEN_MAX as u32;
    if left >= least {
        return Ok(());
    }
    let (device, driver) = (port.device.clone(), port.driver.clone());
    Err(DpdkError::Starved { device, driver, queue, left, least })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_leaves_no_burst_of_buffers_is_refused_by_name() {
        let port =
            PortInfo { device: "0000:00:08.0".into(), driver: "net_vmxnet3".into(), ..PortInfo::default() };
        room_to_receive(&port, 0, BURST_LEN_MAX as u32).unwrap();
        let error = room_to_receive(&port, 1, BURST_LEN_MAX as u32 - 1).unwrap_err().to_string();
        let expected = "driver net_vmxnet3 of device `0000:00:08.0` leaves 63 buffers in the receive pool of queue 1, and 64 must be free";
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("raise `mbufs`"), "{error}");
    }
}
