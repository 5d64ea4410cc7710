//! Bytes to write: a backlog for each stream, bounded by its application's credit.

use super::outcomes::RequestOutcome;
use super::stream::{Sending, Stream};
use super::{Context, Session};
use crate::counters::Counter;
use crate::queue::Credit;
use crate::record::{ErrorCode, ErrorRecord, Record};
use bytes::Bytes;
use quinn_proto::{Connection, SendStream, StreamId};
use std::collections::VecDeque;

/// Chunks offered to quinn-proto in one call.
const CHUNKS_A_WRITE_MAX: usize = 16;

/// Chunks up to this length are copied together before QUIC gets them, bytes. QUIC walks a list of all unacknowledged chunks for
/// every packet. A chunk for each small message would cost more than everything else.
const SMALL_BYTES: usize = 4 * 1024;
/// The most bytes that are copied together.
const GATHERED_BYTES: usize = 64 * 1024;

/// One outgoing half of a stream.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Bytes that QUIC has not taken yet. The session's own records are few and small; credit bounds the data.
    backlog: VecDeque<Chunk>,
    /// Small chunks, copied together, that follow the backlog; and the number of their bytes that an application paid for.
    gathered: Vec<u8>,
    gathered_paid: usize,
    credit: Credit,
    /// Whether OK is written: a verified encoding follows.
    in_encoding: bool,
    finished: bool,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// The number of the bytes that an application paid for with credit.
    paid: usize,
}

impl Outbound {
    pub(super) fn new(credit: Credit) -> Self {
        Self {
            backlog: VecDeque::new(),
            gathered: Vec::new(),
            gathered_paid: 0,
            credit,
            in_encoding: false,
            finished: false,
        }
    }

    /// Appends bytes. Returns whether QUIC should get them now. While there is a backlog, QUIC has no room, and reports when it has
    /// (StreamEvent::Writable).
    fn add(&mut self, bytes: Bytes, paid: bool) -> bool {
        let was_empty = self.backlog.is_empty();
        let paid = if paid { bytes.len() } else { 0 };
        if bytes.len() > SMALL_BYTES {
            self.end_gathering();
            self.backlog.push_back(Chunk { bytes, paid });
            return was_empty;
        }
        self.gathered.extend_from_slice(&bytes);
        self.gathered_paid += paid;
        if self.gathered.len() < GATHERED_BYTES {
            return false;
        }
        self.end_gathering();
        was_empty
    }

    /// Appends the collected chunks to the backlog.
    fn end_gathering(&mut self) {
        if !self.gathered.is_empty() {
            let bytes = std::mem::take(&mut self.gathered).into();
            self.backlog.push_back(Chunk { bytes, paid: std::mem::take(&mut self.gathered_paid) });
        }
    }

    /// Gives QUIC as many bytes as it takes. Returns whether an application that waits for credit is to be woken, and whether the half has
    /// ended.
    fn pump(&mut self, stream: &mut SendStream<'_>) -> (bool, bool) {
        self.end_gathering();
        let mut returned = false;
        while !self.backlog.is_empty() {
            let mut chunks: [Bytes; CHUNKS_A_WRITE_MAX] = std::array::from_fn(|i| {
                self.backlog.get(i).map(|chunk| chunk.bytes.clone()).unwrap_or_default()
            });
            let count = self.backlog.len().min(CHUNKS_A_WRITE_MAX);
            let Ok(written) = stream.write_chunks(&mut chunks[..count]) else { return (returned, false) };
            let mut left = written.bytes;
            while left > 0 {
                let Some(front) = self.backlog.front_mut() else { break };
                let taken = left.min(front.bytes.len());
                let paid = taken.min(front.paid);
                if paid > 0 {
                    front.paid -= paid;
                    returned |= self.credit.give_back(paid);
                }
                left -= taken;
                if taken == front.bytes.len() {
                    self.backlog.pop_front();
                } else {
                    let _ = front.bytes.split_to(taken);
                }
            }
        }
        if self.finished {
            let _ = stream.finish();
        }
        (returned, self.finished)
    }
}

impl Drop for Outbound {
    /// Dropped bytes give their credit back as well: the application must not wait for it.
    fn drop(&mut self) {
        let waiting: usize = self.backlog.iter().map(|chunk| chunk.paid).sum();
        self.credit.give_back(waiting + self.gathered_paid);
    }
}

