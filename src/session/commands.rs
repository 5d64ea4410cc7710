//! What applications ask of a session.

use super::answers::Asked;
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::tally::Outcome;
use super::{Context, End, Session};
use crate::counters::Counter;
use crate::limits::REQUESTS_LEN_MAX;
use crate::queue::{Command, Credit, Delivery, RequestId};
use crate::record::{
    Done, ErrorCode, ErrorRecord, Fetch, Holders, Hop, Locate, MessageHeader, OkRecord, Payload, Put,
    RecordType,
};
use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId, VarInt};

impl Session {
    /// Carries out what an application asks.
    pub(crate) fn command(
        &mut self,
        conn: &mut Connection,
        app: usize,
        command: Command,
        cx: &mut Context<'_>,
    ) {
        // What follows a request that waits for the peer to allow another stream waits with it.
        if let Command::Raw { request, .. } | Command::Finish { request } | Command::Pace { request, .. } =
            command
            && self.waits_to_open(app, request)
        {
            self.unopened.push_back((app, command));
            return;
        }
        match command {
            Command::Connect { .. } | Command::Reach { .. } => unreachable!("the worker itself connects"),
            Command::Disconnect { .. } => {
                self.closed("closed here", cx);
                conn.close(cx.now, ErrorCode::None.into(), Bytes::new());
            }
            Command::Message { queue, payload, .. } => self.send_message(conn, app, queue, payload, cx),
            Command::Datagram { queue, payload, .. } => self.send_datagram(conn, queue, &payload, cx),
            Command::Put { request, .. }
            | Command::Fetch { request, .. }
            | Command::Locate { request, .. }
            | Command::Mirror { request, .. }
            | Command::Open { request, .. } => self.open(conn, app, request, command, cx),
            Command::Accept { request } => self.accept_put(conn, app, request, cx),
            Command::Answer { request, length, descriptor } => {
                if let Some(id) = self.stream_of(app, request) {
                    let descriptor = descriptor.map(|descriptor| *descriptor);
                    self.write_record(conn, id, &OkRecord { length_bytes: length, descriptor }, cx);
                    self.begin_encoding(id);
                }
            }
            Command::Holders { request, holders } => {
                if let Some(id) = self.stream_of(app, request) {
                    self.tally(id, Outcome::Ok, cx.counters);
                    self.write_record(conn, id, &Holders { holders }, cx);
                    self.finish(conn, id);
                }
            }
            Command::Have { have, .. } => {
                if let Some(id) = self.control_out {
                    self.write_record(conn, id, &have, cx);
                }
            }
            Command::Data { request, bytes } => {
                if let Some(id) = self.stream_of(app, request) {
                    self.write(conn, id, bytes);
                }
            }
            Command::Raw { request, bytes } => {
                if let Some(id) = self.stream_of(app, request) {
                    // What passes here is not read: an ERROR after it could be a part of an encoding.
                    if !request.is_local() {
                        self.begin_encoding(id);
                    }
                    bytes.into_chunks().into_iter().for_each(|chunk| self.write(conn, id, chunk));
                }
            }
            Command::Pace { request, pace } => {
                if let Some(id) = self.stream_of(app, request)
                    && let Some(inbound) = self.inbound.get_mut(&id)
                {
                    inbound.set_pace(pace);
                }
            }
            Command::Take { request, bytes } => self.take_back(conn, app, request, bytes, cx),
            Command::Stop { request, code } => {
                if let Some(id) = self.stream_of(app, request) {
                    self.inbound.remove(&id);
                    let _ = conn.recv_stream(id).stop(code.into());
                    if let Some(answering) = self.answering.get_mut(&id) {
                        *answering = Some(app);
                    }
                }
            }
            Command::Finish { request } => {
                if let Some(id) = self.stream_of(app, request) {
                    self.tally(id, Outcome::Ok, cx.counters);
                    self.finish(conn, id);
                }
            }
            Command::Done { request, bytes, token } => {
                if let Some(id) = self.stream_of(app, request) {
                    self.tally(id, Outcome::Ok, cx.counters);
                    self.write_record(conn, id, &Done { bytes, token }, cx);
                    self.finish(conn, id);
                    // A payload that was here already: its bytes need not come.
                    if self.inbound.get(&id).is_some_and(|inbound| !inbound.is_complete()) {
                        self.inbound.remove(&id);
                        let _ = conn.recv_stream(id).stop(ErrorCode::None.into());
                    }
                }
            }
            Command::Refuse { request, failure } => {
                if let Some(id) = self.stream_of(app, request) {
                    self.inbound.remove(&id);
                    let _ = conn.recv_stream(id).stop(failure.code.into());
                    self.refuse(conn, id, &failure, cx);
                }
            }
            Command::Cancel { request } => {
                if let Some(id) = self.stream_of(app, request) {
                    if let Some(inbound) = self.inbound.remove(&id) {
                        self.forget_local(&inbound);
                    }
                    let _ = conn.recv_stream(id).stop(ErrorCode::None.into());
                    self.tally(id, Outcome::Refused, cx.counters);
                    self.abort_out(conn, id, ErrorCode::None);
                }
                // One that waits for the peer to allow another stream is never opened.
                self.unopened.retain(|(of, command)| *of != app || !command.is_of(request));
            }
        }
    }

