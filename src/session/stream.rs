//! One stream: its role, the bytes left to read, the bytes left to write.
//!
//! Every stream has one slot in the session's table, and one role. A role decides how far the peer's bytes
//! are read and where they go; this file alone tells the roles apart. Wait lists follow from
//! [`Stream::readiness`].

use super::asking::Asking;
use super::chain::{Following, Source};
use super::control::{Control, Opening};
use super::fault::Fault;
use super::flow::HeldBytes;
use super::messages::Messages;
use super::order::Order;
use super::reading::Reading;
use super::relayed::Relayed;
use super::request_seats::RequestSeat;
use super::send::Outbound;
use super::serving::Serving;
use super::silence::RequestProgress;
use crate::counters::Counter;
use crate::limits::CHUNKS_PER_TURN_MAX;
use crate::queue::{Credit, End, RequestId, WorkerPort};
use crate::record::{ErrorCode, Payload, RecordReader, RecordType};
use bytes::Bytes;
use quinn_proto::{Chunks, Connection, ReadError, StreamId, VarInt};

/// Ring places that one reading of a stream may need: a piece for every 256 KiB, and the events that end a request.
pub(super) const RING_ROOM_MIN: usize = 64;

/// Frames that may arrive while nothing is read, before they are looked at: quinn-proto bears as many gaps.
pub(super) const FRAMES_ASLEEP_MAX: usize = 1000;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) role: Role,
    /// The half that the peer writes; `None` once it is no longer read.
    pub(super) recv: Option<RecordReader>,
    /// The QUIC stream that the peer's half is read from.
    pub(super) source: Source,
    /// How far that has been read, and the bytes that have arrived behind a gap.
    pub(super) order: Order,
    /// Frames that have arrived since the last reading.
    pub(super) frames: usize,
    /// Those of them that QUIC keeps until the consumer has room.
    pub(super) asleep: usize,
    /// The memory that the connection's window is charged for, bytes.
    pub(super) charged: HeldBytes,
    /// The half that this side writes.
    pub(super) send: Sending,
    /// QUIC streams of that half that the peer has not acknowledged whole.
    pub(super) unacknowledged: u32,
    pub(super) queued: Queued,
    /// How far it was at the last look, if it is a request of ours.
    pub(super) progress: RequestProgress,
    /// Its place among the requests of the peer's node.
    pub(super) _seat: Option<RequestSeat>,
}

/// The role of a stream.
#[derive(Debug)]
pub(super) enum Role {
    /// The peer's unidirectional stream before its first record.
    Opening(Opening),
    /// The peer's CONTROL.
    Control(Control),
    /// The peer's messages.
    Messages(Messages),
    /// A request of the peer.
    Serving(Serving),
    /// A request of ours.
    Asking(Box<Asking>),
    /// A request of either side whose bytes are not parsed here.
    Relayed(Relayed),
    /// Carries on the peer's half of another stream, which has not ended yet.
    Following(Following),
    /// This side's CONTROL stream or messages: the peer writes nothing.
    Writing,
}

/// The half of a stream that this side writes.
#[derive(Debug)]
pub(super) enum Sending {
    /// There is no such half, or it has ended.
    Over,
    /// More may be written.
    Open(Outbound),
    /// QUIC has every byte; the peer has not acknowledged all of them.
    Finished,
}

/// The wait list of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    No,
    /// Waits for its turn to be read.
    Readable,
    /// Waits for room at the consumer of its bytes.
    Paused,
}

/// Whether a stream is read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It takes the next bytes.
    Wants,
    /// The application must answer first.
    Blocked,
    /// Its consumer has no room.
    Paused,
    /// The application's ring has no room.
    Full,
    /// It is no longer read.
    Done,
}

/// How the bytes of a stream are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// As records.
    Records,
    /// Unparsed.
    Bytes,
    /// Not now: a parsed record waits for room.
    Nothing,
}

/// How a reading ended.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// No more bytes have arrived, or the application must answer first.
    Blocked,
    /// The ring is full, or other streams have their turn first.
    Later,
    /// The consumer has no room.
    Paused,
    /// The peer has ended its half.
    Finished,
    /// The peer carries its half on in another stream.
    Continued,
    /// The peer has reset its half.
    Reset(VarInt),
    /// The peer broke the protocol, or its bytes do not match their token.
    Fault(Fault),
}

