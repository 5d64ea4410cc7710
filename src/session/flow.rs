//! How far the peer may be ahead of the readers of its streams, on one connection.

use crate::limits::RECORD_BYTES_MAX;
use crate::quic::transport::Windows;
use quinn_proto::{Connection, VarInt};
use std::ops::AddAssign;

/// Parts of the connection's window: the bytes held change QUIC's window by at least one part at a time.
const PARTS: u64 = 32;

/// Held memory ends a connection past this multiple of its window. Packets of 1,200 bytes with a gap behind each stay far below it.
const HELD_WINDOWS_MAX: u64 = 2;

/// What a stream keeps of its peer's bytes: its memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldBytes {
    /// Records that have not arrived whole.
    pub(super) record_bytes: usize,
    /// Bytes behind gaps, and what waits for a consumer.
    pub(super) other_bytes: usize,
}

impl AddAssign for HeldBytes {
    fn add_assign(&mut self, more: Self) {
        self.record_bytes += more.record_bytes;
        self.other_bytes += more.other_bytes;
    }
}

impl HeldBytes {
    fn bytes(self) -> usize {
        self.record_bytes + self.other_bytes
    }
}

/// The bytes that streams hold behind gaps, and the rest of the connection's window.
///
/// A promise to the peer cannot be withdrawn: what QUIC's window becomes smaller by stays a debt, which QUIC pays with the bytes that are read
/// next. The sum of QUIC's window, of its debt and of the bytes held is what the peer can make this side keep.
#[derive(Debug)]
pub(super) struct FlowControl {
    windows: Windows,
    /// QUIC's window, bytes: the connection's without the bytes held.
    quic_bytes: u64,
    /// The bytes that the peer may still send, or has sent and this side has not read, of earlier and larger windows of QUIC. It is never too small:
    /// bytes of streams that were stopped pay too, and are not seen here.
    debt_bytes: u64,
    /// The part of QUIC's window that was opened although its debt would fill it, bytes.
    lent_bytes: u64,
    /// The largest window that the peer may still use, bytes.
    promised_bytes: u64,
    has_gaps: bool,
    held: HeldBytes,
    /// The bytes by which QUIC's window is smaller than the connection's.
    charged_bytes: u64,
}

impl FlowControl {
    pub(super) fn new(windows: Windows) -> Self {
        let promised_bytes = windows.connection_bytes;
        Self {
            windows,
            quic_bytes: promised_bytes,
            debt_bytes: 0,
            lent_bytes: 0,
            promised_bytes,
            has_gaps: false,
            held: HeldBytes::default(),
            charged_bytes: 0,
        }
    }

    /// Whether packets of this connection were lost or overtook each other.
    pub(super) fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    pub(super) fn found_gap(&mut self) {
        self.has_gaps = true;
    }

    pub(super) fn stream_window_bytes(&self) -> usize {
        self.windows.stream_bytes.try_into().unwrap_or(usize::MAX)
    }

    /// Gives the connection's window another size; the bytes held are taken off.
    pub(super) fn set_window(&mut self, conn: &mut Connection, bytes: u64) {
        self.resize(bytes);
        self.set_quic_window(conn);
    }

    fn resize(&mut self, bytes: u64) {
        // Bytes that are held, or on their way, the peer has sent rightly.
        let rightly_bytes = self.promised_bytes.min(self.outstanding_bytes());
        self.windows.connection_bytes = bytes;
        self.charged_bytes = self.chargeable_bytes();
        self.fit_quic();
        self.promised_bytes = rightly_bytes.max(bytes + self.debt_bytes);
    }

    /// Makes QUIC's window what the bytes held leave of the connection's, and what its debt leaves of that.
    fn fit_quic(&mut self) {
        let bytes = self.windows.connection_bytes - self.charged_bytes;
        if bytes < self.quic_bytes {
            self.debt_bytes += self.quic_bytes - bytes;
            self.quic_bytes = bytes;
            return;
        }
        // A window that becomes larger is a new promise, and leaves QUIC's debt as it is: the peer may use the debt first. A window that
        // became smaller and larger again without a byte that is read would promise more each time.
        let more = bytes.saturating_sub(self.quic_bytes + self.debt_bytes);
        // The debt may be paid already, by bytes of stopped streams. One part is open all the same, once until it is paid: behind an empty
        // window no byte would arrive that pays.
        let least = bytes.min((self.part_bytes() as u64).saturating_sub(self.lent_bytes));
        let lent = least.saturating_sub(self.quic_bytes + more);
        self.lent_bytes += lent;
        self.quic_bytes += more + lent;
    }

