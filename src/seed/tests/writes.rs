//! PUTs and openings on a disk that hangs or fails.

use super::*;
use crate::limits::OPEN_THREADS_LEN_MAX;
use crate::queue::{CloseReason, ConnectionEvent};
use crate::record::{ErrorCode, ErrorRecord};

fn given_up() -> End {
    End::Failed(ErrorRecord::new(ErrorCode::Internal, 0, "stopped"))
}

/// A host that has written down its time: that is done once, on the thread that serves.
fn host() -> Host {
    let mut host = Host::new(64 << 20);
    let locate = host.ask(9, Request::Locate(Locate { token: Token::of(b"none").into() }));
    host.run(|host| host.answers.contains_key(&locate));
    host.disk.change(|state| state.by_serving.clear());
    host
}

#[test]
fn puts_and_gets_make_no_call_of_the_disk_on_the_thread_that_serves() {
    let mut host = host();
    // A row, a file with pairs in a row, one with a file of pairs, and one that is given up.
    let payloads = [payload(100, 1), payload(100_000, 2), payload(3 * BLOCK, 3)];
    for data in &payloads {
        host.put(1, data);
        host.get(2, data);
        host.memory.forget(&Token::of(data));
        host.get(2, data);
        // It is held, and is checked first.
        let descriptor = Descriptor::plain(Token::of(data), data.len() as u64).unwrap();
        let again = host.ask(3, Request::Put(Put { queue: 0, lease_s: 0, descriptor, lanes: None }));
        host.run(|host| matches!(host.answers.get(&again), Some(Answer::Done(_))));
    }
    let descriptor = Descriptor::plain(Token::of(&payload(BLOCK, 4)), BLOCK as u64).unwrap();
    let request = host.ask(4, Request::Put(Put { queue: 0, lease_s: 0, descriptor, lanes: None }));
    host.run(|host| host.answers.contains_key(&request));
    let (_, pieces) = pieces(&payload(BLOCK, 4));
    let (piece, charge) = (pieces[0].clone(), Charge::default());
    host.worker.deliver(Delivery::Piece { request, shard: None, piece, charge });
    host.run(|host| host.temporary() > 0);
    host.worker.deliver(Delivery::Ended(request, given_up()));
    host.run(|host| host.temporary() == 0 && host.store.requests_waiting() == 0);
    assert_eq!(host.disk.state.lock().unwrap().by_serving, NOTHING);
}

#[test]
fn a_put_whose_disk_hangs_keeps_its_credit_and_others_are_served() {
    let mut host = host();
    let [hot, slow] = [payload(BLOCK, 1), payload(3 * BLOCK, 2)];
    host.put(1, &hot);
    host.get(1, &hot);
    host.disk.change(|state| state.writes_hang = true);
    let credit = Credit::default();
    let request = host.begin_put(2, &slow, &credit);
    host.run(|host| host.disk.hanging() > 0);
    for _ in 0..3 {
        host.get(1, &hot);
        host.get(2, &hot);
    }
    assert_eq!(credit.outstanding_bytes(), slow.len(), "nothing is written");
    assert_eq!(
        host.seed.putting.waiting().collect::<Vec<_>>(),
        [request],
        "its peer is told that it is worked on"
    );
    host.disk.change(|state| state.writes_hang = false);
    host.run(|host| matches!(host.answers.get(&request), Some(Answer::Done(_))));
    assert_eq!(credit.outstanding_bytes(), 0, "what is written is charged no more");
    assert_eq!(host.store.requests_waiting(), 0);
    host.get(3, &slow);
    assert_eq!(host.disk.state.lock().unwrap().by_serving, NOTHING);
}

#[test]
fn a_disk_that_fails_ends_a_put_with_its_error_and_leaves_no_file_and_no_credit() {
    for (errno, code) in [(Errno::NOSPC, ErrorCode::Quota), (Errno::IO, ErrorCode::Internal)] {
        let mut host = host();
        let data = payload(BLOCK, 1);
        let credit = Credit::default();
        // Before the first piece.
        host.disk.change(|state| state.writes_hang = true);
        let request = host.begin_put(1, &data, &credit);
        host.run(|host| host.disk.hanging() > 0);
        host.disk.change(|state| (state.writes_hang, state.change_error) = (false, Some(errno)));
        host.run(|host| host.ended.contains_key(&request));
        let Ending::Refuse(failure) = &host.ended[&request] else { panic!("{:?}", host.ended[&request]) };
        assert_eq!(failure.code, code, "{failure:?}");
        host.run(|host| host.store.requests_waiting() == 0);
        assert!(!matches!(host.answers[&request], Answer::Done(_)), "one answer");
        assert_eq!((host.temporary(), credit.outstanding_bytes()), (0, 0));
        assert_eq!(host.store.census().unfinished, 0, "its room is free again");
        host.disk.change(|state| state.change_error = None);
        host.put(1, &data);
        host.get(1, &data);
    }
}