impl ReadEnd {
    /// The reason why a reading ended.
    fn of(stopped: ReadError) -> Self {
        match stopped {
            ReadError::Blocked => Self::Blocked,
            ReadError::Reset(code) => Self::Reset(code),
        }
    }
}

/// The role after a record or bytes: a new one, or `None` if it stays. It is boxed: every chunk of a stream moves the place for it.
pub(super) type NextRole = Result<Option<Box<Role>>, Fault>;

/// The methods of every role that the peer writes to. The defaults suit a role that parses records only.
pub(super) trait Reader {
    /// The application that takes its deliveries, once it is known.
    fn app(&self) -> Option<usize>;

    fn reads(&self) -> Reads {
        Reads::Records
    }

    /// Whether the application and the consumer have room; the caller checks the ring.
    fn readiness(&self) -> Readiness {
        Readiness::Wants
    }

    /// Takes a complete record.
    fn on_record(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> NextRole;

    /// Takes unparsed bytes.
    fn on_bytes(&mut self, _bytes: Bytes, _cx: &mut Reading<'_, '_>) -> NextRole {
        Ok(None)
    }

    /// Delivers a record that waited for room. Returns whether there was one.
    fn resume(&mut self, _cx: &mut Reading<'_, '_>) -> bool {
        false
    }

    /// Notes that the peer has ended its half, between two records if `at_border`.
    fn on_end(&mut self, at_border: bool, cx: &mut Reading<'_, '_>) -> Result<(), Fault>;

    /// After a reading: delivers the collected chunks.
    fn settle(&mut self, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Tells the application of the request's end, if it knows the request and not its end.
    fn fail(&mut self, _end: End, _cx: &mut Reading<'_, '_>) {}
}

/// Calls the current role's method.
macro_rules! of_role {
    ($role:expr, $reader:ident => $call:expr, writing => $none:expr) => {
        match $role {
            Role::Opening($reader) => $call,
            Role::Control($reader) => $call,
            Role::Messages($reader) => $call,
            Role::Serving($reader) => $call,
            Role::Asking($reader) => $call,
            Role::Relayed($reader) => $call,
            Role::Following($reader) => $call,
            Role::Writing => $none,
        }
    };
}

impl Role {
    /// The application that takes its deliveries, once it is known.
    pub(super) fn app(&self) -> Option<usize> {
        of_role!(self, role => role.app(), writing => None)
    }

    /// Whether the peer opened this request.
    pub(super) fn is_peer_request(&self) -> bool {
        match self {
            Self::Serving(_) => true,
            Self::Relayed(relayed) => !relayed.request.is_local(),
            _ => false,
        }
    }

    /// Our request that this stream answers, with its application.
    pub(super) fn local_request(&self) -> Option<(usize, RequestId)> {
        match self {
            Self::Asking(asking) => Some((asking.app, asking.request)),
            Self::Relayed(relayed) if relayed.request.is_local() => Some((relayed.app, relayed.request)),
            _ => None,
        }
    }

    /// Whether the peer may only forward other nodes' bytes.
    pub(super) fn is_routed(&self) -> bool {
        match self {
            Self::Serving(serving) => serving.routed,
            Self::Asking(asking) => asking.routed,
            Self::Relayed(relayed) => relayed.routed,
            _ => false,
        }
    }

    /// Whether this is the peer's CONTROL stream: any fault on it ends the connection.
    pub(super) fn is_control(&self) -> bool {
        matches!(self, Self::Control(_))
    }

    /// The kind of the peer's request, only once: for the counter of its outcome.
    pub(super) fn take_counted(&mut self) -> Option<RecordType> {
        match self {
            Self::Serving(serving) => serving.counted.take(),
            Self::Relayed(relayed) => relayed.counted.take(),
            _ => None,
        }
    }

    /// Notes that the application has ended the peer's request: it gets no more deliveries of it. A request of ours goes on after it is
    /// sent.
    pub(super) fn close(&mut self) {
        match self {
            Self::Serving(serving) => drop(serving.close()),
            Self::Relayed(relayed) if !relayed.request.is_local() => relayed.over = true,
            _ => {}
        }
    }

    /// Whether [`Role::close`] was called for a request that is answered here.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Serving(serving) if serving.over)
    }

    /// See [`Reader::fail`].
    pub(super) fn fail(&mut self, end: End, cx: &mut Reading<'_, '_>) {
        of_role!(self, role => role.fail(end, cx), writing => {});
    }
}

impl Stream {
    /// A stream whose peer's half is read.
    pub(super) fn new(role: Role, send: Sending) -> Self {
        let (source, order) = (Source::default(), Order::default());
        let recv = Some(RecordReader::new());
        // QUIC reports the opening of a stream once, for a frame of it or of a later stream: nothing of this one may have arrived.
        let (asleep, charged, queued, frames, unacknowledged) = (0, HeldBytes::default(), Queued::No, 0, 1);
        Self {
            role,
            recv,
            source,
            order,
            frames,
            asleep,
            charged,
            send,
            unacknowledged,
            queued,
            progress: RequestProgress::default(),
            _seat: None,
        }
    }

