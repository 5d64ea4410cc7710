//! What must hold in a world at any time, and at its end.

use super::{Asked, CALM, Open, Simulation};
use crate::samples::{Sample, samples};
use crate::support::caller::{Caller, End};
use crate::support::{ApplicationHost, DISCARD, identities};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{HALF_OPEN_LEN_MAX, HALF_OPEN_UNPROVEN_LEN_MAX};

/// What a connection may hold beyond its window, bytes: the records in its hands, and what each piece costs beside its bytes.
const HELD_PAST_WINDOW_BYTES: u64 = 8 << 20;

/// Counts of hosts.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    received: u64,
    sent: u64,
    /// Handshakes that were completed by the side that was asked, and by the side that began.
    accepted: u64,
    begun: u64,
}

impl Tally {
    pub(super) fn add(&mut self, host: &ApplicationHost) {
        self.received += host.count(Counter::RxPackets);
        self.sent += host.count(Counter::TxPackets);
        let sum = |counters: [Counter; 2]| counters.map(|counter| host.count(counter)).iter().sum::<u64>();
        self.accepted += sum([Counter::HandshakesServerCompleted, Counter::HandshakesServerEarly]);
        self.begun += sum([Counter::HandshakesClientCompleted, Counter::HandshakesClientEarly]);
    }
}

impl Simulation {
    /// Compares what was delivered since the last look, and notes what was confirmed.
    pub(super) fn look(&mut self) {
        self.assail();
        let Self { world, open, promises, .. } = self;
        let mut over = Vec::new();
        open.retain_mut(|open| {
            let end = look_at(world.caller(&open.peer), open);
            if let Some(End::Done { token, .. }) = &end {
                let promise = promises[open.at].entry(*token).or_default();
                promise.until_s = Some(u64::MAX);
                if let Asked::Lanes(lanes) = open.asked {
                    promise.lanes = promise.lanes.union(lanes);
                }
            }
            if end.is_none() && world.caller(&open.peer).closed(&open.peer).is_none() {
                return true;
            }
            let outcome = match end {
                Some(End::Located(holders)) => format!("{} holders", holders.len()),
                end => format!("{end:?}"),
            };
            over.push(format!("{:?} at {}: {outcome}", open.asked, open.at));
            false
        });
        over.into_iter().for_each(|end| self.note(end));
        for (client, compared) in self.messages.iter_mut().enumerate() {
            let messages = &self.world.clients[client].callers[0].messages;
            for (_, queue, message) in &messages[*compared..] {
                let is_sent =
                    *queue == DISCARD || samples().payloads.iter().any(|sample| sample.bytes == *message);
                assert!(is_sent, "another message comes back");
            }
            *compared = messages.len();
        }
        let (stats, messages) = (self.world.link.stats(), self.messages.clone());
        self.note(format_args!("{stats:?}, messages {messages:?}"));
    }

    /// Whether all requests have ended; those that gather, with the payload.
    pub(super) fn is_over(&self) -> bool {
        let gathers = self.world.clients.iter().filter_map(|client| client.callers[0].gathering.as_ref());
        let (open, over): (Vec<_>, Vec<_>) = gathers.partition(|gathering| gathering.end.is_none());
        for gathering in over {
            if gathering.end == Some(Ok(())) {
                let payload = gathering.payload();
                let is_put = samples().payloads.iter().any(|sample| sample.bytes == payload);
                assert!(is_put, "other bytes are gathered");
            }
        }
        self.open.is_empty() && open.is_empty()
    }

    /// The bounds that hold at any time.
    pub(super) fn bounds(&mut self) {
        let asked: Vec<_> =
            (0..self.setup.gateways).map(|gateway| self.world.gateway(gateway).inspect()).collect();
        self.world.pass(Duration::from_micros(20));
        let (mut held_bytes, mut requests) = (0, 0);
        for view in asked.into_iter().flat_map(|answer| answer()) {
            held_bytes += view.held_bytes as usize;
            requests += view.requests;
            let most_bytes = view.receive_window_bytes + HELD_PAST_WINDOW_BYTES;
            assert!(view.held_bytes <= most_bytes, "a connection holds {} bytes: {view:?}", view.held_bytes);
        }
        let forwarded: u64 = (0..self.setup.gateways)
            .map(|index| self.world.gateway(index).count(Counter::HopsForwarded))
            .sum();
        assert!(forwarded <= self.places, "{forwarded} requests are forwarded at {} places", self.places);
        for index in 0..self.setup.gateways {
            let gateway = self.world.gateway(index);
            let budget = &gateway.shared.window_budget;
            let (taken, total) = (budget.taken_bytes(), budget.total_bytes());
            assert!(total == 0 || taken <= total, "gateway {index}: windows take {taken} bytes of {total}");
            let gauges = &gateway.status(0).gauges;
            assert!(gauges.half_open.load(Relaxed) <= HALF_OPEN_LEN_MAX);
            assert!(gauges.half_open_unproven.load(Relaxed) <= HALF_OPEN_UNPROVEN_LEN_MAX);
            let store = &self.world.stores[index];
            let (usage, capacity) = (store.usage_bytes(), store.capacity_bytes());
            assert!(capacity.is_none_or(|capacity| usage <= capacity), "gateway {index}: {usage} bytes");
        }
        self.sums();
        self.assert_memory(held_bytes, requests);
    }