    fn open(
        &mut self,
        conn: &mut Connection,
        app: usize,
        request: RequestId,
        command: Command,
        cx: &mut Context<'_>,
    ) {
        let refusal = if self.peer.going_away {
            Some((ErrorCode::GoingAway, "the peer takes no new requests"))
        } else if (self.local.len() + self.unopened_requests()) as u64 >= REQUESTS_LEN_MAX {
            Some((ErrorCode::Busy, "too many requests in flight on this connection"))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            let failure = ErrorRecord::new(code, 0, reason);
            cx.ports[app].deliver(Delivery::Failed { request, failure });
            return;
        }
        let Some(id) = conn.streams().open(Dir::Bi) else {
            self.unopened.push_back((app, command));
            return;
        };
        self.local.insert((app, request.number), id);
        match command {
            Command::Put { hop, queue, descriptor, lanes, lease_s, credit, .. } => {
                self.begin(conn, id, hop, credit, Inbound::put_answer(app, request), cx);
                let put = Put { queue, lease_s, descriptor: *descriptor, lanes };
                self.write_record(conn, id, &put, cx);
            }
            Command::Fetch { hop, token, lanes, ranges, max_bytes, describe, pace, .. } => {
                let only = lanes.as_ref().map(|(lanes, _)| *lanes);
                let fetch =
                    Fetch { token, bytes_max: max_bytes, lanes: only, ranges: ranges.clone(), describe };
                let asked = Asked { token, lanes, ranges, describe, pace };
                let answer = Inbound::fetch_answer(app, request, asked);
                self.begin(conn, id, hop, Credit::default(), answer, cx);
                self.write_record(conn, id, &fetch, cx);
                self.finish(conn, id);
            }
            Command::Locate { hop, token, .. } => {
                let answer = Inbound::one_answer(app, request, RecordType::Holders);
                self.begin(conn, id, hop, Credit::default(), answer, cx);
                self.write_record(conn, id, &Locate { token }, cx);
                self.finish(conn, id);
            }
            Command::Mirror { hop, mirror, .. } => {
                let answer = Inbound::one_answer(app, request, RecordType::Done);
                self.begin(conn, id, hop, Credit::default(), answer, cx);
                self.write_record(conn, id, &*mirror, cx);
                self.finish(conn, id);
            }
            Command::Open { credit, pace, .. } => {
                self.begin(conn, id, None, credit, Inbound::raw_answer(app, request, pace), cx);
            }
            _ => unreachable!("only requests open streams"),
        }
    }

