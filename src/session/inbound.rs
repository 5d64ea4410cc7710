//! One incoming half of a stream: which records may come, where verified bytes go.

use super::{Context, PeerState};
use crate::counters::Counter;
use crate::queue::{ConnectionId, Credit, Delivery, RequestId, WorkerPort};
use crate::record::{
    Done, ErrorCode, ErrorRecord, Fetch, GoAway, MessageHeader, OkRecord, Payload, Put, Record, RecordError,
    RecordReader, RecordType, Settings,
};
use crate::token::{Ranges, Token, VerifiedDecoder, VerifyError};
use bytes::Bytes;
use quinn_proto::{Dir, StreamId};

/// Ring places that one reading of a stream may need: a piece for every 256 KiB, and the events that end a request.
const RING_ROOM_MIN: usize = 64;

/// Why a stream must end.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: ErrorCode,
    pub(super) reason: String,
    /// The connection must end with it.
    pub(super) fatal: bool,
}

impl Fault {
    fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), fatal: false }
    }

    pub(super) fn control_reset() -> Self {
        Self { fatal: true, ..Self::malformed("CONTROL was reset") }
    }

    fn malformed(reason: &str) -> Self {
        Self::new(ErrorCode::Malformed, reason)
    }
}

impl From<RecordError> for Fault {
    fn from(error: RecordError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<VerifyError> for Fault {
    fn from(error: VerifyError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// What a reading of one stream needs beside the stream itself.
pub(super) struct Reading<'a, 'c> {
    pub(super) connection: ConnectionId,
    pub(super) stream: StreamId,
    pub(super) owner: Option<usize>,
    pub(super) peer: &'a mut PeerState,
    pub(super) cx: &'a mut Context<'c>,
}

impl Reading<'_, '_> {
    fn peer_request(&self) -> RequestId {
        RequestId { connection: self.connection, number: self.stream.into() }
    }

    fn queue(&self, queue: u64) -> Result<usize, Fault> {
        self.owner.or_else(|| self.cx.routes.queues.get(&queue).copied()).ok_or_else(|| {
            Fault::new(ErrorCode::NotFound, format!("no application takes queue {queue} here"))
        })
    }

    fn deliver(&mut self, app: usize, delivery: Delivery) {
        self.cx.ports[app].deliver(delivery);
    }
}

#[derive(Debug)]
pub(super) struct Inbound {
    reader: RecordReader,
    kind: Kind,
    /// A stream's first message, when its application had no room for it.
    waiting: Option<Delivery>,
}

#[derive(Debug)]
enum Kind {
    /// The first record says what the stream is for.
    Start {
        dir: Dir,
        credit: Credit,
    },
    Control,
    /// Messages; `app` took the last one, and its ring decides whether more is read.
    Messages {
        app: usize,
    },
    /// The peer puts a payload here.
    Put {
        app: usize,
        body: Body,
        accepted: bool,
    },
    /// The peer fetches; it has nothing more to say.
    Fetch {
        app: usize,
    },
    /// The answer to a PUT of ours.
    PutAnswer {
        app: usize,
        request: RequestId,
        over: bool,
    },
    /// The answer to a FETCH of ours.
    FetchAnswer {
        app: usize,
        request: RequestId,
        token: Token,
        ranges: Ranges,
        body: Option<Body>,
        over: bool,
    },
}

/// A verified encoding as it comes in.
#[derive(Debug)]
struct Body {
    decoder: VerifiedDecoder,
    complete_told: bool,
}

impl Inbound {
    /// A stream that the peer opened.
    pub(super) fn start(dir: Dir, credit: Credit) -> Self {
        Self::of(Kind::Start { dir, credit })
    }

    pub(super) fn put_answer(app: usize, request: RequestId) -> Self {
        Self::of(Kind::PutAnswer { app, request, over: false })
    }

    pub(super) fn fetch_answer(app: usize, request: RequestId, token: Token, ranges: Ranges) -> Self {
        Self::of(Kind::FetchAnswer { app, request, token, ranges, body: None, over: false })
    }

    fn of(kind: Kind) -> Self {
        Self { reader: RecordReader::default(), kind, waiting: None }
    }

    pub(super) fn accept_put(&mut self) {
        if let Kind::Put { accepted, .. } = &mut self.kind {
            *accepted = true;
        }
    }

    pub(super) fn is_peer_request(&self) -> bool {
        matches!(self.kind, Kind::Start { dir: Dir::Bi, .. } | Kind::Put { .. } | Kind::Fetch { .. })
    }

    pub(super) fn local_request(&self) -> Option<RequestId> {
        match &self.kind {
            Kind::PutAnswer { request, .. } | Kind::FetchAnswer { request, .. } => Some(*request),
            _ => None,
        }
    }

    /// The application that takes what comes, once that is known.
    pub(super) fn app(&self) -> Option<usize> {
        match &self.kind {
            Kind::Start { .. } | Kind::Control => None,
            Kind::Messages { app } | Kind::Put { app, .. } | Kind::Fetch { app } => Some(*app),
            Kind::PutAnswer { app, .. } | Kind::FetchAnswer { app, .. } => Some(*app),
        }
    }

    /// Whether every byte of the payload that the peer puts has come.
    pub(super) fn is_complete(&self) -> bool {
        matches!(&self.kind, Kind::Put { body, accepted: true, .. } if body.decoder.is_complete())
    }

    /// False while the application has not yet said whether it takes a PUT.
    pub(super) fn wants_bytes(&self) -> bool {
        !matches!(self.kind, Kind::Put { accepted: false, .. })
    }

    /// Whether the ring takes what the next chunk may bring.
    pub(super) fn has_room(&self, ports: &[WorkerPort]) -> bool {
        // A stream whose application is not known yet brings one event, or a message that waits here.
        self.app().is_none_or(|app| ports[app].room() >= RING_ROOM_MIN)
    }

    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, chunk: Bytes, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if let Some(body) = self.body() {
            return Ok(body.decoder.push(&chunk)?);
        }
        self.reader.push(chunk);
        let drained = self.drain(cx);
        drained.map_err(|fault| Fault { fatal: fault.fatal || self.is_control(), ..fault })
    }

    /// The peer's CONTROL stream: whatever goes wrong on it ends the connection.
    pub(super) fn is_control(&self) -> bool {
        matches!(self.kind, Kind::Control)
    }

    /// Delivers the message that waited, and reads on in what came with it. Called once there is room.
    pub(super) fn resume(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let (Some(app), Some(message)) = (self.app(), self.waiting.take()) else { return Ok(()) };
        cx.deliver(app, message);
        self.drain(cx)
    }

    fn drain(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        while self.body().is_none() && self.waiting.is_none() {
            let Some(header) = self.reader.next_header()? else { return Ok(()) };
            let Some(body) = self.reader.take_body() else { return Ok(()) };
            let kind = header.record_type;
            cx.cx.counters.add(Counter::RecordsIn, 1);
            self.record(kind, body, cx)?;
        }
        // What follows PUT and OK is the verified encoding.
        while let Some(raw) = self.reader.take_raw(usize::MAX) {
            if !self.wants_bytes() {
                return Err(Fault::malformed("payload bytes before the answer to PUT"));
            }
            if let Some(body) = self.body() {
                body.decoder.push(&raw)?;
            }
        }
        Ok(())
    }

    fn body(&mut self) -> Option<&mut Body> {
        match &mut self.kind {
            Kind::Put { body, .. } => Some(body),
            Kind::FetchAnswer { body, .. } => body.as_mut(),
            _ => None,
        }
    }

    fn record(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        match &mut self.kind {
            Kind::Start { dir: Dir::Uni, .. } => match kind {
                RecordType::Settings if !cx.peer.control_seen => {
                    cx.peer.control_seen = true;
                    self.kind = Kind::Control;
                    control_record(kind, body, cx)
                }
                RecordType::Message => self.message(body, cx),
                _ => Err(unexpected(kind, "at the start of a unidirectional stream")),
            },
            Kind::Start { dir: Dir::Bi, credit } => {
                let credit = credit.clone();
                self.request(kind, body, credit, cx)
            }
            Kind::Control => control_record(kind, body, cx),
            Kind::Messages { .. } if kind == RecordType::Message => self.message(body, cx),
            Kind::Messages { .. } => Err(unexpected(kind, "among messages")),
            Kind::Fetch { .. } => Err(unexpected(kind, "after FETCH")),
            Kind::Put { .. } => Err(unexpected(kind, "inside a verified encoding")),
            Kind::PutAnswer { .. } => self.put_answered(kind, body, cx),
            Kind::FetchAnswer { .. } => self.fetch_answered(kind, body, cx),
        }
    }

    fn message(&mut self, mut payload: Payload, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let header = MessageHeader::take_from(&mut payload)?;
        let app = cx.queue(header.queue)?;
        if let Some(token) = header.token
            && token != token_of(&payload)
        {
            cx.cx.counters.add(Counter::BadProofs, 1);
            return Err(Fault::new(ErrorCode::BadProof, "a message does not match its token"));
        }
        let message = Delivery::Message { connection: cx.connection, queue: header.queue, payload };
        let first = matches!(self.kind, Kind::Start { .. });
        self.kind = Kind::Messages { app };
        if first && !self.has_room(cx.cx.ports) {
            self.waiting = Some(message);
        } else {
            cx.deliver(app, message);
        }
        Ok(())
    }

    fn request(
        &mut self,
        kind: RecordType,
        body: Payload,
        credit: Credit,
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let request = cx.peer_request();
        let body = body.to_bytes();
        match kind {
            RecordType::Put => {
                let put = Put::parse(&body)?;
                if put.lanes.is_some() {
                    return Err(Fault::new(
                        ErrorCode::UnsupportedCode,
                        "a PUT of lanes is not supported here",
                    ));
                }
                let app = cx.queue(put.queue)?;
                let (token, length) = (put.descriptor.content(), put.descriptor.length_bytes());
                let body = Body::new(token, length, &Ranges::all())?;
                self.kind = Kind::Put { app, body, accepted: false };
                cx.deliver(app, Delivery::Put { request, token, length, lease_s: put.lease_s });
            }
            RecordType::Fetch => {
                let fetch = Fetch::parse(&body)?;
                let token = fetch.token.content().ok_or_else(|| {
                    Fault::new(ErrorCode::UnsupportedCode, "a FETCH of a set is not supported here")
                })?;
                let app = cx
                    .owner
                    .or(cx.cx.routes.store)
                    .ok_or_else(|| Fault::new(ErrorCode::NotFound, "nothing keeps payloads here"))?;
                self.kind = Kind::Fetch { app };
                let (ranges, max_bytes) = (fetch.ranges, fetch.bytes_max);
                cx.deliver(app, Delivery::Fetch { request, token, ranges, max_bytes, credit });
            }
            _ => return Err(unexpected(kind, "at the start of a request")),
        }
        Ok(())
    }

    fn put_answered(
        &mut self,
        kind: RecordType,
        body: Payload,
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let Kind::PutAnswer { app, request, over } = &mut self.kind else { return Ok(()) };
        let (app, request) = (*app, *request);
        let body = body.to_bytes();
        let delivery = match kind {
            RecordType::Ok if !*over => {
                Delivery::Accepted { request, length: OkRecord::parse(&body)?.length_bytes }
            }
            RecordType::Done if !*over => {
                let done = Done::parse(&body)?;
                let token = done.token.content().ok_or_else(|| {
                    Fault::new(ErrorCode::UnsupportedCode, "nothing was put here that DONE of a set answers")
                })?;
                *over = true;
                Delivery::Done { request, bytes: done.bytes, token }
            }
            RecordType::Error if !*over => {
                *over = true;
                Delivery::Failed { request, failure: ErrorRecord::parse(&body)? }
            }
            _ => return Err(unexpected(kind, "in the answer to PUT")),
        };
        cx.deliver(app, delivery);
        Ok(())
    }

    fn fetch_answered(
        &mut self,
        kind: RecordType,
        record: Payload,
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let Kind::FetchAnswer { app, request, token, ranges, body, over } = &mut self.kind else {
            return Ok(());
        };
        let (app, request) = (*app, *request);
        let record = record.to_bytes();
        let delivery = match kind {
            RecordType::Ok if !*over => {
                let length = OkRecord::parse(&record)?.length_bytes;
                *body = Some(Body::new(*token, length, ranges)?);
                Delivery::Accepted { request, length }
            }
            RecordType::Error if !*over => {
                *over = true;
                Delivery::Failed { request, failure: ErrorRecord::parse(&record)? }
            }
            _ => return Err(unexpected(kind, "in the answer to FETCH")),
        };
        cx.deliver(app, delivery);
        Ok(())
    }

    fn request_id(&self, cx: &Reading<'_, '_>) -> Option<RequestId> {
        self.is_peer_request().then(|| cx.peer_request()).or_else(|| self.local_request())
    }

    /// After a reading: delivers what it verified, in as few runs as it can be, and tells when all of it was.
    pub(super) fn settle(&mut self, cx: &mut Reading<'_, '_>) {
        let (Some(app), Some(request)) = (self.app(), self.request_id(cx)) else { return };
        let accepted = self.wants_bytes();
        let Some(body) = self.body() else { return };
        while let Some(piece) = body.decoder.poll() {
            cx.cx.counters.add(Counter::VerifiedBytes, piece.data.len() as u64);
            cx.deliver(app, Delivery::Piece { request, piece });
        }
        if accepted && body.decoder.is_complete() && !std::mem::replace(&mut body.complete_told, true) {
            cx.deliver(app, Delivery::Complete { request });
        }
    }

    /// The peer has ended the stream.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        match &self.kind {
            Kind::Control => Err(Fault { fatal: true, ..Fault::malformed("CONTROL was closed") }),
            Kind::Start { dir: Dir::Bi, .. } => Err(Fault::malformed("the stream ends before its request")),
            Kind::Start { .. } | Kind::Messages { .. } if self.reader.is_at_record_border() => Ok(()),
            Kind::Start { .. } | Kind::Messages { .. } => {
                Err(Fault::malformed("the stream ends inside a record"))
            }
            Kind::Fetch { .. } => Ok(()),
            Kind::PutAnswer { over, .. } if *over => Ok(()),
            Kind::FetchAnswer { over, .. } if *over => Ok(()),
            Kind::Put { body, .. } | Kind::FetchAnswer { body: Some(body), .. }
                if body.decoder.is_complete() =>
            {
                Ok(())
            }
            _ => Err(Fault::malformed("the stream ends before its payload or its answer")),
        }
    }

    /// Tells the application, if it knows of this request, that it is over.
    pub(super) fn fail(
        &mut self,
        connection: ConnectionId,
        stream: StreamId,
        failure: ErrorRecord,
        cx: &mut Context<'_>,
    ) {
        if failure.code == ErrorCode::BadProof {
            cx.counters.add(Counter::BadProofs, 1);
        }
        let peer = RequestId { connection, number: stream.into() };
        let told = match &mut self.kind {
            Kind::Put { app, .. } | Kind::Fetch { app } => Some((*app, peer)),
            Kind::PutAnswer { app, request, over } | Kind::FetchAnswer { app, request, over, .. } => {
                (!std::mem::replace(over, true)).then_some((*app, *request))
            }
            _ => None,
        };
        if let Some((app, request)) = told {
            cx.ports[app].deliver(Delivery::Failed { request, failure });
        }
    }
}

impl Body {
    fn new(token: Token, length: u64, ranges: &Ranges) -> Result<Self, Fault> {
        Ok(Self { decoder: VerifiedDecoder::new(token, length, ranges)?, complete_told: false })
    }
}

fn control_record(kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
    let body = body.to_bytes();
    let fatal = |error: RecordError| Fault { fatal: true, ..Fault::from(error) };
    match kind {
        RecordType::Settings if cx.peer.settings.is_none() => {
            cx.peer.settings = Some(Settings::parse(&body).map_err(fatal)?);
        }
        RecordType::GoAway => {
            GoAway::parse(&body).map_err(fatal)?;
            cx.peer.going_away = true;
        }
        _ => return Err(Fault { fatal: true, ..unexpected(kind, "on CONTROL") }),
    }
    Ok(())
}

fn unexpected(kind: RecordType, place: &str) -> Fault {
    Fault::malformed(&format!("{kind:?} {place}"))
}

fn token_of(payload: &Payload) -> Token {
    let mut hasher = blake3::Hasher::new();
    payload.iter().for_each(|chunk| {
        hasher.update(chunk);
    });
    Token::from_root(*hasher.finalize().as_bytes())
}
