//! The requests of a client's tasks on the worker's side: the channel of each answer, and the bytes of PUTs.

use super::call::{AnswerChannel, Batch, FetchAnswer, FetchEvent, PutAnswer};
use super::dispatch::Owner;
use super::error::ClientError;
use super::fetch::Piece;
use super::rotation::Rotation;
use crate::application::Outbox;
use crate::limits::CLIENT_PIECES_LEN;
use crate::queue::{self, AppPort, Ask, Command, ConnectionId, Delivery, End, Ending, RequestId};
use crate::record::{ErrorCode, ErrorRecord, OkRecord};
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use tokio::sync::mpsc::error::TryRecvError;

/// Bytes of one PUT that are given to the worker before the next PUT has its turn.
const TURN_BYTES: usize = 1 << 20;

/// Requests of tasks, by their tickets.
#[derive(Default)]
pub(super) struct Tasks {
    requests: FxHashMap<u64, TaskRequest>,
    /// PUTs that the peer has accepted and whose bytes are not all sent.
    putting: Rotation<u64>,
    /// FETCHes that hold events back.
    holding: Vec<u64>,
}

struct TaskRequest {
    /// The worker's number for it.
    id: RequestId,
    answer: AnswerChannel,
    /// A copy of the request, sent once more if the peer refuses it as too early.
    again: Option<Box<Ask>>,
}

impl Tasks {
    /// Sends a task's request. `early`: the connection was opened for early data, in which a peer may refuse the request.
    pub(super) fn ask(
        &mut self,
        port: &mut AppPort,
        outbox: &mut Outbox<Owner>,
        (connection, early): (ConnectionId, bool),
        (ticket, ask): (u64, Box<Ask>),
        answer: AnswerChannel,
    ) {
        let again = early.then(|| ask.clone());
        let id = outbox.ask(port, connection, ask, Owner::Task(ticket));
        self.requests.insert(ticket, TaskRequest { id, answer, again });
    }

    /// Cancels the request: its task has dropped it.
    pub(super) fn cancel(&mut self, port: &mut AppPort, outbox: &mut Outbox<Owner>, ticket: u64) {
        if let Some(request) = self.requests.remove(&ticket) {
            outbox.cancel(port, request.id);
        }
    }

    /// The request's connection is gone: the task's channel ends without an answer.
    pub(super) fn lost(&mut self, ticket: u64) {
        self.requests.remove(&ticket);
    }

    /// Takes a delivery about a task's request.
    pub(super) fn deliver(
        &mut self,
        port: &mut AppPort,
        outbox: &mut Outbox<Owner>,
        ticket: u64,
        delivery: Delivery,
    ) {
        match delivery {
            Delivery::Answered(_, queue::Answer::Ok(ok)) => self.accepted(ticket, ok),
            Delivery::Piece { shard, piece, .. } => {
                self.event(ticket, FetchEvent::Piece(Piece::new(shard, piece)))
            }
            Delivery::Ended(_, End::Failed(failure)) if failure.code == ErrorCode::TooEarly => {
                self.too_early(port, outbox, ticket, failure);
            }
            Delivery::Ended(_, End::Failed(failure)) => self.failed(ticket, ClientError::Refused(failure)),
            Delivery::Ended(_, End::Silent(silence)) => self.failed(ticket, silence.into()),
            Delivery::Answered(_, queue::Answer::Done(done)) => match self.end(ticket) {
                Some(AnswerChannel::Put(PutAnswer { done: reply, .. }) | AnswerChannel::Done(reply)) => {
                    let _ = reply.send(Ok(done));
                }
                Some(AnswerChannel::Fetch(_) | AnswerChannel::Holders(_) | AnswerChannel::Listed(_))
                | None => {}
            },
            Delivery::Answered(_, queue::Answer::Holders(holders)) => {
                if let Some(AnswerChannel::Holders(reply)) = self.end(ticket) {
                    let _ = reply.send(Ok(holders.holders));
                }
            }
            Delivery::Answered(_, queue::Answer::Listed(listed)) => {
                if let Some(AnswerChannel::Listed(reply)) = self.end(ticket) {
                    let _ = reply.send(Ok(listed));
                }
            }
            Delivery::Ended(_, End::Checked) => {
                if let Some(AnswerChannel::Fetch(fetch)) = self.end(ticket) {
                    fetch.end(FetchEvent::Complete);
                }
            }
            // A client opens no stream that it does not read, and the other deliveries concern no request of its own.
            Delivery::Unreachable(_)
            | Delivery::Ended(_, End::Raw)
            | Delivery::Raw(..)
            | Delivery::Stopped(..)
            | Delivery::Asked(..)
            | Delivery::Forward(..)
            | Delivery::Connection(..)
            | Delivery::ConnectFailed { .. } => {}
        }
    }

    fn end(&mut self, ticket: u64) -> Option<AnswerChannel> {
        self.requests.remove(&ticket).map(|request| request.answer)
    }

