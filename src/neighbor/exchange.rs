//! What workers of one interface tell each other of neighbors.
//!
//! A device hands ARP and NDP packets to one queue, whichever worker asked: what one worker hears, all must know.

use super::Claim;
use crate::limits::NEIGHBOR_EXCHANGE_LEN_MAX;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// One worker's end of the exchange. Nothing blocks; what a worker is too slow to take is forgotten, and asked for again.
#[derive(Clone, Debug)]
pub struct ExchangePort {
    inboxes: Arc<[ArrayQueue<Claim>]>,
    own: usize,
}

/// One end for each of `workers` workers.
pub fn exchange(workers: usize) -> Vec<ExchangePort> {
    let inboxes: Arc<[_]> = (0..workers).map(|_| ArrayQueue::new(NEIGHBOR_EXCHANGE_LEN_MAX)).collect();
    (0..workers).map(|own| ExchangePort { inboxes: inboxes.clone(), own }).collect()
}

impl ExchangePort {
    /// Tells every other worker.
    pub fn tell(&self, claim: Claim) {
        for (i, inbox) in self.inboxes.iter().enumerate() {
            if i != self.own {
                // A full inbox: that worker hears of the neighbor when it asks itself.
                let _ = inbox.push(claim);
            }
        }
    }

    /// What another worker told and this one has not taken yet.
    #[inline]
    pub fn take(&self) -> Option<Claim> {
        self.inboxes[self.own].pop()
    }
}
