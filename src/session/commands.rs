//! The commands of applications to a session.

use super::asking::Asking;
use super::outcomes::RequestOutcome;
use super::relayed::Relayed;
use super::send::Outbound;
use super::stream::{Role, Sending, Stream};
use super::{Context, Session};
use crate::counters::Counter;
use crate::limits::{MESSAGE_COST_BYTES, REQUESTS_LEN_MAX};
use crate::queue::{
    Answer, CloseReason, Command, ConnectionCommand, Credit, Delivery, End, Ending, RequestId,
    application_failed,
};
use crate::record::{ErrorCode, ErrorRecord, MessageHeader, Record, Request, WORKING};
use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId, VarInt};

impl Session {
    /// Carries out a command.
    pub(crate) fn command(
        &mut self,
        conn: &mut Connection,
        app: usize,
        command: Command,
        cx: &mut Context<'_>,
    ) {
        // A request may wait until the peer allows another stream. Its later commands then wait behind it.
        if !self.unopened.is_empty()
            && command.opens().is_none()
            && let Some(request) = command.of_local()
            && self.waits_to_open(app, request)
        {
            self.unopened.push_back((app, command));
            return;
        }
        match command {
            // The worker handles these.
            Command::Connect { .. } | Command::Abandon { .. } | Command::Reach(_) | Command::Fail => {}
            Command::On(_, ConnectionCommand::Message { queue, payload }) => {
                self.send_message(conn, app, queue, payload, cx);
            }
            Command::On(_, ConnectionCommand::Datagram { queue, payload }) => {
                self.send_datagram(conn, queue, &payload, cx);
            }
            Command::On(_, ConnectionCommand::Have(have)) => {
                if let Some(id) = self.control_out {
                    self.write_record(conn, id, &*have, cx);
                }
            }
            Command::On(_, ConnectionCommand::Disconnect) => {
                self.closed(&CloseReason::Local, cx);
                conn.close(cx.now, ErrorCode::None.into(), Bytes::new());
            }
            Command::Ask(request, _) | Command::Open { request, .. } => {
                self.open(conn, app, request, command, cx);
            }
            Command::Answer(request, answer) => self.answer(conn, app, request, *answer, cx),
            Command::Working(request) => {
                if let Some(id) = self.stream_of(app, request) {
                    self.say_working(conn, id, cx);
                }
            }
            Command::Bytes(request, bytes) => {
                if let Some(id) = self.stream_for_data(app, request) {
                    self.write(conn, id, bytes);
                }
            }
            Command::Raw(request, bytes) => {
                if let Some(id) = self.stream_for_data(app, request) {
                    bytes.into_chunks().into_iter().for_each(|chunk| self.write(conn, id, chunk));
                }
            }
            Command::Pace(request, pace) => {
                if let Some(id) = self.stream_of(app, request)
                    && let Some(Stream { role: Role::Relayed(relayed), .. }) = self.streams.get_mut(&id)
                {
                    relayed.set_pace(pace);
                }
            }
            Command::Stop(request, code) => {
                if let Some(id) = self.stream_of(app, request) {
                    self.stop_reading(conn, id, code);
                }
            }
            Command::End(request, ending) => self.end(conn, app, request, ending, cx),
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
                let takes_bytes = match self.streams.get_mut(&id).map(|stream| &mut stream.role) {
                    Some(Role::Serving(serving)) => serving.accept(),
                    Some(Role::Relayed(_)) => true,
                    _ => false,
                };
                self.write_record(conn, id, &ok, cx);
                if takes_bytes {
                    self.line_up(id);
                } else {
                    self.begin_encoding(id);
                }
            }
            Answer::Holders(holders) => {
                self.write_last(conn, id, &holders, cx);
            }
            Answer::Listed(listed) => {
                self.write_last(conn, id, &listed, cx);
            }
            Answer::Done(done) => {
                let is_read = self.streams.get(&id).is_some_and(|stream| {
                    let whole = matches!(&stream.role, Role::Serving(serving) if serving.has_payload());
                    stream.recv.is_some() && !whole
                });
                self.write_last(conn, id, &done, cx);
                // The payload was held already: its bytes need not be sent.
                if is_read {
                    self.stop_reading(conn, id, ErrorCode::None);
                }
            }
        }
    }

    /// Writes WORKING, unless the peer has not taken an earlier record, or would read it as a part of an encoding.
    fn say_working(&mut self, conn: &mut Connection, id: StreamId, cx: &Context<'_>) {
        if self.outbound(id).is_some_and(|outbound| outbound.takes_working()) {
            cx.counters.add(Counter::RecordsOut, 1);
            self.write_own(conn, id, Bytes::from_static(&WORKING));
        }
    }

    /// Writes the last record of a successful answer.
    fn write_last(&mut self, conn: &mut Connection, id: StreamId, record: &impl Record, cx: &Context<'_>) {
        self.close_role(id, RequestOutcome::Ok, cx);
        self.write_record(conn, id, record, cx);
        self.finish(conn, id);
    }

    /// Notes that the application has ended the peer's request: it gets no more deliveries of it.
    fn close_role(&mut self, id: StreamId, outcome: RequestOutcome, cx: &Context<'_>) {
        self.count_outcome(id, outcome, cx.counters);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.role.close();
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
                    self.close_role(id, RequestOutcome::Ok, cx);
                    self.finish(conn, id);
                }
            }
            Ending::Refuse(failure) => {
                if let Some(id) = stream {
                    self.close_role(id, RequestOutcome::Refused, cx);
                    self.stop_reading(conn, id, failure.code);
                    self.refuse(conn, id, &failure, cx);
                }
            }
            Ending::Cancel => {
                if let Some(id) = stream {
                    self.close_role(id, RequestOutcome::Refused, cx);
                    self.stop_reading(conn, id, ErrorCode::None);
                    self.abort_out(conn, id, ErrorCode::None);
                }
                // A request that waits for the peer to allow another stream is never opened.
                self.unopened.retain(|(of, command)| *of != app || command.of_local() != Some(request));
            }
        }
    }

    /// An application has failed, and answers none of its requests any more: peers would wait for ever. Returns whether it had any here.
    pub(crate) fn fail_application(
        &mut self,
        conn: &mut Connection,
        app: usize,
        cx: &mut Context<'_>,
    ) -> bool {
        let is_unanswered = |role: &Role| match role {
            Role::Serving(serving) => !serving.over && role.app() == Some(app),
            Role::Relayed(relayed) => !relayed.over && !relayed.request.is_local() && relayed.app == app,
            _ => false,
        };
        let ours = self.local.iter().filter(|((of, _), _)| *of == app).map(|(_, id)| *id);
        let peers = self.streams.iter().filter(|(_, stream)| is_unanswered(&stream.role)).map(|(id, _)| *id);
        let failed: Vec<_> = ours.chain(peers).collect();
        let unopened = self.unopened.len();
        self.unopened.retain(|(of, _)| *of != app);
        let failure = application_failed();
        for &id in &failed {
            self.close_role(id, RequestOutcome::Refused, cx);
            self.stop_reading(conn, id, failure.code);
            if self.streams.get(&id).is_some_and(|stream| stream.role.is_peer_request()) {
                self.refuse(conn, id, &failure, cx);
            } else {
                self.abort_out(conn, id, failure.code);
            }
        }
        !failed.is_empty() || unopened > self.unopened.len()
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
        } else if is_about_leases(&command) && self.peer.settings.is_some_and(|s| s.leases != Some(1)) {
            let reason = "the peer takes no LIST, STAT, REMOVE or RENEW; it keeps nothing, or is of a version before them";
            Some((ErrorCode::UnknownRecord, reason))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            let failure = ErrorRecord::new(code, 0, reason);
            cx.ports[app].deliver(Delivery::Ended(request, End::Failed(failure)));
            return;
        }
        if is_about_leases(&command) && self.peer.settings.is_none() {
            // A peer that does not know these requests takes them for a fault: its SETTINGS tell.
            self.unopened.push_back((app, command));
            return;
        }
        let Some(id) = conn.streams().open(Dir::Bi) else {
            self.unopened.push_back((app, command));
            return;
        };
        self.local.insert((app, request.number()), id);
        self.silence.changes += 1;
        match command {
            Command::Ask(_, ask) => {
                let mut out = Vec::new();
                cx.counters.add(Counter::RecordsOut, ask.routed.emit_records(&mut out));
                let puts = matches!(ask.routed.request, Request::Put(_));
                let (asking, credit) = Asking::new(app, request, *ask);
                self.add_request(id, Role::Asking(Box::new(asking)), credit.unwrap_or_default());
                self.write_own(conn, id, out.into());
                if !puts {
                    self.finish(conn, id);
                }
            }
            Command::Open { credit, pace, .. } => {
                self.add_request(id, Role::Relayed(Relayed::answer(app, request, pace)), credit);
            }
            _ => {}
        }
    }

    /// Carries out the commands that waited for streams, or for the peer's SETTINGS.
    pub(super) fn open_waiting(&mut self, conn: &mut Connection, cx: &mut Context<'_>) {
        for _ in 0..self.unopened.len() {
            if let Some((app, command)) = self.unopened.pop_front() {
                self.command(conn, app, command, cx);
            }
        }
    }

    fn add_request(&mut self, id: StreamId, role: Role, credit: Credit) {
        self.streams.insert(id, Stream::new(role, Sending::Open(Outbound::new(credit))));
    }

    fn send_datagram(&mut self, conn: &mut Connection, queue: u64, payload: &[u8], cx: &Context<'_>) {
        let mut record = Vec::with_capacity(payload.len() + 16);
        MessageHeader { queue, token: None }.emit_record_front(payload.len(), &mut record);
        record.extend_from_slice(payload);
        cx.counters.add(Counter::RecordsOut, 1);
        // With `drop`, the oldest waiting datagram makes room: it is late already.
        if conn.datagrams().send(record.into(), true).is_err() {
            cx.counters.add(Counter::DropDatagramTooBig, 1);
        }
    }

    /// Sends a message, or keeps it until the peer allows its stream.
    pub(crate) fn send_message(
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
                self.streams.insert(id, Stream::writing(self.message_credit.clone()));
                id
            }
        };
        cx.counters.add(Counter::RecordsOut, 1);
        let len = payload.len();
        self.write_behind(conn, id, (payload, len + MESSAGE_COST_BYTES), |front| {
            MessageHeader { queue, token: None }.emit_record_front(len, front);
        });
    }

    fn waits_to_open(&self, app: usize, request: RequestId) -> bool {
        let mut unopened = self.unopened.iter();
        request.is_local() && unopened.any(|(of, command)| *of == app && command.opens() == Some(request))
    }

    /// The stream that an application writes data to.
    fn stream_for_data(&mut self, app: usize, request: RequestId) -> Option<StreamId> {
        let id = self.stream_of(app, request)?;
        // The peer would read an ERROR after a byte of the answer as part of the encoding.
        if !request.is_local() {
            self.begin_encoding(id);
        }
        Some(id)
    }

    fn stream_of(&self, app: usize, request: RequestId) -> Option<StreamId> {
        if request.is_local() {
            return self.local.get(&(app, request.number())).copied();
        }
        let id = StreamId::from(VarInt::from_u64(request.number()).ok()?);
        let stream = self.streams.get(&id)?;
        (stream.role.is_peer_request() && matches!(stream.send, Sending::Open(_))).then_some(id)
    }
}

fn is_about_leases(command: &Command) -> bool {
    matches!(command, Command::Ask(_, ask) if ask.routed.request.is_about_leases())
}
