//! What the model does among many flows on a short path: it gives way to CUBIC.
//!
//! The queue of a switch lasts a millisecond or less. Over a path of milliseconds that is the time that acknowledgments differ by anyway, so the model's
//! delays do not show it; and where each of many flows has a few packets of it, the slack of a window alone is more than that. What the flows of such a
//! path all see is its losses. A flow that meets the full buffer while it does not probe follows them as CUBIC does (RFC 9438), and tries the model again
//! after a while. Over a longer path CUBIC would take minutes to mend what chance takes, so the model stays.

use super::algorithm::CongestionAlgorithm;
use super::cubic::Cubic;
use super::round::Round;
use std::time::{Duration, Instant};

/// A path is short whose round trip is shorter: CUBIC mends a loss there within seconds.
const SHORT_RTT: Duration = Duration::from_millis(12);
/// A flow that every packet of waited longer, as a part of the round trip and at least, has a queue before it.
const WAIT_DIVISOR: u32 = 16;
const WAIT_MIN: Duration = Duration::from_micros(100);
/// A queue that stands for these rounds without a probe is of others, who fill the buffer.
const STANDING_ROUNDS: u32 = 8;
/// Where a round delivers fewer packets, losses are counted over several rounds: one has too few to tell congestion from chance.
const SHARE_PACKETS: u64 = 384;
const TALLY_PACKETS: u64 = 1024;
/// How long CUBIC has the flow, and how much longer at most: flows that began together do not try the model together.
const SPAN: Duration = Duration::from_secs(10);
const SPAN_MORE_MS: u64 = 10_000;
/// The least window at the start, packets.
const PACKETS_MIN: u64 = 4;

/// What the model knows of its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelView {
    pub(super) min_rtt: Duration,
    /// Bytes.
    pub(super) window: u64,
    /// Bytes.
    pub(super) mtu: u16,
    /// The last probe lost packets.
    pub(super) has_overflowed: bool,
}

/// What a flow knows of the others on its path.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    /// Of rounds without a probe.
    tally: Round,
    /// Rounds in a row whose packets all waited.
    standing: u32,
    /// Some of these rounds lost packets.
    has_lost: bool,
    /// The controller that has the flow, and until when.
    cubic: Option<(Cubic, Instant)>,
}

impl Crowd {
    /// The controller that has the flow among many others.
    pub(super) fn cubic(&mut self) -> Option<&mut Cubic> {
        self.cubic.as_mut().map(|(cubic, _)| cubic)
    }

    /// CUBIC's window while it has the flow, bytes.
    pub(super) fn window(&self) -> Option<u64> {
        self.cubic.as_ref().map(|(cubic, _)| cubic.window())
    }

    /// A round of the model is over that was no probe. Returns whether CUBIC has the flow from now on.
    pub(super) fn on_round(&mut self, now: Instant, round: &Round, model: &ModelView, random: u64) -> bool {
        let mtu = u64::from(model.mtu);
        let is_congested = self.count(round, mtu) && round.acked < SHARE_PACKETS * mtu;
        let wait = round.rtt.map_or(Duration::ZERO, |rtt| rtt.saturating_sub(model.min_rtt));
        let has_waited = wait > (model.min_rtt / WAIT_DIVISOR).max(WAIT_MIN);
        self.standing = if has_waited { self.standing + 1 } else { 0 };
        self.has_lost = has_waited && (self.has_lost || round.loss_events > 0);
        let met_full_buffer = self.standing >= STANDING_ROUNDS && (self.has_lost || model.has_overflowed);
        if model.min_rtt < SHORT_RTT && (is_congested || met_full_buffer) {
            let share = round.acked.max(PACKETS_MIN * mtu).min(model.window);
            let until = now + SPAN + Duration::from_millis(random % SPAN_MORE_MS);
            self.cubic = Some((Cubic::resumed(share, model.mtu), until));
            self.standing = 0;
        }
        self.cubic.is_some()
    }

    /// Adds a round to the tally. Returns whether the rounds of it lost more than chance takes.
    fn count(&mut self, round: &Round, mtu: u64) -> bool {
        let tally = &mut self.tally;
        tally.acked += round.acked;
        tally.lost += round.lost;
        tally.loss_events += round.loss_events;
        tally.marked |= round.marked;
        let is_congested = tally.is_surely_congested(mtu);
        if is_congested || tally.acked + tally.lost >= TALLY_PACKETS * mtu {
            *tally = Round::default();
        }
        is_congested
    }

    /// A round of CUBIC's is over. Returns whether the model has the flow again.
    pub(super) fn on_cubic_round(&mut self, now: Instant) -> bool {
        self.cubic.take_if(|(_, until)| now >= *until).is_some()
    }
}
