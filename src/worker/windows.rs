//! The windows of a connection, fitted to its path while it runs.
//!
//! A window must hold the bytes that move in a round trip, and those that wait behind a loss until the loss is mended. Neither number is
//! known before the connection runs. A window starts small. Once the peer is known and bytes flow, it gets the configured size, and from then on
//! it is four times the bytes that moved in the last round trip: a connection that uses its window up multiplies it each round trip, and one that
//! does not use it keeps it. All windows come out of one budget a process, in which each node has a share. A node that holds more than what is
//! left has its windows halved at each look.

use super::budget::{Budget, BudgetUse, Share, ShareStanding, ShareView};
use super::conn::Conn;
use crate::limits::{
    ANSWERS_BYTES_MAX, ANSWERS_BYTES_MIN, WINDOW_QUIET_MS, WINDOW_ROUND_MS_MIN, WINDOW_TRIPS_LEN,
};
use crate::quic::transport::Windows;
use crate::tls::NodeId;
use quinn_proto::{Connection, ConnectionStats, Side};
use std::time::{Duration, Instant};

/// A shorter round trip counts as this long: over less time, the counts of bytes say little, and a consumer may pause for as long.
const ROUND_MIN: Duration = Duration::from_millis(WINDOW_ROUND_MS_MIN);
/// Bytes begin to flow with this many STREAM frames: probes of the path and acknowledgments have none.
const FLOW_FRAMES: u64 = 8;
/// Bytes still flow where this many moved in a span.
const FLOW_BYTES: u64 = 16 * 1024;
/// The time between two looks whether bytes begin to flow.
const OPENING_STEP: Duration = Duration::from_millis(1);
/// What answers and messages hold is counted in steps of this many bytes.
const STEP_BYTES: u64 = 256 * 1024;
const QUIET: Duration = Duration::from_millis(WINDOW_QUIET_MS);

/// The windows of one connection, in both directions, and what else is held for its peer.
#[derive(Debug)]
pub(super) struct Fitted {
    receive: Window,
    send: Window,
    answers: Share,
    messages: Share,
    /// Whether the handshake is complete.
    is_known: bool,
    /// When the present span began, and when it ends: half a round trip, over which the windows are fitted.
    began: Instant,
    ends: Instant,
    /// The time of the next look.
    due: Instant,
}

/// The sizes of a window, bytes.
#[derive(Clone, Copy, Debug)]
struct WindowSizes {
    min_bytes: u64,
    /// While bytes flow.
    opening_bytes: u64,
    max_bytes: u64,
}

/// One window.
#[derive(Debug)]
struct Window {
    sizes: WindowSizes,
    /// The part that is not counted: that of a peer which this node dialed itself.
    free_bytes: u64,
    bytes: u64,
    /// What is promised and held beyond it: earlier, larger windows that the peer may still use, or whose bytes wait to be read.
    debt_bytes: u64,
    /// What had moved by the last look.
    moved: Moved,
    /// When bytes last flowed.
    flowed: Option<Instant>,
    /// The time at which its present size was last needed.
    needed: Instant,
    share: Share,
}

/// What has moved on a connection in one direction so far.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    bytes: u64,
    stream_frames: u64,
}

/// What a look finds.
#[derive(Clone, Copy, Debug)]
struct Look {
    now: Instant,
    /// Whether a span is over.
    is_span: bool,
    /// Its time.
    elapsed: Duration,
    rtt: Duration,
    budget: ShareView,
}

/// What has been received and sent.
fn moved(stats: &ConnectionStats) -> (Moved, Moved) {
    let received = Moved { bytes: stats.udp_rx.bytes, stream_frames: stats.frame_rx.stream };
    (received, Moved { bytes: stats.udp_tx.bytes, stream_frames: stats.frame_tx.stream })
}

impl Window {
    fn new(sizes: WindowSizes, side: Side, share: Share, now: Instant) -> Self {
        let bytes = sizes.min_bytes;
        let free_bytes = if side.is_client() { bytes } else { 0 };
        Self {
            sizes,
            free_bytes,
            bytes,
            debt_bytes: 0,
            moved: Moved::default(),
            flowed: None,
            needed: now,
            share,
        }
    }

    /// The peer is known: the window that it has is counted for its node.
    fn known(&mut self, node: Option<NodeId>, moved: Moved) {
        self.moved = moved;
        self.share.set_holder(node);
        if self.share.is_bounded() {
            self.share.hold(self.bytes - self.free_bytes);
        }
    }

    /// Counts what is promised and held by it: a receive window is given back as its bytes are read.
    fn count(&mut self, outstanding_bytes: u64) {
        self.debt_bytes = outstanding_bytes.saturating_sub(self.bytes);
        self.hold();
    }