    /// A stream that only this side writes.
    pub(super) fn writing(credit: Credit) -> Self {
        Self { recv: None, ..Self::new(Role::Writing, Sending::Open(Outbound::new(credit))) }
    }

    /// Whether it has ended. A request of the peer goes on until the peer has acknowledged the answer.
    pub(super) fn is_over(&self) -> bool {
        let unsent = match self.send {
            Sending::Over => false,
            Sending::Open(_) => true,
            Sending::Finished => self.role.is_peer_request(),
        };
        self.recv.is_none() && !unsent
    }

    /// Whether it is a request of the peer whose answer was not acknowledged completely.
    pub(super) fn is_unanswered(&self) -> bool {
        self.role.is_peer_request() && !matches!(self.send, Sending::Over)
    }

    /// Whether it is read further. All wait lists follow from this.
    #[inline]
    pub(super) fn readiness(&self, ports: &[WorkerPort]) -> Readiness {
        if self.recv.is_none() {
            return Readiness::Done;
        }
        if self.source.is_ended() {
            return Readiness::Blocked;
        }
        let readiness = of_role!(&self.role, role => role.readiness(), writing => Readiness::Done);
        // A stream whose application is not known yet brings one event, or a message that waits here.
        let is_full = |app: usize| ports[app].room() < RING_ROOM_MIN;
        match readiness {
            Readiness::Wants if self.role.app().is_some_and(is_full) => Readiness::Full,
            other => other,
        }
    }

    /// Reads the bytes that have arrived and may be read. Returns how it ended, and whether any byte was
    /// read.
    pub(super) fn read(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        cx: &mut Reading<'_, '_>,
    ) -> (ReadEnd, bool) {
        // A verify thread may answer between two streams of a half: QUIC no longer knows the first one.
        if self.source.is_ended() {
            return (ReadEnd::Blocked, false);
        }
        if cx.flow.has_gaps() {
            self.order.take_apart();
        }
        let (mut end, worked) = self.read_arrived(conn, id, cx);
        if let Err(fault) = self.settle(cx) {
            end = ReadEnd::Fault(fault);
        }
        self.charge(conn, cx.flow);
        if worked || !matches!(end, ReadEnd::Blocked | ReadEnd::Later | ReadEnd::Paused) {
            self.frames = 0;
        } else if matches!(end, ReadEnd::Later) || self.readiness(cx.cx.ports) != Readiness::Wants {
            let held = self.hold(conn, id, cx.flow);
            return (held.map_or_else(ReadEnd::of, |()| end), false);
        } else if std::mem::take(&mut self.frames) > 0 && !self.order.is_apart() {
            // A frame that brought nothing to read is behind a gap.
            cx.flow.found_gap();
            return self.read(conn, id, cx);
        }
        (end, worked)
    }

    fn read_arrived(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        cx: &mut Reading<'_, '_>,
    ) -> (ReadEnd, bool) {
        let before = self.order.taken_bytes();
        let read = {
            let mut recv = conn.recv_stream(self.source.id(id));
            let mut chunks = match recv.read(!self.order.is_apart()) {
                Ok(chunks) => Some(chunks),
                Err(_) if self.order.is_complete() => None,
                // QUIC has closed the stream before it was read to its end.
                Err(_) => return (ReadEnd::Reset(ErrorCode::Internal.into()), false),
            };
            let read = self.read_chunks(&mut chunks, cx);
            if let Some(chunks) = chunks {
                let _ = chunks.finalize();
            }
            read
        };
        self.asleep = 0;
        cx.flow.taken(conn, self.order.taken_bytes() - before);
        read
    }

