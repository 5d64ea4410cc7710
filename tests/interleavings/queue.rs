//! Sleeps, wakes and credit.

#[path = "../../src/queue/credit.rs"]
mod credit;
#[path = "../../src/queue/waking.rs"]
pub(crate) mod waking;

use crate::{NO_LIMIT, every_order, some_order_fails};
use credit::Credit;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;
use stoq::limits::OUTSTANDING_BYTES_MAX;
use waking::Sleeper;

/// A change that carries no order of its own, and a wake: the sleeper sees it. `looks` is whether the sleeper looks once more when it has said that it
/// sleeps.
fn a_change_and_a_wake(looks: bool) {
    every_order(move || {
        let (sleeper, changes) = (Sleeper::default(), Arc::new(AtomicUsize::new(0)));
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (waker, changes) = (sleeper.waker(), changes.clone());
                thread::spawn(move || {
                    changes.fetch_add(1, Relaxed);
                    waker.wake();
                })
            })
            .collect();
        while changes.load(Relaxed) < 2 {
            sleeper.sleep(NO_LIMIT, || looks && changes.load(Relaxed) == 2);
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn a_wake_after_a_change_is_never_lost() {
    a_change_and_a_wake(true);
}

#[test]
fn a_sleeper_that_does_not_look_again_would_miss_a_wake() {
    let test = "queue::a_sleeper_that_does_not_look_again_would_miss_a_wake";
    some_order_fails(test, "deadlock", || a_change_and_a_wake(false));
}

#[test]
fn an_application_that_waits_for_credit_is_woken_when_half_is_free() {
    every_order(|| {
        let credit = Credit::default();
        credit.take(OUTSTANDING_BYTES_MAX);
        let sleeper = Sleeper::default();
        let (waker, paid) = (sleeper.waker(), credit.clone());
        let worker = thread::spawn(move || {
            for _ in 0..2 {
                if paid.give_back(OUTSTANDING_BYTES_MAX / 2 + 1) {
                    waker.wake();
                }
            }
        });
        while !credit.has_room() {
            sleeper.sleep(NO_LIMIT, || credit.has_room());
        }
        worker.join().unwrap();
    });
}

#[test]
fn answers_of_one_connection_give_back_all_that_they_took() {
    every_order(|| {
        let all = Credit::shared(OUTSTANDING_BYTES_MAX);
        for dropped in [0, 60] {
            let answer = Credit::within(&all);
            // The worker's handle may be the last one: what is dropped with it is given back then.
            let worker = answer.clone();
            thread::spawn(move || {
                answer.take(100);
                answer.give_back(100 - dropped);
            });
            drop(worker);
        }
        while all.outstanding_bytes() != 0 {
            thread::yield_now();
        }
    });
}