    fn hold(&mut self) {
        if self.share.is_bounded() {
            self.share.hold((self.bytes + self.debt_bytes).saturating_sub(self.free_bytes));
        }
    }

    /// Fits it to what has moved so far. Returns whether its size changed. `binds`: the peer may use all of a window
    /// that becomes smaller.
    fn fit(&mut self, look: Look, so_far: Moved, binds: bool) -> bool {
        let (now, sizes) = (look.now, self.sizes);
        if self.flowed.is_none() {
            let flows = so_far.stream_frames.saturating_sub(self.moved.stream_frames) >= FLOW_FRAMES;
            return flows && self.open(look, so_far, binds);
        }
        if !look.is_span {
            return false;
        }
        let moved = so_far.bytes.saturating_sub(std::mem::replace(&mut self.moved, so_far).bytes);
        if moved >= FLOW_BYTES {
            self.flowed = Some(now);
        }
        let in_round = moved as f64 * look.rtt.max(ROUND_MIN).as_secs_f64() / look.elapsed.as_secs_f64();
        let fitting = (in_round * f64::from(WINDOW_TRIPS_LEN)) as u64;
        let flows = self.flowed.is_some_and(|at| now.saturating_duration_since(at) < QUIET);
        let opening = if flows { look.budget.opening_bytes(sizes.opening_bytes) } else { 0 };
        let mut wanted = fitting.max(opening).clamp(sizes.min_bytes, sizes.max_bytes);
        if look.budget.standing != ShareStanding::Within {
            wanted = wanted.min(self.bytes / 2).max(sizes.min_bytes);
        } else if wanted >= self.bytes {
            self.needed = now;
        } else if now.saturating_duration_since(self.needed) < QUIET {
            return false;
        }
        self.resize(wanted, binds)
    }

    /// Bytes flow for the first time.
    fn open(&mut self, look: Look, so_far: Moved, binds: bool) -> bool {
        (self.flowed, self.needed, self.moved) = (Some(look.now), look.now, so_far);
        let opening = look.budget.opening_bytes(self.sizes.opening_bytes);
        look.budget.standing == ShareStanding::Within && self.resize(opening.max(self.bytes), binds)
    }

    fn resize(&mut self, wanted: u64, binds: bool) -> bool {
        let before = self.bytes;
        if self.share.is_bounded() {
            if binds {
                self.debt_bytes += before.saturating_sub(wanted);
            }
            let counted = self.share.resize((wanted + self.debt_bytes).saturating_sub(self.free_bytes));
            let granted = (counted + self.free_bytes).saturating_sub(self.debt_bytes);
            self.bytes = wanted.min(granted).max(self.sizes.min_bytes);
            self.hold();
        } else {
            self.bytes = wanted.min(self.sizes.opening_bytes);
        }
        self.bytes != before
    }
}

impl Fitted {
    pub(super) fn new(windows: Windows, side: Side, budget: &Budget, now: Instant) -> Self {
        let receive = WindowSizes {
            min_bytes: windows.connection_bytes,
            opening_bytes: windows.connection_opening_bytes,
            max_bytes: windows.connection_max_bytes,
        };
        let send = WindowSizes {
            min_bytes: windows.send_bytes,
            opening_bytes: windows.send_opening_bytes,
            max_bytes: windows.send_max_bytes,
        };
        Self {
            receive: Window::new(receive, side, Share::of(budget, BudgetUse::Receive), now),
            send: Window::new(send, side, Share::of(budget, BudgetUse::Send), now),
            answers: Share::of(budget, BudgetUse::Answers),
            messages: Share::of(budget, BudgetUse::Messages),
            is_known: false,
            began: now,
            ends: now,
            due: now,
        }
    }

    /// The peer's handshake is complete: its node holds what the connection holds from now on. The send window is open at once: unlike the
    /// receive window it can be taken back.
    fn known(&mut self, now: Instant, node: Option<NodeId>, quic: &Connection) {
        let stats = quic.stats();
        let (received, sent) = moved(&stats);
        self.receive.known(node, received);
        self.send.known(node, sent);
        self.answers.set_holder(node);
        self.messages.set_holder(node);
        self.is_known = true;
        let budget = self.send.share.view();
        let look = Look { now, is_span: false, elapsed: ROUND_MIN, rtt: stats.path.rtt, budget };
        self.send.open(look, sent, false);
    }

    /// The receive window, bytes.
    pub(super) fn receive_bytes(&self) -> u64 {
        self.receive.bytes
    }

    /// The send window, bytes.
    pub(super) fn send_bytes(&self) -> u64 {
        self.send.bytes
    }

