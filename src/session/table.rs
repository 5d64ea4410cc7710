//! The lives of a session's streams: they are accepted, read in their turn, and end.

use super::control::Opening;
use super::fault::Fault;
use super::flow::HeldBytes;
use super::outcomes::RequestOutcome;
use super::reading::Reading;
use super::send::Outbound;
use super::serving::Serving;
use super::stream::{Queued, ReadEnd, Role, Sending, Stream};
use super::{Context, RequestSeats, Session};
use crate::counters::Counter;
use crate::limits::{STREAM_ERROR_WINDOW_S, STREAM_ERRORS_MAX};
use crate::peer_text::PeerText;
use crate::queue::{CloseReason, ConnectionEvent, Credit, Delivery, End, RequestId};
use crate::record::{ErrorCode, ErrorRecord};
use bytes::Bytes;
use quinn_proto::{Connection, Dir, ReadError, StreamId, VarInt};
use std::time::{Duration, Instant};

impl Session {
    pub(super) fn accept(&mut self, conn: &mut Connection, id: StreamId, dir: Dir) {
        // A client whose handshake is complete is no replay, nor are its earlier bytes. A client takes no early data.
        let early = self.early && conn.side().is_server();
        let stream = match dir {
            Dir::Uni => {
                // Where both sides waited for each other's credit, neither would read.
                let pace = conn.side().is_server().then(|| self.message_credit.clone());
                Stream::new(Role::Opening(Opening { early, pace }), Sending::Over)
            }
            Dir::Bi => {
                // Answers to one peer go out in the order of its requests.
                self.chains.opened();
                self.arrivals = self.arrivals.saturating_sub(1);
                let _ = conn.send_stream(id).set_priority(self.arrivals);
                let credit = Credit::within(&self.answers_credit);
                let send = Sending::Open(Outbound::new(credit.clone()));
                let (seat, has_seat) = self.seats.as_ref().map(RequestSeats::take).unzip();
                let mut serving = Serving::new(early, credit);
                serving.has_seat = has_seat.unwrap_or(true);
                Stream { _seat: seat, ..Stream::new(Role::Serving(serving), send) }
            }
        };
        self.streams.insert(id, stream);
        self.line_up(id);
    }

    /// Notes that the peer has acknowledged every byte of a half.
    pub(super) fn acknowledged(&mut self, id: StreamId, now: Instant) {
        let id = self.chains.acknowledged(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.unacknowledged = stream.unacknowledged.saturating_sub(1);
        if matches!(stream.send, Sending::Finished) && stream.unacknowledged == 0 {
            if stream.is_unanswered() {
                self.answered_at = Some(now);
            }
            stream.send = Sending::Over;
            self.forget_if_over(id);
        }
    }

    /// Puts a stream in line for the next turn. It is in one line at most, however often more of it arrives.
    pub(super) fn line_up(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.queued == Queued::No
        {
            stream.queued = Queued::Readable;
            self.readable.push_back(id);
        }
    }

    /// Notes that more of a stream has arrived.
    #[inline]
    pub(super) fn arrived(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return self.arrived_in_part(conn, id, cx) };
        stream.frames += 1;
        match stream.queued {
            Queued::Readable => {}
            Queued::No => {
                stream.queued = Queued::Readable;
                self.readable.push_back(id);
            }
            Queued::Paused => self.hold(conn, id, cx),
        }
    }

    /// Notes that more has arrived of a stream that carries on an earlier one, which is in the table.
    #[inline(never)]
    fn arrived_in_part(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) {
        if let Some(first) = self.chains.first_read(id) {
            self.arrived(conn, first, cx);
        }
    }

    /// More of a stream has arrived whose consumer has no room.
    #[cold]
    fn hold(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match stream.hold(conn, id, &mut self.flow) {
            _ if self.flow.is_exceeded() => self.fault(conn, id, Fault::holds_too_much(), cx),
            Err(ReadError::Reset(_)) if stream.role.is_control() => {
                self.fault(conn, id, Fault::control_reset(), cx);
            }
            Err(ReadError::Reset(code)) => self.reset(conn, id, code, cx),
            Ok(()) | Err(ReadError::Blocked) => {}
        }
    }

