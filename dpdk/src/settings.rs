//! What is asked of a port, what it grants, and what it counts.

pub use dpdk_sys::RSS_KEY_BYTES;

/// The configuration of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// A PCI address (`0000:00:04.0`), or a virtual device with its arguments
    /// (`net_memif0,role=server,id=0,socket=/run/x.sock,socket-abstract=no`).
    ///
    /// Both ends of a memif must have the same `bsize`, hence the same MTU unless both give one, and the peer is
    /// trusted: the driver believes the lengths that the peer writes into shared memory.
    pub device: String,
    /// Queue pairs.
    pub queues: u16,
    /// Take as many as the device has where these are fewer.
    pub fewer_queues: bool,
    /// Workers that use the queue pairs. Where they outnumber them, or the device has no RSS, there are buffers for frames on their way
    /// between workers: [`crate::RING_LEN`] in each direction for each worker.
    pub workers: u16,
    /// Receive descriptors of a queue; adjusted to the device's limits.
    pub rx_descriptors: u16,
    /// Transmit descriptors of a queue; adjusted to the device's limits.
    pub tx_descriptors: u16,
    /// Largest layer-3 packet, bytes.
    pub mtu: u16,
    /// Receive buffers of a queue; `None`, or too few, gives enough for the descriptors and one burst.
    pub rx_mbufs: Option<u32>,
    /// Frames of a queue that may wait for the device.
    pub tx_pending_len_max: usize,
    /// Enable IPv4 and UDP checksum offloads if the device has them.
    pub checksum: bool,
    /// The key of RSS over UDP flows, if the device has RSS and there are several queues. `None`: no RSS.
    pub rss_key: Option<[u8; RSS_KEY_BYTES]>,
    /// Take frames for every station.
    pub promiscuous: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            device: String::new(),
            queues: 1,
            fewer_queues: false,
            workers: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            rx_mbufs: None,
            tx_pending_len_max: 1024,
            checksum: true,
            rss_key: None,
            promiscuous: false,
        }
    }
}

/// A port's device and its granted settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortInfo {
    /// The PCI address, or the virtual device's name.
    pub device: String,
    /// The driver's own name, such as `net_memif`.
    pub driver: String,
    /// Station address.
    pub mac: [u8; 6],
    /// Largest layer-3 packet, bytes.
    pub mtu: u16,
    /// The NUMA node that the device is attached to, if there is one.
    pub numa_node: Option<u32>,
    /// Queue pairs.
    pub queues: u16,
    /// Receive descriptors of a queue, as adjusted.
    pub rx_descriptors: u16,
    /// Transmit descriptors of a queue, as adjusted.
    pub tx_descriptors: u16,
    /// Whether the device checks IPv4 header and UDP checksums.
    pub rx_checksum: bool,
    /// Whether the device fills in IPv4 header and UDP checksums.
    pub tx_checksum: bool,
    /// How the device spreads flows over its queues. Without RSS, and with several queues, the peer chooses the queue.
    pub rss: Option<RssInfo>,
}

/// Receive-side scaling as the device does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssInfo {
    /// Whether it tells flows apart by UDP ports, not by addresses alone.
    pub ports: bool,
    /// Whether it hashes by the key that it was given.
    pub own_key: bool,
    /// Entries of its table, if entry `i` is queue `i` modulo the number of queues.
    pub table_len: Option<u16>,
}

/// The multicast frames that a device lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// Those of the groups that it was given.
    Groups,
    /// All of them.
    All,
    /// The driver knows no filter.
    Unfiltered,
    /// The device refuses them, for this reason.
    Refused(String),
}

/// What happened to a port from outside. It carries nothing until it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortFault {
    /// Its device was reset, as a virtual function is together with its physical function.
    Reset,
    /// Its device is gone.
    Removed,
}

/// How a memif and its other side differ in their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueMismatch {
    /// The other side has fewer. The queues that it lacks receive nothing, and send by the first one.
    Fewer {
        /// Queues that both sides have.
        shared: u16,
        /// Queues of this side.
        own: u16,
    },
    /// The server ends each connection of this client before the link is up, as one does that has fewer queues.
    Refused {
        /// Queues of this side.
        own: u16,
    },
}

/// A port's own counters, of all queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub ipackets: u64,
    /// Frames sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Frames that the device dropped because no descriptor was free.
    pub imissed: u64,
    /// Frames received in error.
    pub ierrors: u64,
    /// Frames that failed to be sent.
    pub oerrors: u64,
    /// The number of times that no buffer was free to receive into.
    pub rx_nombuf: u64,
}
