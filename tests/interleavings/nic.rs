//! Queues that change workers.

#[path = "../../src/nic/left_queues.rs"]
mod left_queues;

use crate::every_order;
use left_queues::LeftQueues;
use loom::sync::Arc;
use loom::thread;

#[test]
fn the_queues_of_workers_that_end_are_taken_over_once() {
    every_order(|| {
        let left = Arc::new(LeftQueues::default());
        let ends: Vec<_> = (0..2)
            .map(|queue| {
                let left = left.clone();
                thread::spawn(move || left.leave(&mut vec![queue]))
            })
            .collect();
        let other = left.clone();
        let looks = thread::spawn(move || {
            let mut own = Vec::new();
            other.take_over(&mut own);
            own
        });
        let mut own = Vec::new();
        left.take_over(&mut own);
        ends.into_iter().for_each(|end| end.join().unwrap());
        own.extend(looks.join().unwrap());
        // The next burst of a worker that sees the end.
        left.take_over(&mut own);
        own.sort_unstable();
        assert_eq!(own, [0, 1]);
    });
}
