//! One incoming half of a stream: which records may come, where what they bring goes.

use super::Context;
use super::answers::Asked;
use super::body::Body;
use super::fault::Fault;
use super::reading::Reading;
use crate::counters::Counter;
use crate::hop::{Decision, Refusal};
use crate::limits::{HAVE_BURST, HAVE_RATE_PER_S};
use crate::queue::{
    Asked as Question, ConnectionEvent, ConnectionId, Credit, Delivery, End, Relayed, RequestId, WorkerPort,
};
use crate::record::{
    ErrorCode, ErrorRecord, GoAway, Have, Hop, MessageHeader, Payload, Record, RecordError, RecordReader,
    RecordType, Request, Settings,
};
use crate::token::{Ranges, Token};
use bytes::Bytes;
use quinn_proto::{Dir, StreamId};

/// Ring places that one reading of a stream may need: a piece for every 256 KiB, and the events that end a request.
const RING_ROOM_MIN: usize = 64;
/// Chunks of a relayed stream that travel together.
const RAW_CHUNKS_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Inbound {
    reader: RecordReader,
    pub(super) kind: Kind,
    /// A stream's first message, when its application had no room for it.
    waiting: Option<Delivery>,
    /// It began with a HOP: others may have written what follows.
    routed: bool,
    /// It waits for its turn to be read.
    pub(super) in_line: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The first record says what the stream is for; on a request, HOP may stand before it.
    Start {
        dir: Dir,
        credit: Credit,
        early: bool,
    },
    Control,
    /// Messages; `app` took the last one, and its ring decides whether more is read.
    Messages {
        app: usize,
        early: bool,
    },
    /// The peer puts a payload here.
    Put {
        app: usize,
        body: Body,
        accepted: bool,
    },
    /// The peer asked; it has nothing more to say.
    Asked {
        app: usize,
    },
    /// The peer's request is not read here: it goes on to another gateway, or its payload is taken unchecked.
    Raw {
        app: usize,
        onward: Credit,
        gathered: Payload,
    },
    /// The answer to a PUT of ours.
    PutAnswer {
        app: usize,
        request: RequestId,
        accepted: bool,
        over: bool,
    },
    /// The answer to a FETCH of ours.
    FetchAnswer {
        app: usize,
        request: RequestId,
        asked: Box<Asked>,
        body: Option<Body>,
        over: bool,
    },
    /// The answer to a LOCATE or a MIRROR of ours: one record of this kind.
    OneAnswer {
        app: usize,
        request: RequestId,
        kind: RecordType,
        over: bool,
    },
    /// The answer to a request that is relayed.
    RawAnswer {
        app: usize,
        request: RequestId,
        pace: Credit,
        gathered: Payload,
    },
}

impl Inbound {
    /// A stream that the peer opened; `early` if in early data.
    pub(super) fn start(dir: Dir, credit: Credit, early: bool) -> Self {
        Self::of(Kind::Start { dir, credit, early })
    }

    /// A request whose HOP was judged.
    pub(super) fn routed(credit: Credit) -> Self {
        Self { routed: true, ..Self::of(Kind::Start { dir: Dir::Bi, credit, early: false }) }
    }

    pub(super) fn put_answer(app: usize, request: RequestId) -> Self {
        Self::of(Kind::PutAnswer { app, request, accepted: false, over: false })
    }

    pub(super) fn fetch_answer(app: usize, request: RequestId, asked: Asked) -> Self {
        Self::of(Kind::FetchAnswer { app, request, asked: Box::new(asked), body: None, over: false })
    }

    /// An answer of one record, of this kind.
    pub(super) fn one_answer(app: usize, request: RequestId, kind: RecordType) -> Self {
        Self::of(Kind::OneAnswer { app, request, kind, over: false })
    }

    pub(super) fn raw_answer(app: usize, request: RequestId, pace: Credit) -> Self {
        Self::of(Kind::RawAnswer { app, request, pace, gathered: Payload::new() })
    }

    fn of(kind: Kind) -> Self {
        Self { reader: RecordReader::default(), kind, waiting: None, routed: false, in_line: false }
    }