#[test]
fn a_put_that_is_given_up_while_its_bytes_wait_leaves_nothing() {
    for closes in [false, true] {
        let mut host = host();
        let data = payload(3 * BLOCK, 1);
        let credit = Credit::default();
        host.disk.change(|state| state.writes_hang = true);
        let (token, pieces) = pieces(&data);
        let descriptor = Descriptor::plain(token, data.len() as u64).unwrap();
        let request = host.ask(1, Request::Put(Put { queue: 0, lease_s: 0, descriptor, lanes: None }));
        host.run(|host| host.answers.contains_key(&request));
        for piece in pieces {
            let charge = Charge::take(&credit, piece.data.len());
            host.worker.deliver(Delivery::Piece { request, shard: None, piece, charge });
        }
        host.run(|host| host.disk.hanging() > 0);
        let end = if closes {
            let reason = CloseReason::Local;
            Delivery::Connection(request.connection, ConnectionEvent::Closed { reason })
        } else {
            Delivery::Ended(request, given_up())
        };
        host.worker.deliver(end);
        host.run(|host| host.seed.putting.waiting().next().is_none());
        host.disk.change(|state| state.writes_hang = false);
        host.run(|host| host.store.requests_waiting() == 0);
        assert_eq!((host.temporary(), credit.outstanding_bytes()), (0, 0), "{closes}");
        assert!(host.store.get(&token).unwrap().is_none());
        assert_eq!(host.store.census().unfinished, 0);
        assert!(!host.ended.contains_key(&request), "its peer is told nothing more");
    }
}

#[test]
fn openings_that_hang_hold_up_no_other_get() {
    let mut host = host();
    let [quick, cold] = [payload(BLOCK, 1), payload(BLOCK, 2)];
    let token = put(&host.store, &cold);
    put(&host.store, &quick);
    host.disk.change(|state| state.openings_hang = Some(token.hex()));
    let hanging: Vec<_> = (1..OPEN_THREADS_LEN_MAX as u32).map(|slot| host.fetch(slot, token)).collect();
    host.run(|host| host.disk.hanging() == OPEN_THREADS_LEN_MAX - 1);
    host.get(1, &quick);
    host.put(1, &payload(BLOCK, 3));
    let given = host.seed.openings.waiting().count();
    assert_eq!(given, hanging.len(), "their peers are told that they are worked on");
    host.worker.deliver(Delivery::Ended(hanging[0], given_up()));
    host.run(|host| host.seed.openings.waiting().count() == hanging.len() - 1);
    host.disk.change(|state| state.openings_hang = None);
    hanging[1..].iter().for_each(|request| host.end(*request, &cold));
    assert!(!host.answers.contains_key(&hanging[0]), "one that was given up is not answered");
    assert_eq!(host.disk.state.lock().unwrap().by_serving, NOTHING);
}

#[test]
fn a_get_whose_names_and_bytes_are_in_memory_is_answered_without_another_thread() {
    let mut host = host();
    // A row, a file with pairs in a row, and one with a file of pairs.
    let payloads = [payload(100, 1), payload(100_000, 2), payload(3 * BLOCK, 3)];
    for data in &payloads {
        host.put(1, data);
        // From the disk, by the reader.
        host.get(1, data);
    }
    let read = host.memory.stats().misses;
    for _ in 0..3 {
        payloads.iter().for_each(|data| host.get(1, data));
    }
    let missing = host.fetch(1, Token::of(b"none"));
    host.run(|host| host.ended.contains_key(&missing));
    assert_eq!(host.memory.stats().misses, read, "their bytes are in memory");
    assert_eq!(host.store.inner.openers.threads(), 0, "no thread opened any of them");
    // One whose name the kernel has to look for on the disk.
    host.disk.change(|state| state.cold = Some(Token::of(&payloads[1]).hex()));
    host.get(1, &payloads[1]);
    assert_eq!(host.store.inner.openers.threads(), 1);
    assert_eq!(host.disk.state.lock().unwrap().by_serving, NOTHING);
}

#[test]
fn a_file_whose_name_the_kernel_has_in_memory_is_opened_without_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"bytes").unwrap();
    // The kernel may also refuse while it changes a directory on the way.
    let begun = Instant::now();
    let file = loop {
        match MachineDisk.open_to_read_now(&path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {}
            opened => break opened.unwrap(),
        }
    };
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"bytes");
}
