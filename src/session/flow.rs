//! How far the peer may be ahead of the readers of its streams, on one connection.

use crate::quic::transport::Windows;
use quinn_proto::{Connection, VarInt};

/// Parts of the connection's window: the bytes held change QUIC's window by at least one part at a time.
const PARTS: u64 = 32;

/// Held memory ends a connection past this multiple of its window. Packets of 1,200 bytes with a gap behind each stay far below it.
const HELD_WINDOWS_MAX: u64 = 2;

/// The bytes that streams hold behind gaps, and the rest of the connection's window.
#[derive(Debug)]
pub(super) struct FlowControl {
    windows: Windows,
    /// The largest window that the peer may still use, bytes.
    promised_bytes: u64,
    has_gaps: bool,
    held_bytes: usize,
    /// The bytes by which QUIC's window is smaller than the connection's.
    charged_bytes: u64,
}

impl FlowControl {
    pub(super) fn new(windows: Windows) -> Self {
        let promised_bytes = windows.connection_bytes;
        Self { windows, promised_bytes, has_gaps: false, held_bytes: 0, charged_bytes: 0 }
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

    /// Gives the connection's window another size; the bytes held are taken off. `promised_bytes` is the number of bytes that the peer may
    /// send before it learns of a smaller window.
    pub(super) fn set_window(&mut self, conn: &mut Connection, bytes: u64, promised_bytes: u64) {
        self.windows.connection_bytes = bytes;
        self.promise(promised_bytes);
        self.charged_bytes = (self.held_bytes as u64).min(bytes);
        conn.set_receive_window(VarInt::from_u64(bytes - self.charged_bytes).unwrap_or(VarInt::MAX));
    }

    /// The peer may use this window from now on. What is held already, within the window before, it has sent rightly.
    fn promise(&mut self, bytes: u64) {
        self.promised_bytes = bytes.max(self.promised_bytes.min(self.held_bytes as u64));
    }

    /// The bytes that may be taken out of QUIC before the window is charged for them.
    pub(super) fn part_bytes(&self) -> usize {
        (self.windows.connection_bytes / PARTS).max(1).try_into().unwrap_or(usize::MAX)
    }

    /// A stream held `before` bytes and holds `after` now.
    pub(super) fn holds(&mut self, before: usize, after: usize) {
        self.held_bytes = self.held_bytes + after - before;
    }

    /// Memory of what is held, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether the peer makes this side hold more than its packets can need: it sends crumbs with gaps between them.
    pub(super) fn is_exceeded(&self) -> bool {
        self.held_bytes as u64 > HELD_WINDOWS_MAX * self.promised_bytes
    }

    /// Makes QUIC's window smaller by the bytes held: QUIC gave credit for them when they were taken out of it.
    pub(super) fn charge(&mut self, conn: &mut Connection) {
        if let Some(bytes) = self.window_bytes() {
            conn.set_receive_window(VarInt::from_u64(bytes).unwrap_or(VarInt::MAX));
        }
    }

    /// The connection's window, if it must change.
    fn window_bytes(&mut self) -> Option<u64> {
        let part = self.part_bytes() as u64;
        let held = (self.held_bytes as u64).min(self.windows.connection_bytes);
        let is_border = held == 0 || held == self.windows.connection_bytes;
        let difference = held.abs_diff(self.charged_bytes);
        let changes = difference >= part || (is_border && difference > 0);
        changes.then(|| {
            self.charged_bytes = held;
            self.windows.connection_bytes - held
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> FlowControl {
        FlowControl::new(Windows { connection_bytes: 3200, stream_bytes: 800, ..Windows::default() })
    }

    #[test]
    fn held_bytes_are_taken_out_of_the_window_part_by_part() {
        let mut flow = flow();
        flow.holds(0, 99);
        assert_eq!(flow.window_bytes(), None);
        flow.holds(99, 150);
        assert_eq!(flow.window_bytes(), Some(3050));
        flow.holds(0, 60);
        assert_eq!(flow.window_bytes(), None);
        flow.holds(150, 0);
        flow.holds(60, 0);
        assert_eq!(flow.window_bytes(), Some(3200));
        assert_eq!(flow.window_bytes(), None);
    }

    #[test]
    fn held_bytes_past_twice_the_window_exceed_it() {
        let mut flow = flow();
        flow.holds(0, 6400);
        assert!(!flow.is_exceeded());
        flow.holds(6400, 6401);
        assert!(flow.is_exceeded());
    }

    #[test]
    fn what_is_held_rightly_exceeds_no_window_that_becomes_smaller() {
        let mut flow = flow();
        flow.holds(0, 3000);
        flow.promise(1000);
        assert!(!flow.is_exceeded());
        flow.holds(3000, 2500);
        flow.promise(1000);
        assert_eq!(flow.promised_bytes, 2500);
        flow.holds(2500, 0);
        flow.promise(1000);
        flow.holds(0, 2001);
        assert!(flow.is_exceeded());
    }

    #[test]
    fn held_bytes_that_fill_the_window_leave_it_empty() {
        let mut flow = flow();
        flow.holds(0, 3150);
        assert_eq!(flow.window_bytes(), Some(50));
        flow.holds(3150, 5000);
        assert_eq!(flow.window_bytes(), Some(0));
        assert_eq!(flow.window_bytes(), None);
    }
}
