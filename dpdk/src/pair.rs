//! The two queues of one worker.

use std::sync::Arc;

use crate::{
    port::OpenPort,
    queue::{RxQueue, TxQueue},
    ring::{RxInlet, RxRing, TxFeeder, TxRing},
    settings::PortInfo,
};

/// One receive and one transmit queue of the same port, for one worker.
#[derive(Debug)]
pub struct QueuePair {
    /// The receive queue.
    pub rx: RxQueue,
    /// The transmit queue.
    pub tx: TxQueue,
    pub(crate) shared: Arc<OpenPort>,
}

impl QueuePair {
    /// The port that the queues belong to.
    pub fn port_info(&self) -> &PortInfo {
        &self.shared.info
    }

    /// Whether the link is up, without waiting.
    pub fn link_up(&self) -> bool {
        self.shared.link_up()
    }

    /// A ring for received frames of this port on their way to another worker, and the end at which that worker takes them.
    pub fn rx_ring(&self) -> (Arc<RxRing>, RxInlet) {
        RxRing::new(self.shared.clone())
    }

    /// A ring for frames of another worker that this transmit queue is to send, and the end at which that worker writes them.
    pub fn tx_ring(&self) -> (Arc<TxRing>, TxFeeder) {
        self.tx.ring()
    }

    /// Receive and transmit buffers that are free now.
    pub fn buffers_available(&self) -> (u32, u32) {
        (self.rx.pool().available(), self.tx.pool().available())
    }
}
