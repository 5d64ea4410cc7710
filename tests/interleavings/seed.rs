//! Blocks of the memory tier that are lent.

#[path = "../../src/seed/loans.rs"]
mod loans;

use crate::every_order;
use loans::{Loans, Readers};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[test]
fn never_more_than_half_of_the_blocks_are_lent_and_all_come_back() {
    every_order(|| {
        let loans = Loans::new(10);
        let blocks = Arc::new([Readers::new(loans.clone(), 10), Readers::new(loans.clone(), 10)]);
        // Parts are lent under the tier's lock, and given back without it. The counts beside it belong to the test.
        let tier = Arc::new(Mutex::new(()));
        let held = std::sync::Arc::new(std::sync::Mutex::new([0; 2]));
        let read = |at: usize| {
            let (blocks, tier, held) = (blocks.clone(), tier.clone(), held.clone());
            move || {
                let is_lent = {
                    let _tier = tier.lock().unwrap();
                    let is_lent = blocks[at].lend();
                    let mut held = held.lock().unwrap();
                    held[at] += usize::from(is_lent);
                    assert!(held.iter().filter(|parts| **parts > 0).count() <= 1, "both blocks are lent");
                    is_lent
                };
                if is_lent {
                    held.lock().unwrap()[at] -= 1;
                    blocks[at].give_back();
                }
            }
        };
        let threads = [thread::spawn(read(0)), thread::spawn(read(1))];
        read(0)();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(loans.bytes(), 0);
    });
}