    /// Whether it is time for a look: a span is over, or bytes have not flowed yet.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due && self.is_known
    }

    /// Fits both to the bytes that moved. `receivable_bytes` is what the peer may still send, and what it has sent and is not read. Returns the
    /// budget, and whether the receive window and the send window changed.
    fn look(&mut self, now: Instant, quic: &Connection, receivable_bytes: u64) -> (ShareView, bool, bool) {
        let stats = quic.stats();
        self.receive.count(receivable_bytes);
        let (is_span, rtt) = (now >= self.ends, stats.path.rtt);
        let elapsed = now.saturating_duration_since(self.began).max(ROUND_MIN);
        let look = Look { now, is_span, elapsed, rtt, budget: self.receive.share.view() };
        let (received, sent) = moved(&stats);
        let (received, sent) = (self.receive.fit(look, received, true), self.send.fit(look, sent, false));
        let flows = self.receive.flowed.is_some() && self.send.flowed.is_some();
        if is_span {
            // A window must be there before the congestion window that doubles each round trip, and the peer hears of it half a round trip later.
            (self.began, self.ends) = (now, now + (rtt / 2).max(ROUND_MIN));
        }
        self.due = if flows { self.ends } else { self.ends.min(now + OPENING_STEP) };
        (look.budget, received, sent)
    }
}

impl Conn {
    /// Notes that the peer is known.
    pub(super) fn know_peer(&mut self, now: Instant, node: Option<NodeId>) {
        self.fitted.known(now, node, &self.quic);
        self.quic.set_send_window(self.fitted.send_bytes());
        self.bound_answers(self.fitted.answers.view());
    }

    /// Fits what answers may have prepared to what the budget leaves.
    fn bound_answers(&mut self, budget: ShareView) {
        let bytes_max = budget.answers_bytes(ANSWERS_BYTES_MIN, ANSWERS_BYTES_MAX);
        self.session.set_bounds(bytes_max, budget.standing == ShareStanding::Refused);
    }

    /// Fits its windows, twice a round trip.
    #[inline]
    pub(super) fn fit_windows(&mut self, now: Instant) {
        if self.fitted.is_due(now) {
            self.fit_windows_now(now);
        }
    }

