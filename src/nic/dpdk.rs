//! A queue pair of a DPDK port. The only file that knows the `dpdk` crate's data path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk::{Checksum, QueuePair, RxFrame, RxInlet, RxRing, TxFeeder, TxOffload, TxRing};

use super::interface::Interface;
use super::spread::{Feeder, Inlet, SharedBurst, SharedNic};
use super::stall::Stall;
use super::{Nic, NicInfo, RxChecksum, TxKind};
use crate::limits::{RX_BURST_LEN, SPREAD_RING_LEN};

/// How often the driver is asked for the link: the answer may cost a register read across the bus.
const LINK_POLL: Duration = Duration::from_millis(100);

const _: () = assert!(RX_BURST_LEN <= dpdk::BURST_LEN_MAX && SPREAD_RING_LEN == dpdk::RING_LEN);

/// One worker's queue pair.
#[derive(Debug)]
pub struct DpdkNic {
    pair: QueuePair,
    info: NicInfo,
    stall: Stall,
    drops: u64,
    link_up: bool,
    link_polled: Option<Instant>,
    /// The kernel's interface under the port.
    interface: Option<Arc<Interface>>,
}

impl DpdkNic {
    /// Takes a queue pair of an open port.
    pub fn new(pair: QueuePair) -> Self {
        let port = pair.port_info();
        let info = NicInfo {
            device: port.device.clone(),
            driver: port.driver.clone(),
            mtu: port.mtu,
            mac: port.mac,
            tx_checksum: port.tx_checksum,
            rx_checksum: port.rx_checksum,
        };
        let link_up = pair.link_up();
        Self { pair, info, stall: Stall::default(), drops: 0, link_up, link_polled: None, interface: None }
    }

    /// Takes the link to be up only while the kernel's interface under the port is up.
    pub fn with_interface(mut self, interface: Option<Arc<Interface>>) -> Self {
        self.interface = interface;
        self
    }

    fn poll_link(&mut self, now: Instant) {
        if self.link_polled.is_none_or(|last| now.saturating_duration_since(last) >= LINK_POLL) {
            self.link_up = self.pair.link_up();
            self.link_polled = Some(now);
        }
    }
}

impl Nic for DpdkNic {
    #[inline]
    fn rx_burst(&mut self, now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        self.poll_link(now);
        let batch = self.pair.rx.rx_burst(RX_BURST_LEN);
        let len = batch.len();
        batch.for_each(|received| frame(received.data, verdict(&received)));
        len
    }

    #[inline]
    fn tx_room(&self) -> usize {
        self.pair.tx.room()
    }

    #[inline]
    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        self.pair.tx.frame(offload(kind), len, fill)
    }

    #[inline]
    fn tx_flush(&mut self, now: Instant) -> usize {
        let before = self.pair.tx.pending();
        if before == 0 {
            return 0;
        }
        let mut left = self.pair.tx.flush();
        self.drops += self.pair.tx.take_refused();
        if self.stall.is_over_bound(left < before, now) {
            self.drops += self.pair.tx.drop_pending() as u64;
            left = 0;
        }
        left
    }

    fn take_drops(&mut self) -> u64 {
        std::mem::take(&mut self.drops)
    }

    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        self.link_up && self.interface.as_ref().is_none_or(|interface| interface.is_up())
    }
}

#[inline]
fn verdict(received: &RxFrame<'_>) -> RxChecksum {
    match received.checksum {
        Checksum::Unknown => RxChecksum::Unknown,
        Checksum::Good => RxChecksum::Good,
        Checksum::Bad => RxChecksum::Bad,
    }
}

#[inline]
fn offload(kind: TxKind) -> TxOffload {
    match kind {
        TxKind::Plain => TxOffload::None,
        TxKind::UdpV4 { l2_len } => TxOffload::UdpV4 { l2_len },
        TxKind::UdpV6 { l2_len } => TxOffload::UdpV6 { l2_len },
    }
}

