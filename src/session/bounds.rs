//! The bounds of a peer that are not its connection's alone: requests of its node, and memory.

use super::Session;
use super::request_seats::RequestSeats;
use quinn_proto::Connection;

impl Session {
    /// Counts the peer's requests from now on among those of its node.
    pub(crate) fn set_seats(&mut self, seats: RequestSeats) {
        self.seats = Some(seats);
    }

    /// Sets what all answers may have outstanding, and all requests that wait here for gateways or disks; and whether requests of the peer are refused.
    pub(crate) fn set_bounds(&mut self, answers_bytes_max: usize, refuses: bool) {
        self.answers_credit.set_bytes_max(answers_bytes_max);
        self.peer.requests_credit.set_bytes_max(answers_bytes_max);
        self.peer.holds_too_much = refuses;
    }

    /// What answers have outstanding, and requests that wait here for gateways or disks, bytes.
    pub(crate) fn answers_bytes(&self) -> usize {
        self.answers_credit.outstanding_bytes() + self.peer.requests_credit.outstanding_bytes()
    }

    /// What messages have outstanding, and what of them waits for applications, bytes.
    pub(crate) fn messages_bytes(&self) -> usize {
        self.message_credit.outstanding_bytes() + self.peer.untaken.bytes()
    }

    /// Gives the connection's receive window another size.
    pub(crate) fn set_receive_window(&mut self, conn: &mut Connection, bytes: u64) {
        self.flow.set_window(conn, bytes);
    }

    /// The bytes that the peer may still send, and those that it has sent and no application has been given.
    pub(crate) fn receivable_bytes(&self) -> u64 {
        self.flow.outstanding_bytes()
    }
}