    #[cold]
    fn fit_windows_now(&mut self, now: Instant) {
        let (budget, received, sent) = self.fitted.look(now, &self.quic, self.session.receivable_bytes());
        if received {
            self.session.set_receive_window(&mut self.quic, self.fitted.receive_bytes());
        }
        if sent {
            self.quic.set_send_window(self.fitted.send_bytes());
            // Streams that wait for the send window learn of its room at the next acknowledgment.
        }
        let step = |bytes: usize| (bytes as u64).next_multiple_of(STEP_BYTES);
        self.fitted.answers.hold(step(self.session.answers_bytes()));
        self.fitted.messages.hold(step(self.session.messages_bytes()));
        self.bound_answers(budget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const RTT: Duration = Duration::from_millis(100);

    struct Path {
        window: Window,
        now: Instant,
        moved: Moved,
        /// Whether bytes are read as they arrive.
        is_read: bool,
    }

    impl Path {
        /// Of a node of its own.
        fn new(budget: &Budget, node: u8) -> Self {
            let now = Instant::now();
            let sizes = WindowSizes { min_bytes: MIB, opening_bytes: MIB, max_bytes: 64 * MIB };
            let share = Share::of(budget, BudgetUse::Receive);
            let mut window = Window::new(sizes, Side::Server, share, now);
            window.known(Some(NodeId([node; 32])), Moved::default());
            Self { window, now, moved: Moved::default(), is_read: true }
        }

        /// The same, whose bytes flow.
        fn open(budget: &Budget, node: u8) -> Self {
            let mut path = Self::new(budget, node);
            assert_eq!(path.round(FLOW_BYTES), MIB);
            path
        }

        /// A round trip in which this many bytes move; returns the window after it.
        fn round(&mut self, bytes: u64) -> u64 {
            self.round_of(bytes, RTT, RTT)
        }

        fn round_of(&mut self, bytes: u64, elapsed: Duration, rtt: Duration) -> u64 {
            self.now += elapsed;
            self.moved.bytes += bytes;
            if self.is_read {
                let Window { bytes: window_bytes, debt_bytes, .. } = self.window;
                self.window.count(window_bytes + debt_bytes.saturating_sub(bytes));
            }
            let budget = self.window.share.view();
            let look = Look { now: self.now, is_span: true, elapsed, rtt, budget };
            self.moved.stream_frames += bytes / 1024;
            self.window.fit(look, self.moved, true);
            self.window.bytes
        }
    }

    #[test]
    fn a_window_that_is_used_up_grows_to_its_bound_and_an_idle_one_stays() {
        let mut path = Path::new(&Budget::new(1 << 40), 1);
        assert_eq!(path.round(0), MIB);
        assert_eq!(path.round(MIB / 5), MIB);
        assert_eq!(path.round(MIB), 4 * MIB);
        assert_eq!(path.round(4 * MIB), 16 * MIB);
        assert_eq!(path.round(16 * MIB), 64 * MIB);
        assert_eq!(path.round(64 * MIB), 64 * MIB);
    }

    #[test]
    fn a_window_opens_when_bytes_flow_while_half_of_the_budget_is_left() {
        let sizes = WindowSizes { min_bytes: MIB / 4, opening_bytes: 8 * MIB, max_bytes: 64 * MIB };
        let budget = Budget::new(1024 * MIB);
        let mut path = Path::new(&budget, 1);
        path.window.sizes = sizes;
        assert_eq!(path.round(1023), MIB, "a probe is no STREAM frame");
        assert_eq!(path.round(FLOW_FRAMES * 512), MIB, "it is as it was");
        assert_eq!(path.round(FLOW_FRAMES * 512), 8 * MIB, "what moved before counts");
        let rounds = WINDOW_QUIET_MS / RTT.as_millis() as u64;
        for _ in 0..2 * rounds {
            assert_eq!(path.round(FLOW_BYTES), 8 * MIB);
        }
        for _ in 0..2 * rounds {
            path.round(0);
        }
        assert_eq!(path.window.bytes, MIB / 4, "it shrinks when none flow");
        let mut other = Share::of(&budget, BudgetUse::Send);
        other.set_holder(Some(NodeId([2; 32])));
        other.hold(600 * MIB);
        assert_eq!(path.round(FLOW_BYTES), MIB / 4);
        assert_eq!(path.round(MIB), 4 * MIB, "it still fits its path");
    }

    #[test]
    fn a_window_that_was_not_needed_for_a_while_shrinks() {
        let budget = Budget::new(1 << 40);
        let mut path = Path::open(&budget, 1);
        path.round(8 * MIB);
        let rounds = WINDOW_QUIET_MS / RTT.as_millis() as u64;
        for _ in 0..rounds - 1 {
            assert_eq!(path.round(0), 32 * MIB);
        }
        assert_eq!(path.round(0), MIB);
        // The peer may use the larger one up, and what it sends waits to be read.
        assert_eq!(budget.taken_bytes(), 32 * MIB);
        path.is_read = false;
        path.round(MIB / 8);
        assert_eq!(budget.taken_bytes(), 32 * MIB, "bytes that arrive give nothing back");
        path.window.count(32 * MIB - MIB / 8);
        path.round(0);
        assert_eq!((path.window.bytes, budget.taken_bytes()), (MIB, 32 * MIB - MIB / 8));
        path.window.count(MIB);
        assert_eq!(budget.taken_bytes(), MIB);
        drop(path);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[test]
    fn windows_grow_within_the_budget_and_those_of_a_node_with_too_much_shrink() {
        let budget = Budget::new(32 * MIB);
        let (mut first, mut second) = (Path::open(&budget, 1), Path::open(&budget, 2));
        let mut sister = Path::open(&budget, 1);
        assert_eq!(first.round(64 * MIB), 14 * MIB + MIB / 2);
        assert_eq!(sister.round(64 * MIB), MIB, "its node has its share");
        assert!(second.round(64 * MIB) > 7 * MIB);
        assert_eq!(first.round(64 * MIB), 7 * MIB + MIB / 4, "it holds more than what is left");
        for _ in 0..64 {
            for path in [&mut first, &mut second, &mut sister] {
                path.round(64 * MIB);
            }
            assert!(budget.taken_bytes() <= 32 * MIB);
        }
        let [first, second, sister] = [first, second, sister].map(|path| path.window.bytes);
        assert!(second > MIB && first + sister > MIB, "{first} {sister} {second}");
    }

    #[test]
    fn a_short_round_trip_needs_what_moves_while_a_consumer_pauses() {
        let mut path = Path::open(&Budget::new(1 << 40), 1);
        // 10 Gbit/s for 10 ms over 100 microseconds.
        assert_eq!(path.round_of(12_500_000, ROUND_MIN, Duration::from_micros(100)), 50_000_000);
    }

    #[test]
    fn without_a_budget_windows_get_their_configured_size_and_no_more() {
        let mut path = Path::new(&Budget::default(), 1);
        path.window.sizes.opening_bytes = 8 * MIB;
        assert_eq!(path.round(MIB), 8 * MIB);
        assert_eq!(path.round(64 * MIB), 8 * MIB);
    }
}
