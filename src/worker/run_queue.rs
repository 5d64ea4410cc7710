//! Which connections a worker serves next.

use super::conn::Conn;
use std::collections::VecDeque;

/// Who is served next: connections with something new to read, and connections that may have something to send.
///
/// They are two queues because many connections may have more to send than the device takes: reading looks at those alone that
/// something happened to, however many wait to send.
#[derive(Default)]
pub(super) struct RunQueues {
    pub(super) reading: VecDeque<u32>,
    pub(super) sending: VecDeque<u32>,
}

impl RunQueues {
    /// Something happened to this connection.
    pub(super) fn touched(&mut self, conn: &mut Conn, slot: usize) {
        self.read(conn, slot);
        self.send(conn, slot);
    }

    pub(super) fn read(&mut self, conn: &mut Conn, slot: usize) {
        if !std::mem::replace(&mut conn.in_reading, true) {
            self.reading.push_back(slot as u32);
        }
    }

    pub(super) fn send(&mut self, conn: &mut Conn, slot: usize) {
        if !std::mem::replace(&mut conn.in_sending, true) {
            self.sending.push_back(slot as u32);
        }
    }

    /// The device was full before this connection's turn was over: it goes on where it was, so that what belongs together
    /// arrives together.
    pub(super) fn send_on(&mut self, conn: &mut Conn, slot: usize) {
        if !std::mem::replace(&mut conn.in_sending, true) {
            self.sending.push_front(slot as u32);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reading.is_empty() && self.sending.is_empty()
    }
}
