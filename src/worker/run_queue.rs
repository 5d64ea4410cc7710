//! The connections that a worker serves next.

use super::conn::Conn;
use std::collections::VecDeque;

/// The connections to serve next: those with something new to read, and those that may have something to send.
///
/// They are two queues because many connections may have more to send than the device takes. Reading visits only connections
/// to which something happened, regardless of how many wait to send.
#[derive(Default)]
pub(super) struct RunQueues {
    pub(super) reading: VecDeque<u32>,
    pub(super) sending: VecDeque<u32>,
}

impl RunQueues {
    /// Puts a connection to which something happened in both lines.
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

    /// Puts a connection first in line: the device was full before its turn was over. The rest of its batch then arrives right after
    /// the front.
    pub(super) fn send_on(&mut self, conn: &mut Conn, slot: usize) {
        if !std::mem::replace(&mut conn.in_sending, true) {
            self.sending.push_front(slot as u32);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reading.is_empty() && self.sending.is_empty()
    }
}
