//! The messages of a connection that its applications have not taken yet.

use crate::limits::MESSAGES_UNTAKEN_BYTES_MAX;
use crate::queue::WorkerPort;

/// The messages in each application's ring. Nothing is counted when an application takes one: the numbers of its deliveries tell.
#[derive(Debug, Default)]
pub(super) struct Untaken(Vec<Runs>);

/// Two runs of messages in one ring.
#[derive(Clone, Copy, Debug, Default)]
struct Runs {
    older: Run,
    newer: Run,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    bytes: usize,
    /// The number of its last delivery.
    last: u64,
}

impl Untaken {
    /// A message that costs this many bytes was given to the port.
    pub(super) fn add(&mut self, app: usize, bytes: usize, port: &WorkerPort) {
        if self.0.len() <= app {
            self.0.resize(app + 1, Runs::default());
        }
        let Runs { older, newer } = &mut self.0[app];
        newer.bytes += bytes;
        newer.last = port.delivered();
        if older.bytes == 0 && newer.bytes >= MESSAGES_UNTAKEN_BYTES_MAX / 2 {
            *older = std::mem::take(newer);
        }
    }

    /// The messages that may not have been taken yet, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|runs| runs.bytes()).sum()
    }

    /// Whether this application may get more messages.
    pub(super) fn has_room(&mut self, app: usize, port: &WorkerPort) -> bool {
        self.0.get_mut(app).is_none_or(|runs| runs.bytes() < MESSAGES_UNTAKEN_BYTES_MAX || runs.shorten(port))
    }
}

impl Runs {
    fn bytes(self) -> usize {
        self.older.bytes + self.newer.bytes
    }

    /// Drops the runs that were taken. Returns whether there is room now.
    #[cold]
    fn shorten(&mut self, port: &WorkerPort) -> bool {
        let taken = port.taken();
        if taken >= self.newer.last {
            self.newer = Run::default();
        }
        if taken >= self.older.last {
            self.older = std::mem::take(&mut self.newer);
        }
        self.bytes() < MESSAGES_UNTAKEN_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Bench;
    use super::*;
    use crate::queue::{ConnectionEvent, Delivery};
    use crate::record::Payload;

    #[test]
    fn messages_in_a_ring_are_bounded_by_their_bytes_until_they_are_taken() {
        let mut bench = Bench::new();
        let mut untaken = Untaken::default();
        let each = MESSAGES_UNTAKEN_BYTES_MAX / 100;
        let fill = |bench: &mut Bench, untaken: &mut Untaken| {
            let mut count = 0;
            while untaken.has_room(0, &bench.ports[0]) {
                let message = ConnectionEvent::Message { queue: 1, payload: Payload::new() };
                let id = bench.connection();
                bench.ports[0].deliver(Delivery::Connection(id, message));
                untaken.add(0, each, &bench.ports[0]);
                count += 1;
            }
            count
        };
        assert_eq!(fill(&mut bench, &mut untaken), 101);
        assert_eq!(fill(&mut bench, &mut untaken), 0);
        assert_eq!(bench.take(60), 60);
        let more = fill(&mut bench, &mut untaken);
        assert!((40..=60).contains(&more), "the half that was taken is free again: {more}");
        bench.delivered();
        assert!(fill(&mut bench, &mut untaken) >= 100);
    }
}