    /// Reads the bytes that may be read, in order. `chunks` is `None` if QUIC has given every byte.
    fn read_chunks(&mut self, chunks: &mut Option<Chunks<'_>>, cx: &mut Reading<'_, '_>) -> (ReadEnd, bool) {
        let mut chunks_left = CHUNKS_PER_TURN_MAX;
        let end = loop {
            match self.readiness(cx.cx.ports) {
                Readiness::Wants if chunks_left > 0 && self.has_place(cx) => {}
                Readiness::Wants | Readiness::Full => {
                    cx.cx.counters.add(Counter::RingStalls, u64::from(chunks_left > 0));
                    break ReadEnd::Later;
                }
                Readiness::Paused => break ReadEnd::Paused,
                Readiness::Blocked | Readiness::Done => break ReadEnd::Blocked,
            }
            if let Err(fault) = self.resume(cx) {
                break ReadEnd::Fault(fault);
            }
            match self.order.next(chunks) {
                Ok(Some(chunk)) => {
                    chunks_left -= 1;
                    self.order.given(&chunk);
                    if let Err(fault) = self.feed(chunk.bytes, cx) {
                        break ReadEnd::Fault(fault);
                    }
                }
                Ok(None) if self.is_continued(cx) => break ReadEnd::Continued,
                Ok(None) => break self.end(cx).map_or_else(ReadEnd::Fault, |()| ReadEnd::Finished),
                Err(stopped) => break ReadEnd::of(stopped),
            }
        };
        (end, chunks_left < CHUNKS_PER_TURN_MAX)
    }

    /// Delivers the chunks collected in a reading, in as few deliveries as possible.
    pub(super) fn settle(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        of_role!(&mut self.role, role => role.settle(cx), writing => Ok(()))
    }

    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, chunk: Bytes, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let reads = of_role!(&self.role, role => role.reads(), writing => Reads::Nothing);
        if reads == Reads::Bytes {
            let step = of_role!(&mut self.role, role => role.on_bytes(chunk, cx), writing => Ok(None))?;
            self.take_on(step);
            return Ok(());
        }
        if let Some(reader) = &mut self.recv {
            reader.push_kept(chunk, cx.cx.crumb_bytes);
            // Most chunks are in the middle of a large record.
            if reader.lacks_body() {
                return Ok(());
            }
        }
        let drained = self.drain(cx);
        drained.map_err(|fault| Fault { fatal: fault.fatal || self.role.is_control(), ..fault })
    }

    /// Delivers a record that waited for room, and reads the bytes behind it. Called once there is room.
    pub(super) fn resume(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let resumed = of_role!(&mut self.role, role => role.resume(cx), writing => false);
        if resumed { self.drain(cx) } else { Ok(()) }
    }

    /// Parses the received bytes.
    fn drain(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        while let Some(reader) = &mut self.recv {
            let reads = of_role!(&self.role, role => role.reads(), writing => Reads::Nothing);
            let step = match reads {
                Reads::Records => {
                    let Some(header) = reader.next_header()? else { return Ok(()) };
                    let Some(body) = reader.take_body() else { return Ok(()) };
                    cx.cx.counters.add(Counter::RecordsIn, 1);
                    let kind = header.record_type;
                    of_role!(&mut self.role, role => role.on_record(kind, body, cx), writing => Ok(None))?
                }
                Reads::Bytes => {
                    let Some(bytes) = reader.take_raw(usize::MAX) else { return Ok(()) };
                    of_role!(&mut self.role, role => role.on_bytes(bytes, cx), writing => Ok(None))?
                }
                Reads::Nothing => return Ok(()),
            };
            self.take_on(step);
        }
        Ok(())
    }

    fn take_on(&mut self, role: Option<Box<Role>>) {
        if let Some(role) = role {
            self.role = *role;
        }
    }

    /// Notes that the peer has ended its half.
    pub(super) fn end(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let at_border = self.recv.as_ref().is_none_or(RecordReader::is_at_record_border);
        of_role!(&mut self.role, role => role.on_end(at_border, cx), writing => Ok(()))
    }
}
