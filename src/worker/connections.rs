//! A worker's connections: their slots, and everything that points at a slot.

use super::conn::Conn;
use super::run_queue::RunQueues;
use crate::limits::CONNECTIONS_LEN_PER_TURN_MAX;
use crate::queue::ConnectionId;
use crate::quic::timers::Timers;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut, Range};
use std::time::Instant;

/// A worker's connections.
#[derive(Default)]
pub(super) struct Connections {
    /// By quinn-proto's handle. Boxed: a table that grows moves pointers, not connections of kilobytes each.
    slots: Vec<Option<Box<Conn>>>,
    /// Slots that are taken.
    len: usize,
    /// The number of the last connection: a slot is used again, a number is not for a long time.
    generation: u32,
    queues: RunQueues,
    timers: Timers,
    /// Connections to nodes that are no peer gateways any more: closed once nothing runs on them.
    leaving: VecDeque<ConnectionId>,
    /// The times that a connection was looked up by its slot.
    #[cfg(test)]
    pub(super) looks: std::cell::Cell<usize>,
}

/// One connection, borrowed with what it stands in.
pub(super) struct ConnEntry<'a> {
    pub(super) slot: u32,
    conn: &'a mut Conn,
    queues: &'a mut RunQueues,
    timers: &'a mut Timers,
}

impl Deref for ConnEntry<'_> {
    type Target = Conn;

    #[inline]
    fn deref(&self) -> &Conn {
        self.conn
    }
}

impl DerefMut for ConnEntry<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn
    }
}

impl ConnEntry<'_> {
    /// Something happened to it: it is read, and may send.
    #[inline]
    pub(super) fn touched(&mut self) {
        self.queues.touched(&mut self.conn.places, self.slot);
    }

    /// It is read in the next turn.
    #[inline]
    pub(super) fn read_next(&mut self) {
        self.queues.read(&mut self.conn.places, self.slot);
    }

    /// It may send, behind the others.
    #[inline]
    pub(super) fn send_next(&mut self) {
        self.queues.send(&mut self.conn.places, self.slot);
    }

    /// It goes on sending, before the others.
    #[inline]
    pub(super) fn send_on(&mut self) {
        self.queues.send_on(&mut self.conn.places, self.slot);
    }

    /// A stream of it waits for its consumer.
    pub(super) fn pause(&mut self) {
        self.queues.pause(&mut self.conn.places, self.slot);
    }

    /// Has it called when its next timer is due.
    #[inline]
    pub(super) fn set_timer(&mut self) {
        let due = self.conn.poll_timeout();
        self.timers.set(self.slot, &mut self.conn.timer, due);
    }
}

impl Connections {
    /// The identity of a connection that begins on worker `worker` in this slot.
    pub(super) fn next_id(&mut self, worker: u16, slot: u32) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        ConnectionId { worker, slot, generation: self.generation }
    }

    /// Takes a connection in; its slot is that of its identity.
    pub(super) fn insert(&mut self, conn: Conn) -> ConnEntry<'_> {
        let Self { slots, len, queues, timers, .. } = self;
        let slot = conn.session.id().slot;
        let at = slot as usize;
        if slots.len() <= at {
            slots.resize_with(at + 1, || None);
        }
        *len += usize::from(slots[at].is_none());
        ConnEntry { slot, conn: slots[at].insert(Box::new(conn)), queues, timers }
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Conn>> {
        let conn = self.slots.get_mut(slot as usize).and_then(Option::take);
        self.len -= usize::from(conn.is_some());
        conn
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The slots that may be taken.
    pub(super) fn slots(&self) -> Range<u32> {
        0..self.slots.len() as u32
    }

    /// The connection in this slot, to be looked at.
    pub(super) fn get(&self, slot: u32) -> Option<&Conn> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        self.slots.get(slot as usize).and_then(Option::as_deref)
    }

    /// The connection in this slot.
    #[inline]
    pub(super) fn at(&mut self, slot: u32) -> Option<ConnEntry<'_>> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        let Self { slots, queues, timers, .. } = self;
        let conn = slots.get_mut(slot as usize).and_then(Option::as_deref_mut)?;
        Some(ConnEntry { slot, conn, queues, timers })
    }

    /// The connection of this identity.
    #[inline]
    pub(super) fn of(&mut self, id: ConnectionId) -> Option<ConnEntry<'_>> {
        self.at(id.slot).filter(|conn| conn.session.id().generation == id.generation)
    }

    /// How many connections wait to be read.
    pub(super) fn reading_len(&self) -> usize {
        self.queues.reading_len()
    }

    /// How many connections wait to send.
    pub(super) fn sending_len(&self) -> usize {
        self.queues.sending_len()
    }

    /// Whether no connection waits to be read or to send.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// The slot whose connection is read next, if there still is one in it: [`Connections::at`] tells.
    #[inline]
    pub(super) fn pop_reading(&mut self) -> Option<u32> {
        let slot = self.queues.pop_reading()?;
        if let Some(conn) = self.at(slot) {
            conn.conn.places.left_reading();
        }
        Some(slot)
    }

    /// The slot whose connection sends next, likewise.
    #[inline]
    pub(super) fn pop_sending(&mut self) -> Option<u32> {
        let slot = self.queues.pop_sending()?;
        if let Some(conn) = self.at(slot) {
            conn.conn.places.left_sending();
        }
        Some(slot)
    }

    /// Looks at the next connections with paused streams: `stays` tells whether one has any left. Costs nothing while there is none.
    #[inline]
    pub(super) fn next_paused(&mut self, mut stays: impl FnMut(&mut ConnEntry<'_>) -> bool) {
        for _ in 0..self.queues.paused_len().min(CONNECTIONS_LEN_PER_TURN_MAX) {
            let Some(slot) = self.queues.pop_paused() else { break };
            let Some(mut conn) = self.at(slot) else { continue };
            conn.places.left_paused();
            if stays(&mut conn) {
                conn.pause();
            }
        }
    }

    /// When [`Connections::pop_due`] may have a connection.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next connection whose timer is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnEntry<'_>> {
        let slot = loop {
            let entry = self.timers.pop(now)?;
            let slot = entry.1;
            let Some(Some(conn)) = self.slots.get_mut(slot as usize) else { continue };
            if self.timers.fire(entry, &mut conn.timer, now) {
                break slot;
            }
        };
        self.at(slot)
    }

    /// A connection that is to be closed once nothing runs on it.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        self.leaving.push_back(id);
    }

    /// Looks at the next connections that leave: `stays` tells whether one is still needed, and closes it otherwise.
    pub(super) fn next_leaving(&mut self, mut stays: impl FnMut(&mut ConnEntry<'_>) -> bool) {
        for _ in 0..self.leaving.len().min(CONNECTIONS_LEN_PER_TURN_MAX) {
            let Some(id) = self.leaving.pop_front() else { break };
            if self.of(id).is_some_and(|mut conn| stays(&mut conn)) {
                self.leaving.push_back(id);
            }
        }
    }
}