    /// Of an answer: whether the request goes by a route, so that the peer may only pass on what others write.
    pub(super) fn by_route(self, routed: bool) -> Self {
        Self { routed, ..self }
    }

    /// Lets the bytes of a PUT come. False for a request without bytes of its own.
    pub(super) fn accept_put(&mut self) -> bool {
        match &mut self.kind {
            Kind::Put { accepted, .. } => {
                *accepted = true;
                true
            }
            Kind::Raw { .. } => true,
            _ => false,
        }
    }

    pub(super) fn set_pace(&mut self, credit: Credit) {
        if let Kind::RawAnswer { pace, .. } = &mut self.kind {
            *pace = credit;
        }
    }

    /// Whether the peer may only have passed on what others wrote.
    pub(super) fn is_routed(&self) -> bool {
        self.routed
    }

    pub(super) fn is_peer_request(&self) -> bool {
        matches!(
            self.kind,
            Kind::Start { dir: Dir::Bi, .. } | Kind::Put { .. } | Kind::Asked { .. } | Kind::Raw { .. }
        )
    }

    /// The request of ours that this answers, with the application that asked.
    pub(super) fn local_request(&self) -> Option<(usize, RequestId)> {
        match &self.kind {
            Kind::PutAnswer { app, request, .. }
            | Kind::FetchAnswer { app, request, .. }
            | Kind::OneAnswer { app, request, .. }
            | Kind::RawAnswer { app, request, .. } => Some((*app, *request)),
            _ => None,
        }
    }

    /// The application that takes what comes, once that is known.
    pub(super) fn app(&self) -> Option<usize> {
        match &self.kind {
            Kind::Start { .. } | Kind::Control => None,
            Kind::Messages { app, .. }
            | Kind::Put { app, .. }
            | Kind::Asked { app }
            | Kind::Raw { app, .. }
            | Kind::PutAnswer { app, .. }
            | Kind::FetchAnswer { app, .. }
            | Kind::OneAnswer { app, .. }
            | Kind::RawAnswer { app, .. } => Some(*app),
        }
    }

    /// Whether this is a relayed request's other side: the peer that stops it says so to the relay.
    pub(super) fn raw_answer_to(&self) -> Option<(usize, RequestId)> {
        match &self.kind {
            Kind::RawAnswer { app, request, .. } => Some((*app, *request)),
            _ => None,
        }
    }

    /// Whether every byte of the payload that the peer puts has come.
    pub(super) fn is_complete(&self) -> bool {
        matches!(&self.kind, Kind::Put { body, accepted: true, .. } if body.is_complete())
    }

    /// False while the application has not yet said whether it takes a PUT.
    pub(super) fn wants_bytes(&self) -> bool {
        !matches!(self.kind, Kind::Put { accepted: false, .. })
    }

    /// Whether whoever takes on what is read has room for more of it.
    pub(super) fn may_go_on(&self) -> bool {
        match &self.kind {
            Kind::Raw { onward, .. } => onward.has_relay_room(),
            Kind::RawAnswer { pace, .. } => pace.has_relay_room(),
            Kind::FetchAnswer { asked, .. } => asked.pace.as_ref().is_none_or(Credit::has_room),
            _ => true,
        }
    }

