//! What waits to be written: a backlog a stream, bounded by its application's credit.

use super::{Context, Session};
use crate::counters::Counter;
use crate::queue::Credit;
use crate::record::{ErrorCode, ErrorRecord, Record};
use bytes::Bytes;
use quinn_proto::{Connection, StreamId};
use std::collections::VecDeque;

/// Chunks offered to quinn-proto in one call.
const CHUNKS_A_WRITE_MAX: usize = 16;

/// One outgoing half of a stream.
#[derive(Debug)]
pub(super) struct Outbound {
    /// What QUIC has not taken yet. Records of the session's own are few and small; data is bounded by the credit.
    backlog: VecDeque<Chunk>,
    credit: Credit,
    /// OK has been said: what follows is a verified encoding.
    in_encoding: bool,
    finished: bool,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// Whether an application paid for it with credit.
    paid: bool,
}

impl Outbound {
    pub(super) fn new(credit: Credit) -> Self {
        Self { backlog: VecDeque::new(), credit, in_encoding: false, finished: false }
    }

    pub(super) fn credit(&self) -> Credit {
        self.credit.clone()
    }
}

impl Drop for Outbound {
    /// What is never written still gives its credit back: the application must not wait for it.
    fn drop(&mut self) {
        self.credit.give_back(self.backlog.iter().filter(|c| c.paid).map(|c| c.bytes.len()).sum());
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
        self.enqueue(conn, id, Chunk { bytes, paid: false });
    }

    /// Writes data that an application paid for.
    pub(super) fn write(&mut self, conn: &mut Connection, id: StreamId, bytes: Bytes) {
        self.enqueue(conn, id, Chunk { bytes, paid: true });
    }

    fn enqueue(&mut self, conn: &mut Connection, id: StreamId, chunk: Chunk) {
        let Some(outbound) = self.outbound.get_mut(&id) else { return };
        if chunk.bytes.is_empty() {
            return;
        }
        outbound.backlog.push_back(chunk);
        // Behind a backlog, QUIC has no room: it says when it has (StreamEvent::Writable).
        if outbound.backlog.len() == 1 {
            self.pump(conn, id);
        }
    }

    /// Ends the stream once its backlog is written.
    pub(super) fn finish(&mut self, conn: &mut Connection, id: StreamId) {
        if let Some(outbound) = self.outbound.get_mut(&id) {
            outbound.finished = true;
            self.pump(conn, id);
        }
    }

    /// From here on the peer reads a verified encoding: an ERROR would be taken for a part of it.
    pub(super) fn begin_encoding(&mut self, id: StreamId) {
        if let Some(outbound) = self.outbound.get_mut(&id) {
            outbound.in_encoding = true;
        }
    }

    /// Gives QUIC what it takes of a backlog.
    pub(super) fn pump(&mut self, conn: &mut Connection, id: StreamId) {
        let Some(outbound) = self.outbound.get_mut(&id) else { return };
        let mut stream = conn.send_stream(id);
        while !outbound.backlog.is_empty() {
            let mut chunks: [Bytes; CHUNKS_A_WRITE_MAX] = std::array::from_fn(|i| {
                outbound.backlog.get(i).map(|chunk| chunk.bytes.clone()).unwrap_or_default()
            });
            let count = outbound.backlog.len().min(CHUNKS_A_WRITE_MAX);
            let Ok(written) = stream.write_chunks(&mut chunks[..count]) else { return };
            let mut left = written.bytes;
            while left > 0 {
                let Some(front) = outbound.backlog.front_mut() else { break };
                let taken = left.min(front.bytes.len());
                if front.paid {
                    self.credit_returned |= outbound.credit.give_back(taken);
                }
                left -= taken;
                if taken == front.bytes.len() {
                    outbound.backlog.pop_front();
                } else {
                    let _ = front.bytes.split_to(taken);
                }
            }
        }
        if outbound.finished {
            let _ = stream.finish();
            self.outbound.remove(&id);
        }
    }

    /// Abandons an outgoing half.
    pub(super) fn abort_out(&mut self, conn: &mut Connection, id: StreamId, code: ErrorCode) {
        self.answering.remove(&id);
        if self.outbound.remove(&id).is_some() {
            let _ = conn.send_stream(id).reset(code.into());
        }
    }

    /// Answers a peer's request with ERROR and ends it.
    pub(super) fn refuse(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        failure: &ErrorRecord,
        cx: &Context<'_>,
    ) {
        // Data that still waits is of no use; an ERROR after half an encoding would be read as part of it.
        let Some(outbound) = self.outbound.get(&id) else { return };
        if outbound.in_encoding {
            self.abort_out(conn, id, failure.code);
            return;
        }
        self.write_record(conn, id, failure, cx);
        self.finish(conn, id);
    }
}
