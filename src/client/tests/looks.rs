//! What a turn looks at, of much that waits.

use super::*;
use crate::limits::CLIENT_LOOKS_LEN_PER_TURN_MAX;
use tokio::sync::Semaphore;

const WAITING: u64 = 1000;

impl Bench {
    /// Polls until a turn has nothing to do. No turn looks at more than a few of what waits.
    fn poll_in_parts(&mut self) {
        loop {
            let before = self.dispatch.looks();
            let worked = self.poll();
            let looks = self.dispatch.looks() - before;
            assert!(looks <= CLIENT_LOOKS_LEN_PER_TURN_MAX, "one turn looked at {looks}");
            if !worked {
                return;
            }
        }
    }
}

#[test]
fn a_turn_looks_at_few_of_many_puts_and_finds_the_one_with_room() {
    let mut bench = Bench::new();
    let _up = bench.connect(false);
    let puts: Vec<_> = (0..WAITING).map(|n| put(&mut bench, n)).collect();
    for putting in &puts {
        putting.credit.take(64 << 20);
        assert!(putting.data.try_send(Batch::Bytes(vec![Bytes::from_static(b"data")])).is_ok());
        bench.worker.deliver(Delivery::Answered(putting.request, queue::Answer::Ok(OK)));
        bench.poll_in_parts();
    }
    assert!(bench.worker.command().is_none(), "none has room");
    for putting in [&puts[0], &puts[WAITING as usize / 2], &puts[WAITING as usize - 1]] {
        putting.credit.give_back(64 << 20);
        bench.poll_in_parts();
        assert!(matches!(bench.command(), Command::Bytes(request, _) if request == putting.request));
    }
}

#[test]
fn a_turn_looks_at_few_of_many_connections_with_messages_and_finds_the_one_with_room() {
    let mut bench = Bench::new();
    let link = |n: u64| ConnectionId { worker: 0, slot: n as u32, generation: 1 };
    let ups: Vec<_> = (0..WAITING)
        .map(|n| {
            let answer = bench.dial(false);
            let Command::Connect { tag, .. } = bench.command() else { panic!("no Connect") };
            (answer, bench.come_up_as(link(n), tag))
        })
        .collect();
    let places = Arc::new(Semaphore::new(WAITING as usize));
    for (n, (_, credit)) in (0..).zip(&ups) {
        credit.take(64 << 20);
        let place = places.clone().try_acquire_owned().unwrap();
        bench.call(Call::Message {
            connection: link(n),
            queue: n,
            payload: Bytes::from_static(b"word"),
            place,
        });
        bench.poll_in_parts();
    }
    assert!(bench.worker.command().is_none(), "none has room");
    for n in [0, WAITING / 2, WAITING - 1] {
        ups[n as usize].1.give_back(64 << 20);
        bench.poll_in_parts();
        let Command::On(id, ConnectionCommand::Message { queue, .. }) = bench.command() else {
            panic!("no message")
        };
        assert_eq!((id, queue), (link(n), n));
    }
}
