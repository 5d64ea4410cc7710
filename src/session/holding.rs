//! What is kept of a stream's bytes, and what the connection's window is charged for it.

use super::flow::{FlowControl, HeldBytes};
use super::reading::Reading;
use super::stream::{Role, Stream};
use crate::record::RecordReader;
use quinn_proto::{Connection, ReadError, StreamId};

/// Memory of a frame that QUIC keeps beside its bytes: its place among the others, and the rest of a small datagram with its allocation, bytes.
const FRAME_COST_BYTES: usize = 256;

impl Stream {
    /// Charges the connection's window for what is kept of this stream: bytes behind gaps, records that have not arrived whole, pieces at verify
    /// threads, and the memory of frames that QUIC keeps until the consumer has room. QUIC itself charges their bytes.
    #[inline]
    pub(super) fn charge(&mut self, conn: &mut Connection, flow: &mut FlowControl) {
        let record_bytes = self.recv.as_ref().map_or(0, RecordReader::buffered_bytes);
        let taken = match &self.role {
            Role::Messages(messages) => messages.waiting_bytes(),
            Role::Serving(serving) => serving.checking_bytes(),
            Role::Asking(asking) => asking.checking_bytes(),
            _ => 0,
        };
        let other_bytes = self.order.held_bytes() + taken + self.asleep * FRAME_COST_BYTES;
        let kept = HeldBytes { record_bytes, other_bytes };
        if kept != self.charged {
            flow.holds(std::mem::replace(&mut self.charged, kept), kept);
            flow.charge(conn);
        }
    }

    /// Whether the ring of its application takes more messages of this connection.
    #[inline]
    pub(super) fn has_place(&self, cx: &mut Reading<'_, '_>) -> bool {
        match &self.role {
            Role::Messages(messages) => messages.has_place(cx),
            _ => true,
        }
    }

    /// Takes the bytes of a stream that waits for its consumer out of QUIC if there may be too many gaps between them.
    pub(super) fn hold(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        flow: &mut FlowControl,
    ) -> Result<(), ReadError> {
        self.asleep = self.frames;
        self.charge(conn, flow);
        // A stream that holds a whole window is examined only now and then: each time takes at least one frame.
        let has_room = self.order.held_bytes() < flow.stream_window_bytes();
        let may_have_gaps = has_room && (flow.has_gaps() || self.order.is_apart());
        let looks = may_have_gaps || self.frames >= self.role.frames_asleep_max();
        if self.recv.is_none() || self.order.is_complete() || !looks {
            return Ok(());
        }
        (self.frames, self.asleep) = (0, 0);
        self.order.take_apart();
        loop {
            let mut recv = conn.recv_stream(self.source.id(id));
            let Ok(mut chunks) = recv.read(false) else { return Ok(()) };
            let before = self.order.taken_bytes();
            let more = self.order.hold(&mut chunks, flow.stream_window_bytes(), flow.part_bytes());
            let _ = chunks.finalize();
            flow.taken(conn, self.order.taken_bytes() - before);
            // QUIC gives the peer credit for the bytes taken out: part by part, the window takes it back.
            self.charge(conn, flow);
            if !more? {
                return Ok(());
            }
        }
    }
}
