//! The ends of a transfer: who sends and who counts.

use super::content::{Content, Encoded};
use super::path::Transfer;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use stoq::application::{Application, Outbox, Received};
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::queue::{
    Answer, AppPort, Ask, Command, ConnectionEvent, ConnectionId, Credit, Delivery, End, Ending, RequestId,
};
use stoq::record::{ErrorCode, ErrorRecord, Fetch, OkRecord, Put, Request};
use stoq::shard::Descriptor;
use stoq::token::{AnyToken, Ranges};

/// The queue of the server's application.
pub(super) const QUEUE: u64 = 0;
/// What the seed sends of its answers in one poll, bytes.
const TURN_BYTES: usize = 1 << 20;

/// What one flow has come to.
#[derive(Default)]
pub(super) struct Meter {
    bytes: AtomicU64,
    notes: Mutex<Vec<String>>,
}

impl Meter {
    /// Payload bytes that have arrived; they are checked where a token names them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// What went wrong.
    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

/// The server's application.
pub(super) fn server(
    transfer: Transfer,
    content: Option<&Content>,
    meter: &Arc<Meter>,
) -> Box<dyn Application> {
    match content {
        Some(content) if !transfer.client_sends() => {
            Box::new(Serve { content: content.clone(), answers: VecDeque::new(), outbox: Outbox::default() })
        }
        _ => Box::new(Sink { meter: meter.clone(), outbox: Outbox::default() }),
    }
}

/// The client's application, which connects to `remote`.
pub(super) fn client(
    transfer: Transfer,
    content: Option<&Content>,
    remote: SocketAddr,
    meter: &Arc<Meter>,
) -> Box<dyn Application> {
    let work = match content {
        Some(content) if transfer == Transfer::Get => Work::Get(content.clone()),
        Some(content) => Work::Put(content.clone(), None),
        None => Work::Message(vec![0x5a; MESSAGE_BYTES_MAX as usize].into()),
    };
    Box::new(Client {
        remote,
        dialed: false,
        up: None,
        work,
        meter: meter.clone(),
        outbox: Outbox::default(),
    })
}

/// Takes messages and payloads, counts them and keeps nothing.
struct Sink {
    meter: Arc<Meter>,
    outbox: Outbox,
}

impl Application for Sink {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            let Received::Other(delivery) = received else { continue };
            match delivery {
                Delivery::Connection(_, ConnectionEvent::Message { payload, .. }) => {
                    self.meter.count(payload.len())
                }
                Delivery::Piece { piece, .. } => self.meter.count(piece.data.len()),
                Delivery::Asked(request, asked) if matches!(asked.request, Request::Put(_)) => {
                    self.outbox.send(port, Command::accept(request));
                }
                Delivery::Ended(request, End::Checked) => {
                    let failure = ErrorRecord::new(ErrorCode::NotFound, 0, "checked and dropped");
                    self.outbox.send(port, Command::refuse(request, failure));
                }
                Delivery::Connection(_, ConnectionEvent::Closed { reason }) => {
                    self.meter.note(format!("the server's connection closed: {reason}"));
                }
                _ => {}
            }
        }
        worked
    }
}

/// Answers every FETCH out of its content, in the order of the requests, as the seed does.
struct Serve {
    content: Content,
    answers: VecDeque<(RequestId, Credit, Encoded)>,
    outbox: Outbox,
}

impl Serve {
    fn asked(&mut self, port: &mut AppPort, request: RequestId, fetch: Fetch, credit: Credit) {
        let ok = OkRecord { length_bytes: self.content.length, descriptor: None };
        self.outbox.send(port, Command::answer(request, Answer::Ok(ok)));
        if fetch.describe {
            self.outbox.send(port, Command::End(request, Ending::Finish));
            return;
        }
        match Encoded::new(self.content.clone(), fetch.ranges) {
            Ok(encoded) => self.answers.push_back((request, credit, encoded)),
            Err(error) => {
                let failure = ErrorRecord::new(ErrorCode::Malformed, 0, error.to_string());
                self.outbox.send(port, Command::refuse(request, failure));
            }
        }
    }

    fn send(&mut self, port: &mut AppPort) -> bool {
        let (mut sent_bytes, mut worked) = (0, false);
        self.answers.retain_mut(|(request, credit, encoded)| {
            while sent_bytes < TURN_BYTES && port.room() > 1 {
                let Some(bytes) = encoded.next() else {
                    worked = true;
                    // There is room for it.
                    return port.send(Command::End(*request, Ending::Finish)).is_err();
                };
                let len = bytes.len();
                if let Err(bytes) = port.send_data(*request, credit, bytes) {
                    encoded.put_back(bytes);
                    return true;
                }
                sent_bytes += len;
                worked = true;
            }
            true
        });
        worked
    }
}

