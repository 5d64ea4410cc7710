//! The relay without a worker.

use super::*;
use crate::limits::{FLOWS_LEN_PER_TURN_MAX, RELAY_STALL_MS, RELAY_WAITING_LEN_MAX};
use crate::queue::{Sleeper, WorkerPort, rings};
use crate::record::Hop;

const REQUESTS: usize = 128_000;
const GATEWAYS: usize = 64;

struct Bench {
    relay: Relay,
    app: AppPort,
    worker: WorkerPort,
    now: Instant,
    /// Whether the gateways are dialed later than a request waits.
    far: bool,
    asked: usize,
    refused: Vec<ErrorCode>,
}

impl Bench {
    fn new() -> Self {
        let (app, worker) = rings(Sleeper::default().waker());
        let relay = Relay::new(Arc::default(), None);
        Self { relay, app, worker, now: Instant::now(), far: false, asked: 0, refused: Vec::new() }
    }

    /// A peer's request that goes through one of some dead gateways.
    fn ask(&mut self) -> RequestId {
        self.ask_through((self.asked % GATEWAYS) as u8)
    }

    fn ask_through(&mut self, gateway: u8) -> RequestId {
        let next = NodeId([gateway; 32]);
        let connection = ConnectionId { worker: 0, slot: (self.asked % 7) as u32, generation: 1 };
        let request = RequestId::peer(connection, self.asked as u64);
        let hop = Hop {
            cache: false,
            hop_limit: 2,
            nonce: [0; 16],
            budget_bytes: 0,
            cursor: 0,
            route: smallvec![next],
        };
        let forward = Forward {
            next,
            hop: Box::new(hop),
            fetch: None,
            answer: Credit::default(),
            onward: Credit::default(),
        };
        self.asked += 1;
        self.worker.deliver(Delivery::Forward(request, Box::new(forward)));
        request
    }

    /// The turns of relay and worker until neither has work.
    fn turn(&mut self) {
        while self.relay.poll(self.now, &mut self.app) {
            while let Some(command) = self.worker.command() {
                match command {
                    Command::Reach(node) if self.far => self.worker.deliver(Delivery::Unreachable(node)),
                    Command::End(_, Ending::Refuse(failure)) => self.refused.push(failure.code),
                    _ => {}
                }
            }
            self.worker.push_held();
        }
    }

    fn pass(&mut self, wait: Duration) {
        self.now += wait;
        self.turn();
    }
}

#[test]
fn requests_through_dead_gateways_cost_a_constant_number_of_steps_each() {
    let mut bench = Bench::new();
    while bench.asked < REQUESTS {
        // A dead gateway is dialed at times; otherwise its requests are refused at once.
        bench.far = bench.asked / 8_000 % 2 == 1;
        for _ in 0..100 {
            bench.ask();
        }
        bench.pass(Duration::from_millis(1));
        assert!(bench.relay.flows.len() <= GATEWAYS * RELAY_WAITING_LEN_MAX);
        assert!(!bench.far || bench.relay.flows.is_empty(), "refused at once");
    }
    bench.pass(Duration::from_millis(RELAY_REACH_MS));
    assert_eq!(bench.refused.len(), REQUESTS, "each is refused once");
    assert!(bench.relay.flows.is_empty() && bench.relay.waiting.poll_timeout().is_none());
    let steps = bench.relay.waiting.steps;
    assert!(steps <= 2 * REQUESTS, "{steps} steps for {REQUESTS} requests");
}

#[test]
fn a_request_that_is_over_leaves_its_place_to_another() {
    let mut bench = Bench::new();
    let ask = |bench: &mut Bench| {
        let request = bench.ask_through(1);
        bench.turn();
        request
    };
    let requests: Vec<_> = (0..RELAY_WAITING_LEN_MAX).map(|_| ask(&mut bench)).collect();
    ask(&mut bench);
    assert_eq!(bench.refused, [ErrorCode::Busy], "all places are taken");
    let canceled = ErrorRecord::new(ErrorCode::None, 0, "");
    // The first one, so that the first end is another; and the last.
    for request in [requests[0], requests[RELAY_WAITING_LEN_MAX - 1]] {
        bench.worker.deliver(Delivery::Ended(request, End::Failed(canceled.clone())));
        bench.pass(Duration::from_millis(1));
        ask(&mut bench);
    }
    assert_eq!(bench.refused, [ErrorCode::Busy], "a place was free");
    bench.pass(Duration::from_millis(RELAY_REACH_MS));
    assert_eq!(bench.refused.len(), 1 + RELAY_WAITING_LEN_MAX);
    assert!(bench.relay.flows.is_empty() && bench.relay.waiting.poll_timeout().is_none());
}

#[test]
fn flows_are_looked_at_in_parts_and_all_of_them_in_a_round() {
    const FLOWS: usize = 1000;
    let mut bench = Bench::new();
    for _ in 0..FLOWS {
        bench.ask();
        bench.turn();
    }
    // The part of a round that has begun.
    bench.pass(Duration::from_millis(RELAY_STALL_MS / 10));
    bench.relay.looks = 0;
    bench.now += Duration::from_millis(RELAY_STALL_MS / 10);
    assert!(bench.relay.poll(bench.now, &mut bench.app), "flows are left to look at");
    assert_eq!(bench.relay.looks, FLOWS_LEN_PER_TURN_MAX);
    bench.turn();
    assert!((FLOWS..2 * FLOWS + 64).contains(&bench.relay.looks), "{} looks", bench.relay.looks);
    let looks = bench.relay.looks;
    bench.turn();
    assert_eq!(bench.relay.looks, looks, "the next round has its time");
}