    /// Whether the ring has room for what the next chunk may bring.
    pub(super) fn has_room(&self, ports: &[WorkerPort]) -> bool {
        // A stream whose application is not known yet brings one event, or a message that waits here.
        self.app().is_none_or(|app| ports[app].room() >= RING_ROOM_MIN)
    }

    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, chunk: Bytes, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if let Some(body) = self.body() {
            return body.push(&chunk);
        }
        if matches!(self.kind, Kind::Raw { .. } | Kind::RawAnswer { .. }) {
            self.gather(chunk, cx);
            return Ok(());
        }
        self.reader.push(chunk);
        let drained = self.drain(cx);
        drained.map_err(|fault| Fault { fatal: fault.fatal || self.is_control(), ..fault })
    }

    /// Gathers chunks of a stream that is not read here: one place in the rings then carries many.
    fn gather(&mut self, chunk: Bytes, cx: &mut Reading<'_, '_>) {
        let (Kind::Raw { gathered, .. } | Kind::RawAnswer { gathered, .. }) = &mut self.kind else {
            return;
        };
        gathered.push(chunk);
        if gathered.iter().len() >= RAW_CHUNKS_MAX {
            self.deliver_gathered(cx);
        }
    }

    fn deliver_gathered(&mut self, cx: &mut Reading<'_, '_>) {
        let (Some(app), Some(request)) = (self.app(), self.request_id(cx)) else { return };
        if let Kind::Raw { gathered, .. } | Kind::RawAnswer { gathered, .. } = &mut self.kind
            && !gathered.is_empty()
        {
            cx.deliver(app, Delivery::Raw(request, std::mem::take(gathered)));
        }
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

    fn is_raw(&self) -> bool {
        matches!(self.kind, Kind::Raw { .. } | Kind::RawAnswer { .. })
    }

    fn drain(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        while self.body().is_none() && self.waiting.is_none() && !self.is_raw() {
            let Some(header) = self.reader.next_header()? else { return Ok(()) };
            let Some(body) = self.reader.take_body() else { return Ok(()) };
            let kind = header.record_type;
            cx.cx.counters.add(Counter::RecordsIn, 1);
            self.record(kind, body, cx)?;
        }
        // What follows PUT and OK is the verified encoding; what follows a HOP that leads on is none of ours.
        while self.waiting.is_none()
            && let Some(raw) = self.reader.take_raw(usize::MAX)
        {
            if self.is_raw() {
                self.gather(raw, cx);
                continue;
            }
            if !self.wants_bytes() {
                return Err(Fault::malformed("payload bytes before the answer to PUT"));
            }
            if let Some(body) = self.body() {
                body.push(&raw)?;
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
        match &self.kind {
            Kind::Start { dir: Dir::Uni, .. } => match kind {
                RecordType::Settings if !cx.peer.control_seen => {
                    cx.peer.control_seen = true;
                    self.kind = Kind::Control;
                    control_record(kind, body, cx)
                }
                RecordType::Message => self.message(body, cx),
                _ => Err(unexpected(kind, "at the start of a unidirectional stream")),
            },
            Kind::Start { dir: Dir::Bi, .. } => self.request(kind, body, cx),
            Kind::Control => control_record(kind, body, cx),
            Kind::Messages { .. } if kind == RecordType::Message => self.message(body, cx),
            Kind::Messages { .. } => Err(unexpected(kind, "among messages")),
            Kind::Asked { .. } => Err(unexpected(kind, "after the request")),
            Kind::Put { .. } => Err(unexpected(kind, "inside a verified encoding")),
            Kind::PutAnswer { .. } => self.put_answered(kind, body, cx),
            Kind::FetchAnswer { .. } => self.fetch_answered(kind, body, cx),
            Kind::OneAnswer { .. } => self.one_answered(kind, body, cx),
            Kind::Raw { .. } | Kind::RawAnswer { .. } => {
                Err(unexpected(kind, "inside a stream that is not read here"))
            }
        }
    }

    fn message(&mut self, payload: Payload, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let (first, early) = match self.kind {
            Kind::Start { early, .. } => (true, early),
            Kind::Messages { early, .. } => (false, early),
            _ => (false, false),
        };
        let (app, message) = message(payload, early, cx)?;
        self.kind = Kind::Messages { app, early };
        if first && !self.has_room(cx.cx.ports) {
            self.waiting = Some(message);
        } else {
            cx.deliver(app, message);
        }
        Ok(())
    }

    fn request(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let Kind::Start { credit, early, .. } = &self.kind else { return Ok(()) };
        let (credit, early) = (credit.clone(), *early);
        let request = cx.peer_request();
        let body = body.to_bytes();
        if kind != RecordType::Hop {
            cx.peer.asked.insert(cx.stream, kind);
        }
        if cx.leaving {
            return Err(Fault::new(ErrorCode::GoingAway, "this node takes no new requests"));
        }
        // Protocol §7: what could be replayed and is not harmless then.
        if early && !matches!(kind, RecordType::Fetch | RecordType::Locate) {
            return Err(Fault::new(ErrorCode::TooEarly, "not in early data: ask again after the handshake"));
        }
        if kind == RecordType::Hop && !self.routed {
            let hop = Hop::parse(&body)?;
            self.routed = true;
            return self.hop(&hop, credit, cx);
        }
        let Some(parsed) = Request::parse(kind, &body) else {
            return Err(unexpected(kind, "at the start of a request"));
        };
        let parsed = parsed?;
        let app = match &parsed {
            Request::Put(put) => cx.queue(put.queue)?,
            Request::Fetch(_) | Request::Locate(_) | Request::Mirror(_) => cx.store()?,
        };
        self.kind = match &parsed {
            Request::Put(put) if cx.cx.routes.unchecked.contains(&put.queue) => {
                Kind::Raw { app, onward: Credit::default(), gathered: Payload::new() }
            }
            Request::Put(put) => {
                let (all, length) = (Ranges::all(), put.descriptor.length_bytes());
                let body = match put.lanes {
                    Some(lanes) => Body::lanes(Box::new(put.descriptor), lanes, &all)?,
                    None => Body::payload(put.descriptor.content(), length, &all)?,
                };
                Kind::Put { app, body, accepted: false }
            }
            Request::Fetch(_) | Request::Locate(_) | Request::Mirror(_) => Kind::Asked { app },
        };
        let asked = Question { request: parsed, node: cx.peer.node, early, credit };
        cx.deliver(app, Delivery::Asked(request, Box::new(asked)));
        Ok(())
    }

    /// Judges a HOP record: the request is for this node, goes on to another, or is refused.
    fn hop(&mut self, hop: &Hop, answer: Credit, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let hops = cx.cx.routes.hops.clone();
        let routing = hops.as_ref().zip(cx.cx.routes.relay).filter(|_| cx.owner.is_none());
        let Some((hops, app)) = routing else {
            return Err(Fault::new(ErrorCode::NotAuthorised, "this node routes for nobody"));
        };
        let decision = hops.judge(hop, cx.peer.node, cx.cx.now);
        let refused = |refusal: Refusal| {
            cx.cx.counters.add(Counter::HopsRefused, 1);
            Fault::new(refusal.code(), refusal.to_string())
        };
        match decision.map_err(refused)? {
            Decision::Deliver => Ok(()),
            Decision::Forward { next, hop } => {
                let (request, onward) = (cx.peer_request(), Credit::default());
                self.kind = Kind::Raw { app, onward: onward.clone(), gathered: Payload::new() };
                cx.cx.counters.add(Counter::HopsForwarded, 1);
                let relayed = Box::new(Relayed { next, hop, answer, onward });
                cx.deliver(app, Delivery::Relay(request, relayed));
                Ok(())
            }
        }
    }

    fn request_id(&self, cx: &Reading<'_, '_>) -> Option<RequestId> {
        let local = || self.local_request().map(|(_, request)| request);
        self.is_peer_request().then(|| cx.peer_request()).or_else(local)
    }

    /// After a reading: delivers what it verified or gathered, in as few runs as it can be, and tells when all of it was.
    pub(super) fn settle(&mut self, cx: &mut Reading<'_, '_>) {
        self.deliver_gathered(cx);
        let (Some(app), Some(request)) = (self.app(), self.request_id(cx)) else { return };
        let accepted = self.wants_bytes();
        let pace = match &self.kind {
            Kind::FetchAnswer { asked, .. } => asked.pace.clone(),
            _ => None,
        };
        let Some(body) = self.body() else { return };
        while let Some(checked) = body.poll() {
            let piece = checked.piece;
            cx.cx.counters.add(Counter::VerifiedBytes, piece.data.len() as u64);
            if let Some(pace) = &pace {
                pace.take(piece.data.len());
            }
            cx.deliver(app, Delivery::Piece { request, shard: checked.shard, piece });
        }
        if accepted && body.is_complete() && !std::mem::replace(&mut body.complete_told, true) {
            // Who asked has all of it: what the peer may do wrong after that is between it and this session.
            if let Kind::FetchAnswer { over, .. } = &mut self.kind {
                *over = true;
            }
            cx.deliver(app, Delivery::Ended(request, End::Checked));
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
            Kind::Asked { .. } | Kind::Raw { .. } | Kind::RawAnswer { .. } => Ok(()),
            Kind::PutAnswer { over, .. } | Kind::OneAnswer { over, .. } if *over => Ok(()),
            Kind::FetchAnswer { over, .. } if *over => Ok(()),
            Kind::Put { body, .. } | Kind::FetchAnswer { body: Some(body), .. } if body.is_complete() => {
                Ok(())
            }
            _ => Err(Fault::malformed("the stream ends before its payload or its answer")),
        }
    }

    /// A relayed stream ended well: its relay is told.
    pub(super) fn ended(&self, connection: ConnectionId, stream: StreamId, cx: &mut Context<'_>) {
        match &self.kind {
            Kind::Raw { app, .. } => {
                let request = RequestId { connection, number: stream.into() };
                cx.ports[*app].deliver(Delivery::Ended(request, End::Raw));
            }
            Kind::RawAnswer { app, request, .. } => {
                cx.ports[*app].deliver(Delivery::Ended(*request, End::Raw));
            }
            _ => {}
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
            Kind::Put { app, .. } | Kind::Asked { app } | Kind::Raw { app, .. } => Some((*app, peer)),
            Kind::RawAnswer { app, request, .. } => Some((*app, *request)),
            Kind::PutAnswer { app, request, over, .. }
            | Kind::FetchAnswer { app, request, over, .. }
            | Kind::OneAnswer { app, request, over, .. } => {
                (!std::mem::replace(over, true)).then_some((*app, *request))
            }
            _ => None,
        };
        if let Some((app, request)) = told {
            cx.ports[app].deliver(Delivery::Ended(request, End::Failed(failure)));
        }
    }
}

/// A MESSAGE, from a stream or a datagram: who takes it, and what they take.
pub(super) fn message(
    mut payload: Payload,
    early: bool,
    cx: &mut Reading<'_, '_>,
) -> Result<(usize, Delivery), Fault> {
    let header = MessageHeader::take_from(&mut payload)?;
    let app = cx.queue(header.queue)?;
    if early && !cx.cx.routes.replay_safe.contains(&header.queue) {
        return Err(Fault::new(ErrorCode::TooEarly, "no messages for this queue in early data"));
    }
    if let Some(token) = header.token
        && token != token_of(&payload)
    {
        cx.cx.counters.add(Counter::BadProofs, 1);
        return Err(Fault::new(ErrorCode::BadProof, "a message does not match its token"));
    }
    let message = ConnectionEvent::Message { queue: header.queue, payload };
    Ok((app, Delivery::Connection(cx.connection, message)))
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
        RecordType::Have => {
            let have = Have::parse(&body).map_err(fatal)?;
            if !cx.peer.haves.take(cx.cx.now) {
                let reason = format!("more than {HAVE_RATE_PER_S} HAVE a second after {HAVE_BURST}");
                return Err(Fault { fatal: true, ..Fault::new(ErrorCode::Limit, reason) });
            }
            // Who shows no certificate holds nothing that others could be sent to.
            if let (Some(node), Some(app)) = (cx.peer.node, cx.owner.or(cx.cx.routes.store)) {
                cx.deliver(app, Delivery::Connection(cx.connection, ConnectionEvent::Have { node, have }));
            }
        }
        _ => return Err(Fault { fatal: true, ..unexpected(kind, "on CONTROL") }),
    }
    Ok(())
}

pub(super) fn unexpected(kind: RecordType, place: &str) -> Fault {
    Fault::malformed(&format!("{kind:?} {place}"))
}

fn token_of(payload: &Payload) -> Token {
    let mut hasher = blake3::Hasher::new();
    payload.iter().for_each(|chunk| {
        hasher.update(chunk);
    });
    Token::from_root(*hasher.finalize().as_bytes())
}
