//! The requests that the connections of one node have in flight here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Requests that the connections of one node have in flight to a process, all of them together: 32 full connections.
const NODE_REQUESTS_LEN_MAX: usize = 8192;

/// The requests of one node, on all of its connections to this process. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestSeats(Arc<AtomicUsize>);

/// The seat of one request. Its drop gives it back.
#[derive(Debug)]
pub(crate) struct RequestSeat(RequestSeats);

impl RequestSeats {
    /// How many there are.
    pub(crate) fn taken(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Takes a seat. Returns with it whether there was one: a request without one is refused, and counts until it is over.
    pub(crate) fn take(&self) -> (RequestSeat, bool) {
        let before = self.0.fetch_add(1, Relaxed);
        (RequestSeat(self.clone()), before < NODE_REQUESTS_LEN_MAX)
    }
}

impl Drop for RequestSeat {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_of_a_node_have_their_number_and_give_their_seats_back() {
        let seats = RequestSeats::default();
        let mut taken: Vec<_> = (0..NODE_REQUESTS_LEN_MAX).map(|_| seats.take()).collect();
        assert!(taken.iter().all(|(_, is_free)| *is_free));
        assert!(!seats.clone().take().1);
        taken.pop();
        let (_last, is_free) = seats.take();
        assert!(is_free);
        taken.clear();
        assert_eq!(seats.taken(), 1);
    }
}
