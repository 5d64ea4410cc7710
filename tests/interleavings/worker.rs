//! What workers show to each other and to the control threads, and get from them.

#[path = "../../src/worker/inspection.rs"]
mod inspection;
#[path = "../../src/worker/newest.rs"]
mod newest;
#[path = "../../src/worker/published_load.rs"]
mod published_load;
/// In the place of the library's, which is of no interest here.
mod view {
    #[derive(Debug)]
    pub(super) struct ConnectionView;
}

use crate::every_order;
use inspection::Inspection;
use loom::sync::Arc;
use loom::thread;
use newest::NewestValue;
use published_load::{LoadView, PublishedLoad};

#[test]
fn workers_go_from_renewal_to_renewal_and_never_back() {
    every_order(|| {
        let newest = Arc::new(NewestValue::default());
        let writer = newest.clone();
        let reload = thread::spawn(move || (1..=2_u32).for_each(|value| writer.put(Arc::new(value))));
        let (mut seen, mut last) = (0, 0);
        for _ in 0..3 {
            if let Some(value) = newest.newer(&mut seen) {
                assert!(*value > last && *value == seen, "{value:?} after {last}");
                last = *value;
            }
        }
        reload.join().unwrap();
        let value = newest.newer(&mut seen).map_or(last, |value| *value);
        assert_eq!(value, 2, "the turn after a reload has it");
    });
}

#[test]
fn the_last_inspection_that_was_asked_for_is_answered() {
    every_order(|| {
        let inspection = Arc::new(Inspection::default());
        let endpoint = inspection.clone();
        let asks = thread::spawn(move || {
            drop(endpoint.ask());
            endpoint.ask()
        });
        let turn = |inspection: &Inspection| {
            if inspection.is_wanted() {
                inspection.answer(Vec::new());
            }
        };
        turn(&inspection);
        turn(&inspection);
        let mut answer = asks.join().unwrap();
        turn(&inspection);
        assert!(answer.try_recv().is_ok());
        assert!(!inspection.is_wanted(), "later turns have no work");
    });
}

#[test]
fn a_load_is_read_whole_and_its_publications_in_order() {
    every_order(|| {
        let load = Arc::new(PublishedLoad::default());
        let worker = load.clone();
        let view = |round: u16| LoadView { round, load: u64::from(round) * 100, must_prove: round == 2 };
        let publishes = thread::spawn(move || (1..=2).for_each(|round| worker.store(view(round))));
        let mut last = 0;
        for _ in 0..3 {
            let seen = load.view();
            assert_eq!(seen, view(seen.round));
            assert!(seen.round >= last);
            last = seen.round;
        }
        publishes.join().unwrap();
    });
}