impl Session {
    /// Writes one record of the session's own.
    pub(super) fn write_record(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        record: &impl Record,
        cx: &Context<'_>,
    ) {
        let mut out = Vec::with_capacity(record.encoded_len() + 16);
        record.emit_record(&mut out);
        cx.counters.add(Counter::RecordsOut, 1);
        self.write_own(conn, id, out.into());
    }

    /// Writes bytes of the session's own, which cost no credit.
    pub(super) fn write_own(&mut self, conn: &mut Connection, id: StreamId, bytes: Bytes) {
        self.enqueue(conn, id, bytes, false, |_| {});
    }

    fn outbound(&mut self, id: StreamId) -> Option<&mut Outbound> {
        match self.streams.get_mut(&id).map(|stream| &mut stream.send) {
            Some(Sending::Open(outbound)) => Some(outbound),
            _ => None,
        }
    }

    /// Writes data that an application paid for.
    pub(super) fn write(&mut self, conn: &mut Connection, id: StreamId, bytes: Bytes) {
        self.enqueue(conn, id, bytes, true, |_| {});
    }

    /// Writes data that an application paid for, behind a few bytes of the session's own.
    pub(super) fn write_behind(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        bytes: Bytes,
        front: impl FnOnce(&mut Vec<u8>),
    ) {
        self.enqueue(conn, id, bytes, true, front);
    }

    fn enqueue(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        bytes: Bytes,
        paid: bool,
        front: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(Stream { send: Sending::Open(outbound), .. }) = self.streams.get_mut(&id) else { return };
        let is_listed = !outbound.gathered.is_empty();
        front(&mut outbound.gathered);
        let is_due = outbound.add(bytes, paid);
        if !is_listed && !outbound.gathered.is_empty() {
            self.unflushed.push(id);
        }
        if is_due {
            self.pump(conn, id);
        }
    }

    /// Gives QUIC the collected chunks: the last step before QUIC makes packets.
    pub(crate) fn flush(&mut self, conn: &mut Connection) {
        self.flow.charge(conn);
        while let Some(id) = self.unflushed.pop() {
            if self.outbound(id).is_some_and(|outbound| outbound.backlog.is_empty()) {
                self.pump(conn, id);
            }
        }
    }

    /// Ends the stream once its backlog is written.
    pub(super) fn finish(&mut self, conn: &mut Connection, id: StreamId) {
        if let Some(outbound) = self.outbound(id) {
            outbound.finished = true;
            self.pump(conn, id);
        }
    }

    /// Notes that the peer reads a verified encoding from here on: it would read an ERROR as part of it.
    pub(super) fn begin_encoding(&mut self, id: StreamId) {
        if let Some(outbound) = self.outbound(id) {
            outbound.in_encoding = true;
        }
    }

    /// Gives QUIC as much of a backlog as it takes.
    pub(super) fn pump(&mut self, conn: &mut Connection, id: StreamId) {
        let Some(outbound) = self.outbound(id) else { return };
        let (returned, over) = outbound.pump(&mut conn.send_stream(id));
        self.credit_returned |= returned;
        if over {
            self.set_sending(id, Sending::Finished);
        }
    }

    fn set_sending(&mut self, id: StreamId, send: Sending) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send = send;
        }
        self.forget_if_over(id);
    }

    /// Resets an outgoing half.
    pub(super) fn abort_out(&mut self, conn: &mut Connection, id: StreamId, code: ErrorCode) {
        if self.outbound(id).is_some() {
            let _ = conn.send_stream(id).reset(code.into());
        }
        self.set_sending(id, Sending::Over);
    }

    /// Answers a peer's request with ERROR and ends it.
    pub(super) fn refuse(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        failure: &ErrorRecord,
        cx: &Context<'_>,
    ) {
        self.count_outcome(id, RequestOutcome::Refused, cx.counters);
        // Waiting data is dropped. After a part of an encoding, the peer would read an ERROR as part of it.
        let Some(outbound) = self.outbound(id) else { return };
        if outbound.in_encoding {
            self.abort_out(conn, id, failure.code);
            return;
        }
        self.write_record(conn, id, failure, cx);
        self.finish(conn, id);
    }
}
