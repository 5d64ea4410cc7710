//! What applications ask of a session.

use super::answers::Asked;
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::tally::Outcome;
use super::{Context, End, Session};
use crate::counters::Counter;
use crate::limits::REQUESTS_LEN_MAX;
use crate::queue::{Answer, Ask, Command, ConnectionCommand, Delivery, End as RequestEnd, Ending, RequestId};
use crate::record::{ErrorCode, ErrorRecord, Fetch, MessageHeader, Payload, RecordType, Request};
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
        if command.opens().is_none()
            && let Some(request) = command.of_local()
            && self.waits_to_open(app, request)
        {
            self.unopened.push_back((app, command));
            return;
        }
        match command {
            // The worker itself connects.
            Command::Connect { .. } | Command::Reach(_) => {}
            Command::On(_, command) => self.on_connection(conn, app, command, cx),
            Command::Ask(request, _) | Command::Open { request, .. } => {
                self.open(conn, app, request, command, cx);
            }
            Command::Answer(request, answer) => self.answer(conn, app, request, answer, cx),
            Command::Bytes(request, bytes) => {
                if let Some(id) = self.stream_of(app, request) {
                    // An ERROR after a byte of the answer would be read as a part of an encoding.
                    if !request.is_local() {
                        self.begin_encoding(id);
                    }
                    bytes.into_chunks().into_iter().for_each(|chunk| self.write(conn, id, chunk));
                }
            }
            Command::Pace(request, pace) => {
                if let Some(id) = self.stream_of(app, request)
                    && let Some(inbound) = self.inbound.get_mut(&id)
                {
                    inbound.set_pace(pace);
                }
            }
            Command::Take(request, bytes) => self.take_back(conn, app, request, bytes, cx),
            Command::Stop(request, code) => {
                if let Some(id) = self.stream_of(app, request) {
                    self.inbound.remove(&id);
                    let _ = conn.recv_stream(id).stop(code.into());
                    if let Some(answering) = self.answering.get_mut(&id) {
                        *answering = Some(app);
                    }
                }
            }
            Command::End(request, ending) => self.end(conn, app, request, ending, cx),
        }
    }

    fn on_connection(
        &mut self,
        conn: &mut Connection,
        app: usize,
        command: ConnectionCommand,
        cx: &mut Context<'_>,
    ) {
        match command {
            ConnectionCommand::Disconnect => {
                self.closed("closed here", cx);
                conn.close(cx.now, ErrorCode::None.into(), Bytes::new());
            }
            ConnectionCommand::Message { queue, payload } => self.send_message(conn, app, queue, payload, cx),
            ConnectionCommand::Datagram { queue, payload } => self.send_datagram(conn, queue, &payload, cx),
            ConnectionCommand::Have(have) => {
                if let Some(id) = self.control_out {
                    self.write_record(conn, id, &have, cx);
                }
            }
        }
    }

    fn answer(
        &mut self,
        conn: &mut Connection,
        app: usize,
        request: RequestId,
        answer: Answer,
        cx: &mut Context<'_>,
    ) {
        let Some(id) = self.stream_of(app, request) else { return };
        match answer {
            Answer::Ok(ok) => {
                let accepts = self.inbound.get_mut(&id).is_some_and(Inbound::accept_put);
                self.write_record(conn, id, &ok, cx);
                if accepts {
                    self.line_up(id);
                } else {
                    self.begin_encoding(id);
                }
            }
            Answer::Holders(holders) => {
                self.tally(id, Outcome::Ok, cx.counters);
                self.write_record(conn, id, &holders, cx);
                self.finish(conn, id);
            }
            Answer::Done(done) => {
                self.tally(id, Outcome::Ok, cx.counters);
                self.write_record(conn, id, &done, cx);
                self.finish(conn, id);
                // A payload that was here already: its bytes need not come.
                if self.inbound.get(&id).is_some_and(|inbound| !inbound.is_complete()) {
                    self.inbound.remove(&id);
                    let _ = conn.recv_stream(id).stop(ErrorCode::None.into());
                }
            }
        }
    }

    fn end(
        &mut self,
        conn: &mut Connection,
        app: usize,
        request: RequestId,
        ending: Ending,
        cx: &mut Context<'_>,
    ) {
        let stream = self.stream_of(app, request);
        match ending {
            Ending::Finish => {
                if let Some(id) = stream {
                    self.tally(id, Outcome::Ok, cx.counters);
                    self.finish(conn, id);
                }
            }
            Ending::Refuse(failure) => {
                if let Some(id) = stream {
                    self.inbound.remove(&id);
                    let _ = conn.recv_stream(id).stop(failure.code.into());
                    self.refuse(conn, id, &failure, cx);
                }
            }
            Ending::Cancel => {
                if let Some(id) = stream {
                    if let Some(inbound) = self.inbound.remove(&id) {
                        self.forget_local(&inbound);
                    }
                    let _ = conn.recv_stream(id).stop(ErrorCode::None.into());
                    self.tally(id, Outcome::Refused, cx.counters);
                    self.abort_out(conn, id, ErrorCode::None);
                }
                // One that waits for the peer to allow another stream is never opened.
                self.unopened.retain(|(of, command)| *of != app || command.of_local() != Some(request));
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
            cx.ports[app].deliver(Delivery::Ended(request, RequestEnd::Failed(failure)));
            return;
        }
        let Some(id) = conn.streams().open(Dir::Bi) else {
            self.unopened.push_back((app, command));
            return;
        };
        self.local.insert((app, request.number), id);
        match command {
            Command::Ask(_, ask) => {
                let Ask { routed, credit } = *ask;
                let answer = match &routed.request {
                    Request::Put(_) => Inbound::put_answer(app, request),
                    Request::Fetch(fetch) => {
                        let Fetch { token, lanes, ref ranges, describe, .. } = *fetch;
                        let (ranges, pace) = (ranges.clone(), credit.clone());
                        let asked = Asked { token, lanes, ranges, describe, pace };
                        Inbound::fetch_answer(app, request, asked)
                    }
                    Request::Locate(_) => Inbound::one_answer(app, request, RecordType::Holders),
                    Request::Mirror(_) => Inbound::one_answer(app, request, RecordType::Done),
                };
                let puts = matches!(routed.request, Request::Put(_));
                let credit = credit.filter(|_| puts).unwrap_or_default();
                self.outbound.insert(id, Outbound::new(credit));
                self.inbound.insert(id, answer.by_route(routed.hop.is_some()));
                let mut out = Vec::new();
                cx.counters.add(Counter::RecordsOut, routed.emit_records(&mut out));
                self.write_own(conn, id, out.into());
                if !puts {
                    self.finish(conn, id);
                }
            }
            Command::Open { credit, pace, .. } => {
                self.outbound.insert(id, Outbound::new(credit));
                self.inbound.insert(id, Inbound::raw_answer(app, request, pace));
            }
            _ => {}
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
                    let command = Command::On(self.id, ConnectionCommand::Message { queue, payload });
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
