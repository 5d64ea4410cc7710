//! The inbox of a client's connection.

#[path = "../../src/client/inbox.rs"]
mod inbox;

use crate::queue::waking::Sleeper;
use crate::{NO_LIMIT, every_order};
use inbox::InboxRoom;
use loom::sync::Arc;
use loom::thread;
use stoq::limits::CLIENT_MESSAGES_BYTES;

#[test]
fn a_worker_that_found_an_inbox_full_is_woken_when_it_has_room() {
    every_order(|| {
        let (room, sleeper) = (Arc::new(InboxRoom::default()), Sleeper::default());
        room.take(CLIENT_MESSAGES_BYTES - 1);
        let (waker, taken) = (sleeper.waker(), room.clone());
        let task = thread::spawn(move || {
            if taken.give_back(CLIENT_MESSAGES_BYTES - 1) {
                waker.wake();
            }
        });
        room.take(1);
        while room.is_full() {
            sleeper.sleep(NO_LIMIT, || !room.is_full());
        }
        task.join().unwrap();
    });
}
