//! Which worker accepts a connection: the one whose queue its first packet came by, or one with more room.
//!
//! Each worker publishes its load every [`LOAD_INTERVAL_MS`], and when it has another number of connections. A worker that receives the first Initial of a connection compares its own
//! load with the least of the others, and hands the packet over when they differ. It remembers the decision by the connection ID that
//! the client chose, for all packets that still carry it. From the first answer on, the worker's index in the connection ID tells.

use super::published_load::{LoadView, PublishedLoad};
use crate::limits::{
    HANDSHAKE_MS_MAX, LOAD_AVERAGE_LEN, LOAD_CONNECTION_LEN, LOAD_DIFFERENCE_LEN, LOAD_DIFFERENCE_PART_LEN,
    LOAD_HANDOVERS_LEN, LOAD_INTERVAL_MS, LOAD_LOOKS_LEN_MAX, PLACED_LEN_MAX,
};
use quinn_proto::ConnectionId;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The packets of a worker so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkDone {
    /// Received from the network and sent to it.
    pub(super) packets: u64,
    /// Of the received ones, those that were handed over to other workers.
    pub(super) handed_over: u64,
    /// Taken over from other workers.
    pub(super) taken_over: u64,
}

impl WorkDone {
    fn total(self) -> u64 {
        let handled = (self.packets + self.taken_over).saturating_sub(self.handed_over);
        handled + self.handed_over / LOAD_HANDOVERS_LEN
    }
}

/// One worker's view of the loads, and the connections that it placed.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// When the packets are counted next; `None`: at once.
    due: Option<Instant>,
    /// The number of the last publication, and the connections that it counted.
    round: u16,
    connections: usize,
    /// The work when the packets were counted last.
    counted: u64,
    /// The packets of the last [`LOAD_AVERAGE_LEN`] intervals, the earlier ones with less weight.
    packets: u64,
    /// The connections given to each worker since this publication of its load.
    given: Vec<(u16, u64)>,
    /// The worker whose load is looked at first.
    next: usize,
    /// The workers of connections, by the IDs that their clients chose. Its hash has a random key.
    placed: HashMap<ConnectionId, (u16, Instant)>,
    /// The same IDs, oldest first.
    order: VecDeque<ConnectionId>,
}

impl Placing {
    /// Whether the own load is to be published: it is time, or the number of connections has changed.
    #[inline]
    pub(super) fn is_due(&self, connections: usize, now: Instant) -> bool {
        connections != self.connections || self.due.is_none_or(|due| due <= now)
    }

    /// Publishes the own load.
    pub(super) fn publish(
        &mut self,
        to: &PublishedLoad,
        (work, connections, must_prove): (WorkDone, usize, bool),
        now: Instant,
    ) {
        if self.due.is_none_or(|due| due <= now) {
            self.count_packets(work.total(), now);
        }
        // The packets of connections that have ended are no load any more. They are taken to have been as busy as the others.
        if connections < self.connections {
            self.packets = self.packets * connections as u64 / self.connections as u64;
        }
        self.connections = connections;
        self.round = self.round.wrapping_add(1);
        to.store(LoadView { round: self.round, load: self.load(connections), must_prove });
    }

    fn count_packets(&mut self, total: u64, now: Instant) {
        let interval = Duration::from_millis(LOAD_INTERVAL_MS);
        let late = self.due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        let intervals = 1 + (late.as_nanos() / interval.as_nanos()) as u64;
        let each = total.saturating_sub(self.counted) / intervals;
        for _ in 0..intervals.min(8 * LOAD_AVERAGE_LEN) {
            self.packets += each;
            self.packets -= self.packets / LOAD_AVERAGE_LEN;
        }
        (self.counted, self.due) = (total, Some(now + interval));
    }

    fn load(&self, connections: usize) -> u64 {
        self.packets + connections as u64 * LOAD_CONNECTION_LEN
    }

    /// The worker of a client's connection ID, if it was placed in the time of a handshake.
    pub(super) fn known(&self, id: &ConnectionId, now: Instant) -> Option<u16> {
        let (worker, until) = self.placed.get(id)?;
        (now < *until).then_some(*worker)
    }