impl Application for Serve {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            match received {
                Received::Other(Delivery::Asked(request, asked)) => {
                    if let Request::Fetch(fetch) = asked.request {
                        self.asked(port, request, fetch, asked.credit);
                    }
                }
                Received::Other(Delivery::Ended(request, _)) => {
                    self.answers.retain(|answer| answer.0 != request)
                }
                Received::Other(Delivery::Connection(connection, ConnectionEvent::Closed { .. })) => {
                    self.answers.retain(|answer| answer.0.connection != connection);
                }
                _ => {}
            }
        }
        self.outbox.flush(port) && self.send(port) || worked
    }
}

/// What a client does on its connection.
enum Work {
    Message(Bytes),
    Put(Content, Option<Box<Putting>>),
    Get(Content),
}

/// A PUT that was asked.
struct Putting {
    request: RequestId,
    credit: Credit,
    /// None before the server takes it.
    encoded: Option<Encoded>,
}

/// Connects, and transfers over one connection until the end of the run.
struct Client {
    remote: SocketAddr,
    dialed: bool,
    up: Option<(ConnectionId, Credit)>,
    work: Work,
    meter: Arc<Meter>,
    outbox: Outbox<()>,
}

impl Client {
    fn connected(&mut self, port: &mut AppPort, connection: ConnectionId, credit: Credit) {
        self.up = Some((connection, credit));
        match &mut self.work {
            Work::Message(_) => {}
            Work::Put(content, putting) => {
                let Ok(descriptor) = Descriptor::plain(content.token, content.length) else { return };
                let credit = Credit::default();
                let put = Put { queue: QUEUE, lease_s: 0, descriptor, lanes: None };
                let ask = Ask::new(put).with_credit(credit.clone());
                let request = self.outbox.ask(port, connection, ask, ());
                *putting = Some(Box::new(Putting { request, credit, encoded: None }));
            }
            Work::Get(content) => {
                let token = AnyToken::Content(content.token);
                let fetch =
                    Fetch { token, bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false };
                self.outbox.ask(port, connection, Ask::new(fetch), ());
            }
        }
    }

    fn take(&mut self, port: &mut AppPort, delivery: Delivery) {
        match delivery {
            Delivery::Connection(connection, ConnectionEvent::Connected { credit, .. }) => {
                self.connected(port, connection, credit);
            }
            Delivery::Connection(_, ConnectionEvent::Closed { reason }) => {
                self.up = None;
                self.meter.note(format!("the client's connection closed: {reason}"));
            }
            Delivery::ConnectFailed { reason, .. } => self.meter.note(format!("not connected: {reason}")),
            Delivery::Piece { piece, .. } => self.meter.count(piece.data.len()),
            Delivery::Answered(_, Answer::Ok(_)) => {
                if let Work::Put(content, Some(putting)) = &mut self.work {
                    putting.encoded = Encoded::new(content.clone(), Ranges::all()).ok();
                }
            }
            Delivery::Ended(_, End::Failed(failure)) => {
                self.meter.note(format!("{}: {}", failure.code.name(), failure.reason()));
            }
            Delivery::Ended(..) => self.meter.note("the payload ended before the run".into()),
            _ => {}
        }
    }

    fn send(&mut self, port: &mut AppPort) -> bool {
        let Some((connection, credit)) = &self.up else { return false };
        let mut worked = false;
        match &mut self.work {
            Work::Message(message) => {
                while port.send_message(*connection, credit, QUEUE, message.clone()).is_ok() {
                    worked = true;
                }
            }
            Work::Put(_, Some(putting)) => {
                let Putting { request, credit, encoded: Some(encoded) } = &mut **putting else {
                    return false;
                };
                while let Some(bytes) = encoded.next() {
                    if let Err(bytes) = port.send_data(*request, credit, bytes) {
                        encoded.put_back(bytes);
                        break;
                    }
                    worked = true;
                }
            }
            Work::Put(..) | Work::Get(_) => {}
        }
        worked
    }
}

impl Application for Client {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = !self.dialed;
        if !std::mem::replace(&mut self.dialed, true) {
            self.outbox.send(port, Command::Connect { tag: 0, remote: self.remote, early: false });
        }
        while let Some(Received::Own((), delivery) | Received::Other(delivery)) = self.outbox.receive(port) {
            worked = true;
            self.take(port, delivery);
        }
        if self.outbox.flush(port) {
            worked |= self.send(port);
        }
        worked
    }
}
