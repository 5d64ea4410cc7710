//! The exchange of claims about neighbors between the workers of one interface.
//!
//! A device hands ARP and NDP packets to one queue, also those that another worker has asked for: each worker tells all others.

use super::Claim;
use crate::limits::NEIGHBOR_EXCHANGE_LEN_MAX;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// One worker's end of the exchange. Nothing blocks. A claim that finds an inbox full is lost, and that
/// worker asks the neighbor itself.
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
                // Its inbox is full: that worker asks the neighbor itself.
                let _ = inbox.push(claim);
            }
        }
    }

    /// A claim of another worker that this one has not taken yet.
    #[inline]
    pub fn take(&self) -> Option<Claim> {
        self.inboxes[self.own].pop()
    }
}