    /// Remembers the worker of a client's connection ID. The oldest one is forgotten when the places are taken.
    pub(super) fn remember(&mut self, id: ConnectionId, worker: u16, now: Instant) {
        let until = now + Duration::from_millis(HANDSHAKE_MS_MAX);
        if self.placed.insert(id, (worker, until)).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > PLACED_LEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.placed.remove(&oldest);
        }
    }

    /// The worker with the most room for a new connection, if that is not `own`, which has these connections. Clients need not prove their
    /// addresses there, and `has_room` holds for it.
    pub(super) fn choose(
        &mut self,
        (own, connections): (usize, usize),
        loads: &[PublishedLoad],
        has_room: impl Fn(usize) -> bool,
    ) -> Option<u16> {
        self.given.resize(loads.len(), (0, 0));
        let most = self.load(connections).saturating_sub(LOAD_DIFFERENCE_LEN);
        let mut best: Option<(u64, usize)> = None;
        for _ in 0..loads.len().min(LOAD_LOOKS_LEN_MAX) {
            self.next = (self.next + 1) % loads.len();
            let LoadView { round, load, must_prove } = loads[self.next].view();
            let given = &mut self.given[self.next];
            if given.0 != round {
                *given = (round, 0);
            }
            let load = load + given.1 * LOAD_CONNECTION_LEN;
            if self.next != own
                && !must_prove
                && load + load / LOAD_DIFFERENCE_PART_LEN < most
                && best.is_none_or(|(least, _)| load < least)
                && has_room(self.next)
            {
                best = Some((load, self.next));
            }
        }
        let (_, worker) = best?;
        self.given[worker].1 += 1;
        Some(worker as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::super::published_load::LOAD_MAX;
    use super::super::shared::WorkerStatus;
    use super::*;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new(&number.to_be_bytes())
    }

    fn loads(of: &[u64]) -> Vec<PublishedLoad> {
        let loads: Vec<PublishedLoad> = of.iter().map(|_| PublishedLoad::default()).collect();
        for (place, &load) in loads.iter().zip(of) {
            place.store(LoadView { round: 1, load, must_prove: false });
        }
        loads
    }

    /// Where `len` connections go that begin on worker 0 while the others publish nothing new.
    fn spread(loads: &[PublishedLoad], len: usize) -> Vec<usize> {
        let (mut placing, mut taken) = (Placing::default(), vec![0; loads.len()]);
        for _ in 0..len {
            let worker = placing.choose((0, taken[0]), loads, |_| true);
            taken[usize::from(worker.unwrap_or(0))] += 1;
        }
        taken
    }

    #[test]
    fn a_published_load_is_read_as_it_was_written() {
        let place = PublishedLoad::default();
        for must_prove in [false, true] {
            for (round, load) in [(0, 0), (1, 7), (u16::MAX, LOAD_MAX)] {
                let view = LoadView { round, load, must_prove };
                place.store(view);
                assert_eq!(place.view(), view);
            }
        }
        place.store(LoadView { round: 3, load: u64::MAX, must_prove: false });
        assert_eq!(place.view(), LoadView { round: 3, load: LOAD_MAX, must_prove: false });
    }

    #[test]
    fn connections_of_one_queue_go_to_all_workers_alike() {
        assert_eq!(spread(&loads(&[0; 4]), 1), [1, 0, 0, 0], "the first one stays");
        assert_eq!(spread(&loads(&[0; 4]), 4), [1, 1, 1, 1], "each of the next ones has a worker of its own");
        let many = loads(&[64 * LOAD_CONNECTION_LEN; 4]);
        assert_eq!(
            Placing::default().choose((0, 65), &many, |_| true),
            None,
            "one of many makes no difference"
        );
        for (len, most) in [(8, 2), (16, 5), (64, 20), (400, 112)] {
            let taken = spread(&loads(&[0; 4]), len);
            assert_eq!(taken.iter().sum::<usize>(), len);
            assert!(taken.iter().all(|&of| of <= most && of * 8 >= len), "{taken:?}");
        }
    }

    #[test]
    fn a_worker_that_is_as_busy_gets_no_connection_of_others() {
        let busy = 6 * LOAD_CONNECTION_LEN;
        let taken = spread(&loads(&[0, busy, 0, 0]), 8);
        assert_eq!(taken[1], 0, "{taken:?}");
        assert_eq!(spread(&loads(&[0, busy, busy, busy]), 4), [4, 0, 0, 0]);
    }

    #[test]
    fn no_connection_goes_where_clients_must_prove_their_addresses_or_no_room_is() {
        let loads = loads(&[0; 3]);
        loads[1].store(LoadView { round: 1, load: 0, must_prove: true });
        let mut placing = Placing::default();
        assert_eq!(placing.choose((0, 10), &loads, |_| true), Some(2));
        assert_eq!(placing.choose((0, 10), &loads, |worker| worker != 2), None);
    }

    #[test]
    fn connections_given_count_until_the_next_publication() {
        let loads = loads(&[0; 2]);
        let mut placing = Placing::default();
        let given = |placing: &mut Placing| {
            (0..20).filter(|_| placing.choose((0, 5), &loads, |_| true).is_some()).count()
        };
        assert_eq!(given(&mut placing), 4, "until the loads are alike");
        assert_eq!(given(&mut placing), 0);
        loads[1].store(LoadView { round: 2, load: 0, must_prove: false });
        assert_eq!(given(&mut placing), 4, "the worker has not seen them, or they are over");
    }

    #[test]
    fn a_search_looks_at_few_of_many_workers_and_at_others_each_time() {
        let loads = loads(&[0; 1024]);
        let mut placing = Placing::default();
        let looked = std::cell::RefCell::new(std::collections::HashSet::new());
        for _ in 0..128 {
            let before = looked.borrow().len();
            let chosen = placing.choose((0, 1000), &loads, |worker| {
                looked.borrow_mut().insert(worker);
                false
            });
            assert_eq!(chosen, None);
            assert!(looked.borrow().len() <= before + LOAD_LOOKS_LEN_MAX);
        }
        assert_eq!(looked.borrow().len(), 1023, "all but its own");
    }

    #[test]
    fn what_workers_read_of_each_other_has_its_own_cache_lines_and_is_written_by_time_and_not_by_packet() {
        const LINE_BYTES: usize = 64;
        assert!(align_of::<PublishedLoad>() >= LINE_BYTES && align_of::<WorkerStatus>() >= LINE_BYTES);
        let (mut placing, place, begun) = (Placing::default(), PublishedLoad::default(), Instant::now());
        // A packet each microsecond, for a tenth of a second.
        let writes = (0..100_000).filter(|&packets| {
            let now = begun + Duration::from_micros(packets);
            let is_due = placing.is_due(3, now);
            if is_due {
                placing.publish(&place, (WorkDone { packets, ..WorkDone::default() }, 3, false), now);
            }
            is_due
        });
        assert!(writes.count() as u64 <= 1 + 100 / LOAD_INTERVAL_MS);
    }

    #[test]
    fn a_load_follows_the_packets_and_fades_without_them() {
        let (mut placing, place, begun) = (Placing::default(), PublishedLoad::default(), Instant::now());
        let (mut work, mut now) = (WorkDone::default(), begun);
        let interval = Duration::from_millis(LOAD_INTERVAL_MS);
        for _ in 0..100 {
            work.packets += 80;
            placing.publish(&place, (work, 0, false), now);
            now += interval;
        }
        let busy = place.view().load;
        assert!((6 * 80..=8 * 80).contains(&busy), "{busy} packets");
        // A worker that slept has done this over the whole time.
        work.packets += 100;
        placing.publish(&place, (work, 2, true), now + 100 * interval);
        let LoadView { load, must_prove, .. } = place.view();
        assert!(must_prove && load < 2 * LOAD_CONNECTION_LEN + 16, "{load} packets");
    }

    #[test]
    fn connections_that_end_take_their_packets_along() {
        let (mut placing, place, mut now) = (Placing::default(), PublishedLoad::default(), Instant::now());
        let mut work = WorkDone::default();
        for _ in 0..100 {
            work.packets += 8000;
            placing.publish(&place, (work, 4, false), now);
            now += Duration::from_millis(LOAD_INTERVAL_MS);
        }
        let packets = place.view().load - 4 * LOAD_CONNECTION_LEN;
        placing.publish(&place, (work, 1, false), now - Duration::from_micros(1));
        assert_eq!(place.view().load, packets / 4 + LOAD_CONNECTION_LEN);
        placing.publish(&place, (work, 0, false), now - Duration::from_micros(1));
        assert_eq!(place.view().load, 0, "a new connection is not sent away for an old one");
    }

    #[test]
    fn a_datagram_for_another_worker_is_a_part_of_the_work() {
        let work = WorkDone { packets: 1000, handed_over: 800, taken_over: 10 };
        assert_eq!(work.total(), 210 + 800 / LOAD_HANDOVERS_LEN);
    }

    #[test]
    fn a_placed_connection_is_known_for_the_time_of_a_handshake_and_the_oldest_is_forgotten() {
        let (mut placing, now) = (Placing::default(), Instant::now());
        placing.remember(id(0), 3, now);
        let end = now + Duration::from_millis(HANDSHAKE_MS_MAX);
        assert_eq!(placing.known(&id(0), end - Duration::from_nanos(1)), Some(3));
        assert_eq!(placing.known(&id(0), end), None);
        assert_eq!(placing.known(&id(1), now), None);
        placing.remember(id(0), 2, end);
        assert_eq!(placing.known(&id(0), end), Some(2), "it began again");
        for number in 1..=PLACED_LEN_MAX {
            placing.remember(id(number), 1, end);
        }
        assert_eq!(placing.known(&id(0), end), None);
        assert_eq!(placing.known(&id(1), end), Some(1));
        assert_eq!((placing.placed.len(), placing.order.len()), (PLACED_LEN_MAX, PLACED_LEN_MAX));
    }
}