    /// Drops the bytes that a stream holds: they are no longer read.
    pub(super) fn release(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.flow.holds(std::mem::take(&mut stream.charged), HeldBytes::default());
            stream.asleep = 0;
            stream.order.clear();
        }
    }

    /// Reads the streams in line. Streams whose ring is full stay in line.
    pub(crate) fn read(&mut self, conn: &mut Connection, cx: &mut Context<'_>) -> bool {
        let mut worked = false;
        if !self.readable.is_empty() {
            self.meet_rights(conn, cx);
        }
        for _ in 0..self.readable.len() {
            // The applications were told of the connection's end: credit for its bytes would never be given back.
            if self.closed_told {
                self.readable.clear();
            }
            let Some(id) = self.readable.pop_front() else { break };
            worked |= self.read_stream(conn, id, cx);
        }
        self.settle_chains(conn, cx);
        worked
    }

    fn read_stream(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) -> bool {
        let (connection, owner, leaving) = (self.id, self.owner, self.leaving);
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        stream.queued = Queued::No;
        if stream.recv.is_none() {
            return false;
        }
        let mut reading = Reading {
            connection,
            stream: id,
            owner,
            peer: &mut self.peer,
            flow: &mut self.flow,
            leaving,
            cx,
        };
        let (mut end, worked) = stream.read(conn, id, &mut reading);
        if self.flow.is_exceeded() {
            end = ReadEnd::Fault(Fault::holds_too_much());
        }
        match end {
            ReadEnd::Blocked if matches!(stream.role, Role::Following(_)) => self.follow(conn, id, cx),
            ReadEnd::Blocked => {}
            ReadEnd::Continued => self.continued(conn, id, cx),
            ReadEnd::Later => {
                stream.queued = Queued::Readable;
                self.readable.push_back(id);
            }
            ReadEnd::Paused => {
                stream.queued = Queued::Paused;
                self.paused.push(id);
            }
            ReadEnd::Finished => self.finished(conn, id),
            ReadEnd::Reset(_) if stream.role.is_control() => self.fault(conn, id, Fault::control_reset(), cx),
            ReadEnd::Reset(code) => self.reset(conn, id, code, cx),
            ReadEnd::Fault(fault) => self.fault(conn, id, fault, cx),
        }
        worked
    }

    /// Ends a stream after the peer has ended its half properly.
    pub(super) fn finished(&mut self, conn: &mut Connection, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let is_ours = stream.role.local_request().is_some();
        self.end_reading(conn, id, ErrorCode::None);
        // A complete answer ends a request of ours, even if not all of it was sent.
        if is_ours {
            self.abort_out(conn, id, ErrorCode::None);
        }
    }

    /// Ends a stream whose peer's half was reset.
    fn reset(&mut self, conn: &mut Connection, id: StreamId, code: VarInt, cx: &mut Context<'_>) {
        let id = self.first_of(id);
        self.count_outcome(id, RequestOutcome::Abandoned, cx.counters);
        let code = ErrorCode::from_u64(code.into_inner()).unwrap_or(ErrorCode::Internal);
        let failure = ErrorRecord::new(code, 0, "the peer gave the stream up");
        self.tell(id, End::Failed(failure), cx);
        self.end_reading(conn, id, ErrorCode::None);
        self.abort_out(conn, id, ErrorCode::None);
    }

    /// Ends a stream on which the peer broke the protocol or sent wrong bytes.
    pub(super) fn fault(&mut self, conn: &mut Connection, id: StreamId, fault: Fault, cx: &mut Context<'_>) {
        cx.counters.add(Counter::ProtocolErrors, 1);
        let Some(stream) = self.streams.get(&id) else { return };
        let (is_asked, is_routed) = (stream.role.is_peer_request(), stream.role.is_routed());
        let failure = ErrorRecord::new(fault.code, 0, fault.reason.clone());
        self.fail(id, failure.clone(), cx);
        self.stop_reading(conn, id, fault.code);
        if is_asked {
            self.refuse(conn, id, &failure, cx);
        } else {
            self.abort_out(conn, id, fault.code);
        }
        // Protocol §8: a peer that forwards other nodes' bytes does not lose its connection for them.
        if !is_routed {
            self.count_error(conn, fault, cx);
        } else if fault.counts() && !self.peer.forwards_too_many_errors(cx.now) {
            self.peer.routed_errors.push_back(cx.now);
        }
    }

    /// Ends a request for a fault found here.
    pub(super) fn fail(&mut self, id: StreamId, failure: ErrorRecord, cx: &mut Context<'_>) {
        if failure.code == ErrorCode::BadProof {
            cx.counters.add(Counter::BadProofs, 1);
        }
        self.tell(id, End::Failed(failure), cx);
    }

    /// Tells the application of a request's end. The reason may be the peer's own.
    pub(super) fn tell(&mut self, id: StreamId, end: End, cx: &mut Context<'_>) {
        let (connection, owner, leaving) = (self.id, self.owner, self.leaving);
        if let Some(stream) = self.streams.get_mut(&id) {
            let mut reading = Reading {
                connection,
                stream: id,
                owner,
                peer: &mut self.peer,
                flow: &mut self.flow,
                leaving,
                cx,
            };
            stream.role.fail(end, &mut reading);
        }
    }

    /// Reads no more of a stream, and asks the peer to send no more.
    pub(super) fn stop_reading(&mut self, conn: &mut Connection, id: StreamId, code: ErrorCode) {
        if let Some(stream) = self.streams.get(&id) {
            let _ = conn.recv_stream(stream.source.id(id)).stop(code.into());
        }
        self.end_reading(conn, id, code);
    }

    /// Ends the reading of a stream. A request of ours ends with its answer.
    pub(super) fn end_reading(&mut self, conn: &mut Connection, id: StreamId, code: ErrorCode) {
        self.release(id);
        self.drop_followers(conn, id, code);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.recv = None;
        if let Some((app, request)) = stream.role.local_request() {
            self.local.remove(&(app, request.number()));
            self.silence.changes += 1;
        }
        self.forget_if_over(id);
    }

    pub(super) fn forget_if_over(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.streams.remove(&id);
        }
    }

    /// Protocol §8: three stream errors in a minute close the connection; an error on CONTROL does at once.
    fn count_error(&mut self, conn: &mut Connection, fault: Fault, cx: &mut Context<'_>) {
        if !fault.counts() {
            return;
        }
        let window = Duration::from_secs(STREAM_ERROR_WINDOW_S);
        while self.errors.front().is_some_and(|&at| cx.now.duration_since(at) > window) {
            self.errors.pop_front();
        }
        self.errors.push_back(cx.now);
        if fault.fatal || self.errors.len() >= STREAM_ERRORS_MAX {
            let reason = CloseReason::Fault { code: fault.code, text: PeerText::from(&*fault.reason) };
            self.closed(&reason, cx);
            conn.close(cx.now, fault.code.into(), Bytes::from(fault.reason));
        }
    }

    pub(super) fn stopped(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        code: VarInt,
        cx: &mut Context<'_>,
    ) {
        let code = ErrorCode::from_u64(code.into_inner()).unwrap_or(ErrorCode::Internal);
        self.count_outcome(id, RequestOutcome::Abandoned, cx.counters);
        if let Some((queue, _)) = self.messages.extract_if(|_, stream| *stream == id).next() {
            self.tell_applications(|| ConnectionEvent::MessagesStopped { queue, code }, cx);
        }
        let Some(stream) = self.streams.get(&id) else { return };
        let is_read = stream.recv.is_some();
        if stream.role.is_peer_request() {
            // A peer that stops the answer no longer wants it: the application is told.
            let what = if is_read { "the peer gave the request up" } else { "the peer gave the answer up" };
            if let (true, Some(app)) = (stream.role.is_closed(), stream.role.app()) {
                // The complete answer was sent. The peer's code may say why it rejects the answer.
                let request = RequestId::peer(self.id, id.into());
                cx.ports[app].deliver(Delivery::Stopped(request, code));
            }
            self.tell(id, End::Failed(ErrorRecord::new(code, 0, what)), cx);
            if is_read {
                self.stop_reading(conn, id, code);
            }
        } else if let (Role::Relayed(relayed), true) = (&stream.role, is_read) {
            // An ERROR may still arrive: the answer is read on.
            cx.ports[relayed.app].deliver(Delivery::Stopped(relayed.request, code));
        }
        self.abort_out(conn, id, code);
    }
}
