//! Bytes to write: a backlog for each stream, bounded by its application's credit.

use super::outcomes::RequestOutcome;
use super::stream::{Sending, Stream};
use super::{Context, Session};
use crate::counters::Counter;
use crate::limits::STREAM_PART_BYTES;
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
    /// Small chunks, copied together, that follow the backlog; and the credit that an application paid for them.
    gathered: Vec<u8>,
    gathered_paid: usize,
    /// The length of the last chunk that was made of small ones: the next one's memory is had at once.
    gathered_last: usize,
    credit: Credit,
    /// Whether OK is written: a verified encoding follows.
    in_encoding: bool,
    finished: bool,
    /// The QUIC stream that is written, where it is not the first of this half.
    part: Option<StreamId>,
    /// Bytes until that is full.
    left_bytes: u64,
}

/// What QUIC took of a backlog.
struct Pumped {
    /// An application that waits for credit is to be woken.
    returned: bool,
    taken_bytes: usize,
    left: Left,
}

/// The rest of a backlog.
enum Left {
    Nothing,
    /// Nothing, and the half is over.
    Over,
    /// Bytes that QUIC does not take now.
    Blocked,
    /// Bytes that QUIC may take.
    TurnOver,
    /// Bytes, or the end, for the next stream of this half.
    PartFull,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// The credit that an application paid for it: its bytes, and the cost of each message.
    paid: usize,
}

impl Outbound {
    pub(super) fn new(credit: Credit) -> Self {
        Self {
            backlog: VecDeque::new(),
            gathered: Vec::new(),
            gathered_paid: 0,
            gathered_last: 0,
            credit,
            in_encoding: false,
            finished: false,
            part: None,
            left_bytes: STREAM_PART_BYTES,
        }
    }

    /// Whether it has bytes, or its end, that QUIC has not taken.
    pub(super) fn waits(&self) -> bool {
        self.finished || !self.backlog.is_empty() || !self.gathered.is_empty()
    }

    /// Whether WORKING may be written.
    pub(super) fn takes_working(&self) -> bool {
        !self.in_encoding && !self.waits()
    }

    /// Bytes until the QUIC stream that is written now is full.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Writes the rest of this half on the same stream.
    pub(super) fn write_undivided(&mut self) {
        self.left_bytes = u64::MAX;
    }

    /// The QUIC stream that is written, of the half that began on `id`.
    fn target(&self, id: StreamId) -> StreamId {
        self.part.unwrap_or(id)
    }

    /// Goes on in another stream, which begins with these bytes.
    pub(super) fn begin_part(&mut self, part: StreamId, front: Vec<u8>) {
        self.left_bytes = STREAM_PART_BYTES + front.len() as u64;
        self.backlog.push_front(Chunk { bytes: front.into(), paid: 0 });
        self.part = Some(part);
    }

    /// The next chunks, as far as the stream's part goes.
    fn offer(&self) -> ([Bytes; CHUNKS_A_WRITE_MAX], usize) {
        let mut left = self.left_bytes;
        let mut count = 0;
        let chunks = std::array::from_fn(|at| {
            let Some(chunk) = self.backlog.get(at).filter(|_| left > 0) else { return Bytes::new() };
            count = at + 1;
            let len = chunk.bytes.len();
            let taken = usize::try_from(left).map_or(len, |left| left.min(len));
            left -= taken as u64;
            if taken == len { chunk.bytes.clone() } else { chunk.bytes.slice(..taken) }
        });
        (chunks, count)
    }

    /// Appends bytes. Returns whether QUIC should get them now. A stream with a backlog has its place in the line
    /// of [`Turns`](super::turns::Turns).
    #[inline]
    fn add(&mut self, bytes: Bytes, paid: usize) -> bool {
        if bytes.len() > SMALL_BYTES {
            return self.add_large(Chunk { bytes, paid });
        }
        self.gathered.extend_from_slice(&bytes);
        self.gathered_paid += paid;
        self.gathered.len() >= GATHERED_BYTES && self.end_gathering()
    }

    /// The same, of a chunk that is not copied. Apart from the small ones, which are many.
    #[inline(never)]
    fn add_large(&mut self, chunk: Chunk) -> bool {
        let was_empty = self.end_gathering();
        self.backlog.push_back(chunk);
        was_empty
    }

    /// Appends the collected chunks to the backlog. Returns whether that was empty.
    fn end_gathering(&mut self) -> bool {
        let was_empty = self.backlog.is_empty();
        if !self.gathered.is_empty() {
            self.gathered_last = self.gathered.len();
            let bytes = std::mem::take(&mut self.gathered).into();
            self.backlog.push_back(Chunk { bytes, paid: std::mem::take(&mut self.gathered_paid) });
        }
        was_empty
    }