    /// Sets up both halves of a request of ours, and says by which gateways it goes.
    fn begin(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        hop: Option<Box<Hop>>,
        credit: Credit,
        answer: Inbound,
        cx: &Context<'_>,
    ) {
        self.outbound.insert(id, Outbound::new(credit));
        self.inbound.insert(id, answer.by_route(hop.is_some()));
        if let Some(hop) = hop {
            self.write_record(conn, id, &*hop, cx);
        }
    }

    /// Reads a request that was relayed here after all.
    fn take_back(
        &mut self,
        conn: &mut Connection,
        app: usize,
        request: RequestId,
        bytes: Payload,
        cx: &mut Context<'_>,
    ) {
        let Some(id) = self.stream_of(app, request) else { return };
        let Some(outbound) = self.outbound.get(&id) else { return };
        let mut inbound = Inbound::routed(outbound.credit());
        let ended = self.inbound.remove(&id).is_none();
        let mut end = End::Blocked;
        let mut reading = self.reading(id, cx);
        for chunk in bytes.into_chunks() {
            if let Err(fault) = inbound.feed(chunk, &mut reading) {
                end = End::Fault(fault);
                break;
            }
        }
        if ended && matches!(end, End::Blocked) {
            end = inbound.finish().map_or_else(End::Fault, |()| End::Finished);
        }
        self.after_read(conn, id, inbound, end, cx);
        self.line_up(id);
    }

    fn accept_put(&mut self, conn: &mut Connection, app: usize, request: RequestId, cx: &mut Context<'_>) {
        let Some(id) = self.stream_of(app, request) else { return };
        if let Some(inbound) = self.inbound.get_mut(&id) {
            inbound.accept_put();
            self.line_up(id);
            self.write_record(conn, id, &OkRecord { length_bytes: 0, descriptor: None }, cx);
        }
    }

    fn send_datagram(&mut self, conn: &mut Connection, queue: u64, payload: &[u8], cx: &Context<'_>) {
        let mut record = Vec::with_capacity(payload.len() + 16);
        MessageHeader { queue, token: None }.emit_record_front(payload.len(), &mut record);
        record.extend_from_slice(payload);
        cx.counters.add(Counter::RecordsOut, 1);
        // With `drop` the oldest datagram that waits makes room: it is late already.
        if conn.datagrams().send(record.into(), true).is_err() {
            cx.counters.add(Counter::DropDatagramTooBig, 1);
        }
    }

    fn send_message(
        &mut self,
        conn: &mut Connection,
        app: usize,
        queue: u64,
        payload: Bytes,
        cx: &Context<'_>,
    ) {
        let id = match self.messages.get(&queue) {
            Some(&id) => id,
            None => {
                let Some(id) = conn.streams().open(Dir::Uni) else {
                    let command = Command::Message { connection: self.id, queue, payload };
                    self.unopened.push_back((app, command));
                    return;
                };
                self.messages.insert(queue, id);
                self.outbound.insert(id, Outbound::new(self.message_credit.clone()));
                id
            }
        };
        self.write_front(id, |front| {
            MessageHeader { queue, token: None }.emit_record_front(payload.len(), front);
        });
        cx.counters.add(Counter::RecordsOut, 1);
        self.write(conn, id, payload);
    }

    fn waits_to_open(&self, app: usize, request: RequestId) -> bool {
        let mut unopened = self.unopened.iter();
        request.is_local() && unopened.any(|(of, command)| *of == app && command.opens() == Some(request))
    }

    fn stream_of(&self, app: usize, request: RequestId) -> Option<StreamId> {
        if request.is_local() {
            return self.local.get(&(app, request.number)).copied();
        }
        let id = StreamId::from(VarInt::from_u64(request.number).ok()?);
        self.outbound.contains_key(&id).then_some(id)
    }
}