impl SharedNic for DpdkNic {
    type RxRing = RxRing;
    type Inlet = RxInlet;
    type TxRing = TxRing;
    type Feeder = TxFeeder;

    fn rx_ring(&self) -> (Arc<RxRing>, RxInlet) {
        self.pair.rx_ring()
    }

    fn tx_ring(&self) -> (Arc<TxRing>, TxFeeder) {
        self.pair.tx_ring()
    }

    fn rx_share<'r>(
        &mut self,
        now: Instant,
        place: impl Fn(&[u8]) -> Option<&'r RxRing>,
        mut frame: impl FnMut(&[u8], RxChecksum),
    ) -> SharedBurst {
        self.poll_link(now);
        let mut batch = self.pair.rx.rx_burst(RX_BURST_LEN);
        let mut shared = SharedBurst::default();
        for index in 0..batch.len() {
            let received = batch.frame(index);
            match place(received.data) {
                None => {
                    frame(received.data, verdict(&received));
                    shared.shown += 1;
                }
                Some(ring) if batch.give(index, ring) => shared.given += 1,
                Some(_) => shared.refused += 1,
            }
        }
        shared
    }

    fn carry(&mut self, ring: &TxRing, max: usize) -> usize {
        self.pair.tx.carry(ring, max)
    }
}

impl Inlet for RxInlet {
    fn take(&mut self, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let batch = self.rx_burst(RX_BURST_LEN);
        let len = batch.len();
        batch.for_each(|received| frame(received.data, verdict(&received)));
        len
    }
}

impl Feeder for TxFeeder {
    fn room(&self) -> usize {
        Self::room(self)
    }

    fn frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        Self::frame(self, offload(kind), len, fill)
    }

    fn pending(&self) -> usize {
        Self::pending(self)
    }

    fn drop_pending(&mut self) -> usize {
        Self::drop_pending(self)
    }
}

#[cfg(test)]
mod tests {
    use dpdk::{Eal, EalConfig, Port, PortConfig};

    use super::*;

    const BOUND: Duration = Duration::from_millis(crate::limits::TX_STALL_MS_MAX);

    // The only test of this binary that starts EAL, which a process can do only once.
    #[test]
    fn frames_cross_and_those_that_no_peer_takes_are_dropped_and_counted() {
        let eal = Arc::new(Eal::init(&EalConfig { memory_mib: 64, ..EalConfig::default() }).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let open = |name, role| {
            let socket = folder.path().join("memif.sock");
            let device = format!("{name},role={role},id=0,socket={},socket-abstract=no", socket.display());
            let (_, mut pairs) = Port::open(&eal, &PortConfig { device, ..PortConfig::default() }).unwrap();
            DpdkNic::new(pairs.remove(0))
        };
        let start = Instant::now();
        let mut server = open("net_memif0", "server");
        assert_eq!((server.info().driver.as_str(), server.info().mtu), ("net_memif", 1500));

        for _ in 0..10 {
            assert!(server.tx_frame(TxKind::Plain, 60, |frame| frame.fill(1)));
        }
        assert_eq!(server.tx_flush(start), 10);
        assert_eq!((server.link_up(), server.take_drops()), (false, 0));
        assert_eq!(server.tx_flush(start + BOUND), 0);
        assert_eq!((server.take_drops(), server.take_drops()), (10, 0));

        let mut client = open("net_memif1", "client");
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut got = Vec::new();
        while got.is_empty() {
            assert!(Instant::now() < deadline, "nothing arrived");
            // Far enough apart for a look at the link, near enough for no frame to be dropped.
            let now = Instant::now();
            server.rx_burst(now, |_, _| panic!("the client sends nothing"));
            client.rx_burst(now, |frame, checksum| got.push((frame.to_vec(), checksum)));
            if server.link_up() && server.tx_room() == crate::limits::TX_PENDING_LEN_MAX {
                assert!(server.tx_frame(TxKind::Plain, 99, |frame| frame.fill(2)));
            }
            server.tx_flush(now);
        }
        assert_eq!(got[0], (vec![2; 99], RxChecksum::Unknown));
    }
}