    fn set_quic_window(&self, conn: &mut Connection) {
        conn.set_receive_window(VarInt::from_u64(self.quic_bytes).unwrap_or(VarInt::MAX));
    }

    /// Bytes were taken out of QUIC, which gives the peer credit for them once its debt is paid.
    #[inline]
    pub(super) fn taken(&mut self, conn: &mut Connection, bytes: u64) {
        if self.debt_bytes > 0 && self.pay(bytes) {
            self.set_quic_window(conn);
        }
    }

    /// Pays QUIC's debt. Returns whether QUIC's window must become larger.
    #[cold]
    fn pay(&mut self, bytes: u64) -> bool {
        self.debt_bytes = self.debt_bytes.saturating_sub(bytes);
        self.lent_bytes = self.lent_bytes.saturating_sub(bytes).min(self.debt_bytes);
        let missing = (self.windows.connection_bytes - self.charged_bytes)
            .saturating_sub(self.quic_bytes + self.debt_bytes);
        let grows = missing >= self.part_bytes() as u64 || (missing > 0 && self.debt_bytes == 0);
        if grows {
            self.fit_quic();
        }
        grows
    }

    /// The bytes that the peer may still send, those that QUIC has and no stream has read, and the memory of those held.
    pub(super) fn outstanding_bytes(&self) -> u64 {
        self.quic_bytes + self.debt_bytes + self.held.bytes() as u64
    }

    /// The bytes that may be taken out of QUIC before the window is charged for them.
    pub(super) fn part_bytes(&self) -> usize {
        (self.windows.connection_bytes / PARTS).max(1).try_into().unwrap_or(usize::MAX)
    }

    /// A stream held `before` and holds `after` now.
    #[inline]
    pub(super) fn holds(&mut self, before: HeldBytes, after: HeldBytes) {
        self.held.record_bytes = self.held.record_bytes + after.record_bytes - before.record_bytes;
        self.held.other_bytes = self.held.other_bytes + after.other_bytes - before.other_bytes;
    }

    /// What of the bytes held the window is charged for. The bytes that fill a gap were sent within the window, so a window that is full of bytes
    /// behind gaps opens again. Those that complete a record may not have been sent: records leave room for the longest of them.
    #[inline]
    fn chargeable_bytes(&self) -> u64 {
        let window_bytes = self.windows.connection_bytes;
        let record_bytes = (self.held.record_bytes as u64).min(window_bytes.saturating_sub(RECORD_BYTES_MAX));
        (record_bytes + self.held.other_bytes as u64).min(window_bytes)
    }

    /// Memory of what is held, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Whether the peer makes this side hold more than its packets can need: it sends crumbs with gaps between them.
    pub(super) fn is_exceeded(&self) -> bool {
        self.held.bytes() as u64 > HELD_WINDOWS_MAX * self.promised_bytes
    }

    /// Makes QUIC's window smaller by the bytes held: QUIC gave credit for them when they were taken out of it.
    pub(super) fn charge(&mut self, conn: &mut Connection) {
        if self.window_bytes().is_some() {
            self.set_quic_window(conn);
        }
    }

