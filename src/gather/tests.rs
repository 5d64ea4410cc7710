//! Gatherings without a world: holders that answer as a test says.

use super::*;
use crate::application::{Outbox, Received};
use crate::limits::{GATHER_AHEAD_BYTES, GATHER_FLIGHT_BYTES_MIN, GATHER_STALL_MS, GATHER_WINDOW_BYTES};
use crate::queue::{AppPort, Ask, Charge, Command, Sleeper, WorkerPort, rings};
use crate::record::{Fetch, OkRecord, Record, Request};
use crate::token::{GROUP_BYTES_U64, Token};
use bytes::Bytes;
use std::ops::Range;
use std::time::Duration;

const MIB: u64 = 1 << 20;

struct Bench {
    gather: Gather,
    /// Of each worker.
    lines: Vec<Line>,
    begun: Instant,
    now: Instant,
    length: u64,
    /// The requests without an answer, in their order.
    asked: Vec<(RequestId, Fetch)>,
    canceled: Vec<RequestId>,
    /// Where the bytes lie that were handed on, and the end.
    pieces: Vec<Range<u64>>,
    end: Option<Result<(), ErrorCode>>,
}

/// The rings between a gathering and one of its workers.
struct Line {
    outbox: Outbox<()>,
    app: AppPort,
    worker: WorkerPort,
}

fn connection(slot: u32) -> ConnectionId {
    ConnectionId { worker: 0, slot, generation: 1 }
}

fn source(slot: u32) -> GatherSource {
    GatherSource { connection: connection(slot), remote: None, node: None, route: None, lanes: None }
}

fn token() -> AnyToken {
    Token::of(b"").into()
}

impl Bench {
    fn of(gather: Gather, length: u64) -> Self {
        Self::on_workers(1, gather, length)
    }

    fn on_workers(workers: usize, gather: Gather, length: u64) -> Self {
        let line = || {
            let (app, worker) = rings(Sleeper::default().waker());
            Line { outbox: Outbox::default(), app, worker }
        };
        let now = Instant::now();
        Self {
            gather,
            lines: std::iter::repeat_with(line).take(workers).collect(),
            begun: now,
            now,
            length,
            asked: Vec::new(),
            canceled: Vec::new(),
            pieces: Vec::new(),
            end: None,
        }
    }

    fn from_holders(holders: u32, length: u64) -> Self {
        Self::of(Gather::new(token(), Want::Payload, (0..holders).map(source).collect()), length)
    }

    /// Lets the gathering send requests, and notes them; its events are not taken.
    fn poll(&mut self) {
        (0..self.lines.len()).for_each(|worker| self.poll_on(worker));
    }

