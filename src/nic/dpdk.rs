//! Temporary.
use super::*;
use ::dpdk::{Checksum, QueuePair, TxOffload};
/// x
pub struct DpdkNic {
    pair: QueuePair,
    info: NicInfo,
}
impl DpdkNic {
    /// x
    pub fn new(pair: QueuePair) -> Self {
        let i = pair.port_info().clone();
        let info = NicInfo { device: i.device, driver: i.driver, mtu: i.mtu, mac: i.mac, tx_checksum: i.tx_checksum, rx_checksum: i.rx_checksum };
        Self { pair, info }
    }
}
impl Nic for DpdkNic {
    fn rx_burst(&mut self, _now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let b = self.pair.rx.rx_burst(crate::limits::RX_BURST_LEN);
        let n = b.len();
        b.for_each(|f| {
            frame(f.data, match f.checksum {
                Checksum::Good => RxChecksum::Good,
                Checksum::Bad => RxChecksum::Bad,
                _ => RxChecksum::Unknown,
            })
        });
        n
    }
    fn tx_room(&self) -> usize {
        self.pair.tx.room()
    }
    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let k = match kind {
            TxKind::Plain => TxOffload::None,
            TxKind::UdpV4 { l2_len } => TxOffload::UdpV4 { l2_len },
            TxKind::UdpV6 { l2_len } => TxOffload::UdpV6 { l2_len },
        };
        self.pair.tx.frame(k, len, fill)
    }
    fn tx_flush(&mut self, _now: Instant) -> usize {
        self.pair.tx.flush()
    }
    fn info(&self) -> &NicInfo {
        &self.info
    }
    fn link_up(&self) -> bool {
        self.pair.link_up()
    }
}