    /// The connection's window, if it must change.
    fn window_bytes(&mut self) -> Option<u64> {
        let part = self.part_bytes() as u64;
        let held = self.chargeable_bytes();
        let is_border = held == 0 || held == self.windows.connection_bytes;
        let difference = held.abs_diff(self.charged_bytes);
        let changes = difference >= part || (is_border && difference > 0);
        changes.then(|| {
            self.charged_bytes = held;
            self.fit_quic();
            self.quic_bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind_gaps(other_bytes: usize) -> HeldBytes {
        HeldBytes { other_bytes, ..HeldBytes::default() }
    }

    fn flow() -> FlowControl {
        FlowControl::new(Windows { connection_bytes: 3200, stream_bytes: 800, ..Windows::default() })
    }

    #[test]
    fn held_bytes_are_taken_out_of_the_window_part_by_part() {
        let mut flow = flow();
        flow.holds(behind_gaps(0), behind_gaps(99));
        assert_eq!(flow.window_bytes(), None);
        flow.holds(behind_gaps(99), behind_gaps(150));
        assert_eq!(flow.window_bytes(), Some(3050));
        flow.pay(150);
        flow.holds(behind_gaps(0), behind_gaps(60));
        assert_eq!(flow.window_bytes(), None);
        flow.holds(behind_gaps(150), behind_gaps(0));
        flow.holds(behind_gaps(60), behind_gaps(0));
        assert_eq!(flow.window_bytes(), Some(3200));
        assert_eq!(flow.window_bytes(), None);
    }

    #[test]
    fn held_bytes_past_twice_the_window_exceed_it() {
        let mut flow = flow();
        flow.holds(behind_gaps(0), behind_gaps(6400));
        assert!(!flow.is_exceeded());
        flow.holds(behind_gaps(6400), behind_gaps(6401));
        assert!(flow.is_exceeded());
    }

    #[test]
    fn what_is_held_rightly_exceeds_no_window_that_becomes_smaller() {
        let mut flow = flow();
        flow.pay(3000);
        flow.holds(behind_gaps(0), behind_gaps(3000));
        flow.resize(1000);
        assert_eq!((flow.quic_bytes, flow.debt_bytes, flow.promised_bytes), (0, 3200, 4200));
        flow.pay(3200);
        assert!(!flow.is_exceeded());
        flow.holds(behind_gaps(3000), behind_gaps(2500));
        flow.resize(1000);
        assert_eq!(flow.promised_bytes, 2500);
        flow.holds(behind_gaps(2500), behind_gaps(0));
        flow.resize(1000);
        flow.pay(1000);
        flow.resize(1000);
        assert_eq!((flow.outstanding_bytes(), flow.promised_bytes), (1000, 1000));
        flow.holds(behind_gaps(0), behind_gaps(2001));
        assert!(flow.is_exceeded());
    }

    #[test]
    fn a_promise_is_outstanding_until_its_bytes_are_read_and_held_bytes_change_nothing() {
        let mut flow = flow();
        assert_eq!(flow.outstanding_bytes(), 3200);
        flow.resize(1000);
        assert_eq!(flow.outstanding_bytes(), 3200, "the peer may use all of the larger window");
        flow.pay(1500);
        assert_eq!(flow.outstanding_bytes(), 1700);
        // What is charged and released without a byte that is read promises nothing.
        for _ in 0..10 {
            flow.holds(behind_gaps(0), behind_gaps(500));
            flow.window_bytes();
            flow.holds(behind_gaps(500), behind_gaps(0));
            flow.window_bytes();
            assert_eq!(flow.outstanding_bytes(), 1700);
        }
        flow.pay(700);
        assert_eq!(flow.outstanding_bytes(), 1000);
        flow.resize(2000);
        assert_eq!(flow.outstanding_bytes(), 2000);
    }

    #[test]
    fn held_bytes_that_fill_the_window_leave_it_empty() {
        let mut flow = flow();
        flow.holds(behind_gaps(0), behind_gaps(3150));
        assert_eq!(flow.window_bytes(), Some(50));
        flow.holds(behind_gaps(3150), behind_gaps(5000));
        assert_eq!(flow.window_bytes(), Some(0));
        assert_eq!(flow.window_bytes(), None);
    }

    #[test]
    fn records_leave_room_for_the_longest_of_them() {
        let connection_bytes = crate::limits::WINDOW_BYTES_MIN;
        let mut flow = FlowControl::new(Windows {
            connection_bytes,
            stream_bytes: connection_bytes,
            ..Windows::default()
        });
        let records = |bytes: u64| HeldBytes { record_bytes: bytes as usize, ..HeldBytes::default() };
        flow.holds(HeldBytes::default(), records(connection_bytes));
        assert_eq!(flow.window_bytes(), Some(RECORD_BYTES_MAX));
        flow.holds(behind_gaps(0), behind_gaps(connection_bytes as usize));
        assert_eq!(flow.window_bytes(), Some(0));
    }

    #[test]
    fn a_window_opens_by_a_part_though_bytes_of_stopped_streams_paid_its_debt_unseen() {
        let mut flow = flow();
        flow.holds(behind_gaps(0), behind_gaps(3200));
        assert_eq!(flow.window_bytes(), Some(0));
        flow.holds(behind_gaps(3200), behind_gaps(0));
        assert_eq!(flow.window_bytes(), Some(100), "QUIC's debt may be paid");
        for _ in 0..10 {
            flow.holds(behind_gaps(0), behind_gaps(3200));
            assert_eq!(flow.window_bytes(), Some(0));
            flow.holds(behind_gaps(3200), behind_gaps(0));
            flow.window_bytes();
            assert_eq!(flow.outstanding_bytes(), 3300, "one part, until as many bytes are read");
        }
        flow.pay(100);
        flow.fit_quic();
        assert_eq!((flow.quic_bytes, flow.outstanding_bytes()), (100, 3300));
        flow.pay(3200);
        assert_eq!((flow.quic_bytes, flow.outstanding_bytes()), (3200, 3200));
    }
}