    fn poll_on(&mut self, worker: usize) {
        let Line { outbox, app, worker: port } = &mut self.lines[worker];
        self.gather.poll_on(worker as u16, self.now, &mut outbox.asker(app, ()));
        while let Some(command) = port.command() {
            let owner = command.connection().map(|connection| usize::from(connection.worker));
            assert_eq!(owner, Some(worker), "a worker gets the commands of its own connections");
            match command {
                Command::Ask(request, ask) => {
                    let Ask { routed, .. } = *ask;
                    let Request::Fetch(fetch) = routed.request else { panic!("a gathering fetches") };
                    self.asked.push((request, fetch));
                }
                Command::End(request, _) => {
                    self.canceled.push(request);
                    self.asked.retain(|(asked, _)| *asked != request);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes all events.
    fn take(&mut self) {
        while let Some(event) = self.gather.poll_event() {
            match event {
                GatherEvent::Piece(piece) => {
                    self.pieces.push(piece.offset..piece.offset + piece.data.len() as u64);
                }
                GatherEvent::Done => self.end = Some(Ok(())),
                GatherEvent::Failed(failure) => self.end = Some(Err(failure.code)),
                _ => {}
            }
        }
    }

    fn turn(&mut self) {
        self.poll();
        self.take();
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn deliver(&mut self, delivery: Delivery) {
        let worker = delivery.request().map_or(0, |request| request.connection.worker);
        let Line { outbox, app, worker } = &mut self.lines[usize::from(worker)];
        worker.deliver(delivery);
        while let Some(received) = outbox.receive(app) {
            let Received::Own((), delivery) = received else { panic!("of no request") };
            self.gather.handle(self.now, delivery);
        }
    }

    /// The bytes that a FETCH asks for.
    fn bytes_of(&self, fetch: &Fetch) -> Range<u64> {
        let groups = fetch.ranges.iter().next().unwrap_or(0..0);
        groups.start * GROUP_BYTES_U64..(groups.end * GROUP_BYTES_U64).min(self.length)
    }

    fn flight_bytes(&self) -> u64 {
        let bytes = self.asked.iter().map(|(_, fetch)| self.bytes_of(fetch));
        bytes.map(|bytes| bytes.end - bytes.start).sum()
    }

    /// Answers a request with OK, and its bytes or some of them.
    fn answer_part(&mut self, request: RequestId, bytes: Range<u64>) {
        let ok = OkRecord { length_bytes: self.length, descriptor: None };
        self.deliver(Delivery::Answered(request, Answer::Ok(ok)));
        let data = Bytes::from(vec![0; (bytes.end - bytes.start) as usize]);
        let piece = VerifiedPiece { offset: bytes.start, data, proofs: Vec::new() };
        self.deliver(Delivery::Piece { request, shard: None, piece, charge: Charge::default() });
    }

    /// Answers the open request number `at` completely.
    fn answer(&mut self, at: usize) {
        let (request, fetch) = self.asked.remove(at);
        if fetch.describe {
            let ok = OkRecord { length_bytes: self.length, descriptor: None };
            self.deliver(Delivery::Answered(request, Answer::Ok(ok)));
        } else {
            let bytes = self.bytes_of(&fetch);
            self.answer_part(request, bytes);
        }
        self.deliver(Delivery::Ended(request, End::Checked));
    }

    fn fail(&mut self, at: usize, code: ErrorCode) {
        let (request, _) = self.asked.remove(at);
        self.deliver(Delivery::Ended(request, End::Failed(ErrorRecord::new(code, 0, "no"))));
    }

    /// Runs over a path of this round trip and rate, in steps of a millisecond, until the end or for `millis`. Gives the most that was in
    /// flight.
    fn run(&mut self, round_trip_ms: u64, bytes_per_ms: u64, millis: u64) -> u64 {
        let (mut due, mut most) = (VecDeque::new(), 0);
        let mut budget = 0;
        for at in 0..millis {
            self.turn();
            due.extend(self.asked.drain(..).map(|(request, fetch)| (at + round_trip_ms, request, fetch)));
            let flight = due.iter().map(|(_, _, fetch)| self.bytes_of(fetch));
            most = most.max(flight.map(|bytes| bytes.end - bytes.start).sum());
            if self.end.is_some() {
                break;
            }
            budget += bytes_per_ms;
            while let Some((_, request, fetch)) = due.front().filter(|(from, ..)| *from <= at).cloned() {
                let bytes = self.bytes_of(&fetch);
                if bytes.end - bytes.start > budget {
                    break;
                }
                budget -= bytes.end - bytes.start;
                due.pop_front();
                self.asked.insert(0, (request, fetch));
                self.answer(0);
            }
            budget = budget.min((4 * MIB).max(bytes_per_ms));
            self.pass(1);
        }
        most
    }
}

#[test]
fn a_short_path_has_three_windows_in_flight() {
    let mut bench = Bench::from_holders(1, 200 * MIB);
    assert_eq!(bench.run(1, 2 * MIB, 10_000), GATHER_FLIGHT_BYTES_MIN);
    assert_eq!(bench.end, Some(Ok(())));
}

#[test]
fn a_long_path_is_filled_up_to_the_ceiling_and_no_further() {
    // 0.3 MiB a millisecond x 100 ms: 30 MiB a round trip.
    let mut bench = Bench::from_holders(1, 400 * MIB);
    let most = bench.run(100, 3 * MIB / 10, 10_000);
    assert_eq!(bench.end, Some(Ok(())));
    assert!((60 * MIB..110 * MIB).contains(&most), "{} MiB in flight", most / MIB);
    // All but the first round trips are full.
    let millis = bench.now.duration_since(bench.begun).as_millis();
    assert!(millis < 400 * 10 / 3 + 700, "{millis} ms");
    let mut bench = Bench::from_holders(1, 3000 * MIB);
    let most = bench.run(200, 4 * MIB, 2_000);
    assert!((200 * MIB..=crate::limits::GATHER_FLIGHT_BYTES_MAX + 16 * MIB).contains(&most), "{most}");
}

#[test]
fn one_request_may_wait_as_long_as_its_holder_delivers_others() {
    let mut bench = Bench::from_holders(2, 400 * MIB);
    bench.turn();
    bench.answer(0);
    bench.turn();
    let waiting = bench.asked[1].0;
    assert_ne!(bench.asked[0].0.connection, waiting.connection, "each holder is asked in turn");
    let others = |bench: &Bench| {
        bench
            .asked
            .iter()
            .position(|(request, _)| *request != waiting && request.connection == waiting.connection)
    };
    for _ in 0..3 {
        bench.pass(GATHER_STALL_MS - 1);
        // The other holder is not what this is about.
        while let Some(at) = bench.asked.iter().position(|(asked, _)| asked.connection != waiting.connection)
        {
            bench.answer(at);
        }
        bench.answer(others(&bench).expect("others are asked of it"));
        bench.turn();
        assert!(!bench.canceled.contains(&waiting));
    }
    bench.pass(GATHER_STALL_MS);
    bench.turn();
    assert!(bench.canceled.contains(&waiting), "a holder that sends nothing has stalled");
}

#[test]
fn a_holder_that_sends_nothing_is_dropped() {
    let mut bench = Bench::from_holders(1, 400 * MIB);
    for _ in 0..2 {
        bench.turn();
        assert_eq!(bench.asked.len(), 1);
        assert_eq!(bench.gather.poll_timeout(), Some(bench.now + Duration::from_millis(GATHER_STALL_MS)));
        bench.pass(GATHER_STALL_MS);
    }
    bench.turn();
    assert_eq!(bench.end, Some(Err(ErrorCode::UpstreamFailed)));
}

#[test]
fn a_holder_that_is_busy_gets_fewer_requests_and_every_byte_comes() {
    let mut bench = Bench::from_holders(1, 64 * MIB);
    bench.turn();
    bench.answer(0);
    bench.turn();
    bench.turn();
    // The end of the payload proves its length.
    bench.answer(0);
    bench.turn();
    assert_eq!(bench.asked.len(), 3);
    bench.fail(2, ErrorCode::Busy);
    bench.turn();
    assert_eq!(bench.asked.len(), 2, "it answers others");
    while bench.end.is_none() {
        bench.answer(0);
        bench.turn();
        bench.pass(1);
    }
    assert_eq!(bench.end, Some(Ok(())));
    bench.pieces.sort_by_key(|piece| piece.start);
    let mut at = 0;
    assert!(bench.pieces.iter().all(|piece| piece.start == std::mem::replace(&mut at, piece.end)));
    assert_eq!(at, bench.length);
}

#[test]
fn a_host_that_takes_nothing_stops_the_requests() {
    let mut bench = Bench::from_holders(1, 400 * MIB);
    bench.turn();
    bench.answer(0);
    let mut asked_bytes = 0;
    for _ in 0..100 {
        bench.poll();
        asked_bytes += bench.flight_bytes();
        while !bench.asked.is_empty() {
            bench.answer(bench.asked.len() - 1);
        }
        bench.pass(1);
    }
    let most = GATHER_AHEAD_BYTES as u64 + GATHER_FLIGHT_BYTES_MIN + GATHER_WINDOW_BYTES;
    assert!(asked_bytes <= most, "{asked_bytes}");
    bench.take();
    bench.poll();
    assert!(!bench.asked.is_empty(), "it goes on once they are taken");
}

#[test]
fn a_gathering_that_failed_says_what_each_holder_did_and_where_it_is() {
    let remote = |slot: u32| Some(std::net::SocketAddr::from(([192, 0, 2, 1], 4433 + slot as u16)));
    let sources = (0..3).map(|slot| GatherSource { remote: remote(slot), ..source(slot) }).collect();
    let mut bench = Bench::of(Gather::new(token(), Want::Payload, sources), MIB);
    bench.turn();
    // One refuses with a text that would act on a terminal, one goes, one is silent.
    let mut body = Vec::new();
    ErrorRecord::new(ErrorCode::NotFound, 0, "no\u{1b}]0;done\u{7}\u{202e}").emit(&mut body);
    let refusal = ErrorRecord::parse(&body).unwrap();
    while let Some(at) = bench.asked.iter().position(|(asked, _)| asked.connection == connection(0)) {
        let (request, _) = bench.asked.remove(at);
        bench.deliver(Delivery::Ended(request, End::Failed(refusal.clone())));
    }
    bench.gather.closed(connection(1), &CloseReason::TimedOut);
    while bench.end.is_none() {
        bench.turn();
        bench.pass(GATHER_STALL_MS);
        assert!(bench.now < bench.begun + Duration::from_secs(3600), "it ends");
    }
    let told: Vec<_> = bench.gather.report().iter().map(ToString::to_string).collect();
    let holder = |slot: u32| format!("a gateway without a certificate at {}", remote(slot).unwrap());
    assert!(told.iter().zip(0..).all(|(told, slot)| told.starts_with(&holder(slot))), "{told:?}");
    assert!(told[0].ends_with(r", then not found: no\u{1b}]0;done\u{7}\u{202e}"), "{told:?}");
    assert!(
        told[1].contains(", then was gone: the peer has not answered within the idle timeout"),
        "{told:?}"
    );
    assert!(told[2].contains(", then was dropped: 2 requests got no byte of it for 5 s"), "{told:?}");
}

/// A holder on each of two workers.
fn on_two_workers(length: u64) -> Bench {
    let sources = (0..2).map(|worker| {
        let connection = ConnectionId { worker, ..connection(0) };
        GatherSource { connection, ..source(0) }
    });
    Bench::on_workers(2, Gather::new(token(), Want::Payload, sources.collect()), length)
}

#[test]
fn the_workers_of_a_gathering_share_its_windows() {
    let mut bench = on_two_workers(256 * MIB);
    let mut asked = [0; 2];
    while bench.end.is_none() {
        bench.turn();
        for (request, fetch) in &bench.asked {
            let bytes = bench.bytes_of(fetch);
            asked[usize::from(request.connection.worker)] += bytes.end - bytes.start;
        }
        while !bench.asked.is_empty() {
            bench.answer(0);
        }
        bench.take();
        bench.pass(1);
    }
    assert_eq!(bench.end, Some(Ok(())));
    assert!(asked.iter().all(|bytes| *bytes > 100 * MIB), "{asked:?}");
    bench.pieces.sort_by_key(|piece| piece.start);
    let mut at = 0;
    assert!(bench.pieces.iter().all(|piece| piece.start <= std::mem::replace(&mut at, piece.end)));
    assert_eq!(at, bench.length);
    assert!(bench.gather.is_told());
}

/// Answers every request until the gathering ends.
fn answer_to_the_end(bench: &mut Bench) {
    while bench.end.is_none() {
        bench.turn();
        while !bench.asked.is_empty() {
            bench.answer(0);
        }
        bench.take();
        bench.pass(1);
    }
}

#[test]
fn a_worker_without_a_holder_waits_for_the_others() {
    let mut bench = on_two_workers(64 * MIB);
    // No request is in flight when the first worker loses its holder, and the other worker has not looked yet.
    bench.gather.closed(ConnectionId { worker: 0, ..connection(0) }, &CloseReason::Reset);
    bench.poll_on(0);
    bench.take();
    assert!(bench.end.is_none() && bench.asked.is_empty());
    answer_to_the_end(&mut bench);
    assert_eq!(bench.end, Some(Ok(())));
}

#[test]
fn the_requests_of_a_lost_holder_go_to_another_worker() {
    let mut bench = on_two_workers(64 * MIB);
    bench.turn();
    bench.answer(0);
    bench.turn();
    assert!(bench.asked.iter().any(|(request, _)| request.connection.worker == 0));
    bench.gather.closed(ConnectionId { worker: 0, ..connection(0) }, &CloseReason::Reset);
    bench.asked.retain(|(request, _)| request.connection.worker == 1);
    answer_to_the_end(&mut bench);
    assert_eq!(bench.end, Some(Ok(())));
    let mut covered = bench.pieces.clone();
    covered.sort_by_key(|piece| piece.start);
    let end = covered.iter().fold(0, |end, piece| if piece.start <= end { end.max(piece.end) } else { end });
    assert_eq!(end, bench.length);
}