    fn accepted(&mut self, ticket: u64, ok: OkRecord) {
        match self.requests.get_mut(&ticket).map(|request| &mut request.answer) {
            Some(AnswerChannel::Put(put)) => {
                let told = put.accepted.take().is_some_and(|accepted| accepted.send(()).is_ok());
                if told {
                    self.putting.push(ticket);
                }
            }
            Some(AnswerChannel::Fetch(_)) => self.event(ticket, FetchEvent::Accepted(ok)),
            Some(AnswerChannel::Holders(_) | AnswerChannel::Done(_) | AnswerChannel::Listed(_)) | None => {}
        }
    }

    fn event(&mut self, ticket: u64, event: FetchEvent) {
        let Some(TaskRequest { answer: AnswerChannel::Fetch(fetch), .. }) = self.requests.get_mut(&ticket)
        else {
            return;
        };
        fetch.held.push(event);
        if fetch.held.len() >= CLIENT_PIECES_LEN {
            fetch.flush();
        }
        if !std::mem::replace(&mut fetch.listed, true) {
            self.holding.push(ticket);
        }
    }

    /// Sends the request once more. A request refused as too early has had no effect, and by the time of the refusal the handshake is over.
    fn too_early(
        &mut self,
        port: &mut AppPort,
        outbox: &mut Outbox<Owner>,
        ticket: u64,
        failure: ErrorRecord,
    ) {
        if let Some(request) = self.requests.get_mut(&ticket)
            && let Some(ask) = request.again.take()
        {
            request.id = outbox.ask(port, request.id.connection, ask, Owner::Task(ticket));
        } else {
            self.failed(ticket, ClientError::Refused(failure));
        }
    }

    fn failed(&mut self, ticket: u64, error: ClientError) {
        match self.end(ticket) {
            Some(AnswerChannel::Fetch(fetch)) => fetch.end(FetchEvent::Failed(error)),
            Some(AnswerChannel::Put(PutAnswer { done: reply, .. }) | AnswerChannel::Done(reply)) => {
                let _ = reply.send(Err(error));
            }
            Some(AnswerChannel::Holders(reply)) => {
                let _ = reply.send(Err(error));
            }
            Some(AnswerChannel::Listed(reply)) => {
                let _ = reply.send(Err(error));
            }
            None => {}
        }
    }

    /// Sends bytes of a few PUTs, as long as ring and credit have room. Returns whether any were sent, or PUTs are left to look at.
    pub(super) fn put(&mut self, port: &mut AppPort, outbox: &mut Outbox<Owner>) -> bool {
        let mut worked = false;
        let requests = &mut self.requests;
        let goes_on = self.putting.look(|ticket| {
            let Entry::Occupied(mut entry) = requests.entry(*ticket) else { return false };
            let TaskRequest { id, answer: AnswerChannel::Put(put), .. } = entry.get_mut() else {
                return false;
            };
            match put.turn(*id, port) {
                PutTurn::Blocked => true,
                PutTurn::Sent => {
                    worked = true;
                    true
                }
                PutTurn::Over => {
                    worked = true;
                    outbox.send(port, Command::End(*id, Ending::Finish));
                    false
                }
                PutTurn::GivenUp => false,
            }
        });
        worked || goes_on
    }

    #[cfg(test)]
    pub(super) fn looks(&self) -> usize {
        self.putting.looks
    }

    /// Whether any FETCH holds events back.
    pub(super) fn is_holding(&self) -> bool {
        !self.holding.is_empty()
    }

    /// Hands on all held events.
    pub(super) fn flush(&mut self) {
        for ticket in std::mem::take(&mut self.holding) {
            if let Some(TaskRequest { answer: AnswerChannel::Fetch(fetch), .. }) =
                self.requests.get_mut(&ticket)
            {
                fetch.listed = false;
                fetch.flush();
            }
        }
    }
}

impl FetchAnswer {
    /// Hands on the held events. A task that is gone has sent, or will send, [`Call::Cancel`](super::call::Call::Cancel).
    fn flush(&mut self) {
        if !self.held.is_empty() {
            let _ = self.events.send(std::mem::take(&mut self.held));
        }
    }

    fn end(mut self, event: FetchEvent) {
        self.held.push(event);
        self.flush();
    }
}

enum PutTurn {
    Sent,
    /// The ring or the credit is full, or the task has given no bytes.
    Blocked,
    Over,
    GivenUp,
}

impl PutAnswer {
    fn turn(&mut self, request: RequestId, port: &mut AppPort) -> PutTurn {
        let mut sent = 0;
        while sent < TURN_BYTES {
            let Some(bytes) = self.unsent.pop_front() else {
                match self.data.try_recv() {
                    Ok(Batch::Bytes(bytes)) => self.unsent = bytes.into(),
                    Ok(Batch::End) => return PutTurn::Over,
                    Err(TryRecvError::Disconnected) => return PutTurn::GivenUp,
                    Err(TryRecvError::Empty) => break,
                }
                continue;
            };
            let len = bytes.len();
            if let Err(bytes) = port.send_data(request, &self.credit, bytes) {
                self.unsent.push_front(bytes);
                break;
            }
            sent += len;
        }
        if sent > 0 { PutTurn::Sent } else { PutTurn::Blocked }
    }
}