    /// Gives QUIC as many bytes as it takes, up to about `bytes_max`.
    fn pump(&mut self, stream: &mut SendStream<'_>, bytes_max: usize) -> Pumped {
        self.end_gathering();
        let (mut returned, mut taken_bytes) = (false, 0);
        while !self.backlog.is_empty() {
            if taken_bytes >= bytes_max {
                return Pumped { returned, taken_bytes, left: Left::TurnOver };
            }
            if self.left_bytes == 0 {
                return Pumped { returned, taken_bytes, left: Left::PartFull };
            }
            let (mut chunks, count) = self.offer();
            let Ok(written) = stream.write_chunks(&mut chunks[..count]) else {
                return Pumped { returned, taken_bytes, left: Left::Blocked };
            };
            let mut left = written.bytes;
            taken_bytes += left;
            self.left_bytes -= left as u64;
            while left > 0 {
                let Some(front) = self.backlog.front_mut() else { break };
                let taken = left.min(front.bytes.len());
                let paid = if taken == front.bytes.len() { front.paid } else { taken.min(front.paid) };
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
            if self.left_bytes == 0 {
                return Pumped { returned, taken_bytes, left: Left::PartFull };
            }
            let _ = stream.finish();
            return Pumped { returned, taken_bytes, left: Left::Over };
        }
        Pumped { returned, taken_bytes, left: Left::Nothing }
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
        self.enqueue(conn, id, (bytes, 0), |_| {});
    }

    pub(super) fn outbound(&mut self, id: StreamId) -> Option<&mut Outbound> {
        match self.streams.get_mut(&id).map(|stream| &mut stream.send) {
            Some(Sending::Open(outbound)) => Some(outbound),
            _ => None,
        }
    }

    /// Writes data that an application paid for.
    pub(super) fn write(&mut self, conn: &mut Connection, id: StreamId, bytes: Bytes) {
        let paid = bytes.len();
        self.enqueue(conn, id, (bytes, paid), |_| {});
    }

    /// Writes a message that an application paid `paid` for, behind a few bytes of the session's own.
    pub(super) fn write_behind(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        message: (Bytes, usize),
        front: impl FnOnce(&mut Vec<u8>),
    ) {
        self.enqueue(conn, id, message, front);
    }

    fn enqueue(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        (bytes, paid): (Bytes, usize),
        front: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(Stream { send: Sending::Open(outbound), .. }) = self.streams.get_mut(&id) else { return };
        let is_listed = !outbound.gathered.is_empty();
        if !is_listed && bytes.len() <= SMALL_BYTES {
            outbound.gathered.reserve(outbound.gathered_last);
        }
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
        for at in 0..self.unflushed.len() {
            let id = self.unflushed[at];
            if self.outbound(id).is_some_and(|outbound| outbound.backlog.is_empty()) {
                self.pump(conn, id);
            }
        }
        self.unflushed.clear();
        self.take_turns(conn);
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

    /// Gives QUIC as much of a backlog as it takes. Where other streams wait for QUIC, this one waits for its turn.
    pub(super) fn pump(&mut self, conn: &mut Connection, id: StreamId) {
        if !self.turns.is_empty() {
            return self.turns.join(id, conn.side());
        }
        let Some((taken_bytes, left)) = self.pump_up_to(conn, id, usize::MAX) else {
            return;
        };
        match left {
            Left::Nothing | Left::PartFull => {}
            Left::Over => self.set_sending(id, Sending::Finished),
            Left::Blocked | Left::TurnOver => {
                self.turns.join(id, conn.side());
                self.turns.blocked(id, taken_bytes);
            }
        }
    }

    /// Gives QUIC up to about `bytes_max` of a backlog. Returns how many it took, and what is left; [`Left::PartFull`] where the rest waits for
    /// another stream.
    fn pump_up_to(&mut self, conn: &mut Connection, id: StreamId, bytes_max: usize) -> Option<(usize, Left)> {
        let mut total_bytes = 0;
        loop {
            let outbound = self.outbound(id)?;
            let target = outbound.target(id);
            let Pumped { returned, taken_bytes, left } =
                outbound.pump(&mut conn.send_stream(target), bytes_max.saturating_sub(total_bytes));
            self.credit_returned |= returned;
            total_bytes += taken_bytes;
            self.given_bytes += taken_bytes as u64;
            if !matches!(left, Left::PartFull) || !self.begin_part(conn, id, target) {
                return Some((total_bytes, left));
            }
        }
    }

    /// Gives QUIC bytes of the streams that wait, in their order.
    fn take_turns(&mut self, conn: &mut Connection) {
        while let Some((id, bytes_max)) = self.turns.next() {
            let Some((taken_bytes, left)) = self.pump_up_to(conn, id, bytes_max) else {
                self.turns.leave(id);
                continue;
            };
            match left {
                Left::Nothing | Left::PartFull => self.turns.leave(id),
                Left::Over => self.set_sending(id, Sending::Finished),
                Left::TurnOver => self.turns.rotate(id),
                Left::Blocked if self.turns.blocked(id, taken_bytes) => break,
                Left::Blocked => {}
            }
        }
    }

    fn set_sending(&mut self, id: StreamId, send: Sending) {
        self.turns.leave(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send = send;
        }
        self.forget_if_over(id);
    }

    /// Resets an outgoing half.
    pub(super) fn abort_out(&mut self, conn: &mut Connection, id: StreamId, code: ErrorCode) {
        if self.outbound(id).is_some() {
            let _ = conn.send_stream(id).reset(code.into());
            self.chains.abandon(id).for_each(|part| drop(conn.send_stream(part).reset(code.into())));
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