    /// All connections end, and everything that was taken for them is given back.
    pub(super) fn close(&mut self) {
        for index in 0..self.setup.gateways {
            self.world.gateway(index).shared.close();
        }
        for client in &self.world.clients {
            client.shared.close();
        }
        let gateways = self.setup.gateways;
        // QUIC keeps a closed connection for three PTOs, which are long after a bad path.
        self.world.run(CALM, "connections end", |world| {
            (0..gateways).all(|index| world.gateway(index).connections() == 0)
        });
        for index in 0..gateways {
            let nodes = identities().each_ref().map(|identity| identity.node_id());
            let gateway = self.world.gateway(index);
            assert_eq!(gateway.shared.window_budget.taken_bytes(), 0, "gateway {index} keeps windows");
            for node in nodes {
                assert_eq!(gateway.shared.node_seats.taken(&node), 0, "gateway {index} keeps seats");
            }
        }
        self.last_sums();
    }

    /// What was sent, and what was received, is counted once, and each handshake has a client that completed it. Returns how many
    /// frames were counted as received.
    fn sums(&mut self) -> u64 {
        let mut tally = self.crashed;
        for index in 0..self.setup.gateways {
            tally.add(self.world.gateway(index));
        }
        self.world.clients.iter().for_each(|client| tally.add(client));
        for raw in &self.world.raw {
            tally.received += raw.counters.get(Counter::RxPackets);
            tally.sent += raw.counters.get(Counter::TxPackets);
            tally.begun += u64::from(raw.connected);
        }
        let stats = self.world.link.stats();
        assert_eq!(tally.sent + self.forged, stats.sent, "each frame that was sent is counted once");
        assert!(tally.received <= stats.delivered, "frames are counted that did not arrive");
        let Tally { accepted, begun, .. } = tally;
        assert!(
            accepted <= begun,
            "{accepted} handshakes are completed, and clients complete {begun}: a replay or a forgery did"
        );
        tally.received
    }

    /// The same at the end, where every frame that arrived was taken.
    fn last_sums(&mut self) {
        let received = self.sums();
        let stats = self.world.link.stats();
        // The queues of dead gateways, and of peers and stations that take nothing, keep some.
        let takes_all =
            self.crashes == 0 && self.forger.is_none() && self.world.raw.iter().all(|raw| !raw.withdrawn);
        assert!(!takes_all || received == stats.delivered, "each frame that arrived is counted once");
        self.note(format_args!("{stats:?}"));
    }
}

/// Compares the pieces of a request that have arrived since the last look; returns its end.
fn look_at(caller: &Caller, open: &mut Open) -> Option<End> {
    let request = caller.request(open.request);
    let Asked::Sample(sample) = open.asked else {
        if let Some(End::Done { token, .. }) = request.end {
            assert_eq!(token, samples().descriptor.set_token().into());
        }
        return request.end.clone();
    };
    let Sample { bytes, token, .. } = &samples().payloads[sample];
    for (offset, piece) in &request.pieces[open.compared..] {
        let at = *offset as usize;
        let is_right = bytes.get(at..at + piece.len()).is_some_and(|right| right == piece);
        assert!(is_right, "other bytes of {token} are delivered");
    }
    open.compared = request.pieces.len();
    match &request.end {
        Some(End::Done { token: done, .. }) => assert_eq!(*done, (*token).into()),
        Some(End::Complete) => assert_eq!(request.bytes(), bytes.len(), "{token} is not whole"),
        _ => {}
    }
    request.end.clone()
}
