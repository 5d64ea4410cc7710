//! Halves of streams that are carried on by other streams.
//!
//! For each packet quinn-proto walks the unacknowledged chunks of its stream, and a stream bears about a thousand gaps. On a long path both
//! bounds are met by a single long stream. So a half that is longer than [`STREAM_PART_BYTES`] goes on in a unidirectional stream, which
//! begins with CONTINUATION (protocol §4). The parts of a half are one sequence of bytes: roles and records know nothing of them.

use super::fault::Fault;
use super::reading::Reading;
use super::stream::{FRAMES_ASLEEP_MAX, NextRole, Reader, Readiness, Reads, Role, Sending, Stream};
use super::{Context, PeerState, Session};
use crate::limits::STREAM_PART_BYTES;
use crate::record::{Continuation, ErrorCode, Payload, Record, RecordType};
use quinn_proto::{Connection, Dir, StreamId, VarInt};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Stopped halves whose next streams are awaited.
const STOPPED_LEN_MAX: usize = 16;

/// The QUIC stream that a peer's half is read from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Source {
    /// The stream, where it is not the first of the half.
    part: Option<StreamId>,
    /// The offset of the half's first byte in it.
    start: u64,
    /// It was read to its end, and the next one is not here.
    ended: bool,
}

impl Source {
    /// The QUIC stream, of the half that began on `first`.
    #[inline]
    pub(super) fn id(&self, first: StreamId) -> StreamId {
        self.part.unwrap_or(first)
    }

    /// Whether the next stream of the half is waited for.
    #[inline]
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether a stream that was read up to this offset is a whole part.
    pub(super) fn is_full(&self, offset: u64) -> bool {
        offset - self.start == STREAM_PART_BYTES
    }
}

/// The role of a stream whose bytes belong to another stream that has not ended yet.
#[derive(Debug)]
pub(super) struct Following {
    previous: StreamId,
    /// The table of chains has it.
    is_listed: bool,
}

impl Following {
    pub(super) fn new(continuation: Continuation) -> Result<Self, Fault> {
        let number = VarInt::from_u64(continuation.stream);
        let previous = number.map_err(|_| Fault::malformed("no stream has this number"))?.into();
        Ok(Self { previous, is_listed: false })
    }
}

impl Reader for Following {
    fn app(&self) -> Option<usize> {
        None
    }

    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn readiness(&self) -> Readiness {
        Readiness::Blocked
    }

    fn on_record(&mut self, _kind: RecordType, _body: Payload, _cx: &mut Reading<'_, '_>) -> NextRole {
        Ok(None)
    }

    fn on_end(&mut self, _at_border: bool, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// The streams that carry on others.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// Streams of the peer's that wait for the end of another one: by that.
    following: FxHashMap<StreamId, StreamId>,
    /// Streams of the peer's that are read now, and the first stream of each one's half.
    reading: FxHashMap<StreamId, StreamId>,
    /// Streams of this side's that the peer has not acknowledged whole, and the first stream of each one's half.
    writing: FxHashMap<StreamId, StreamId>,
    /// Streams whose halves were stopped before the next stream of the half was here, and the code that it is stopped with.
    stopped: VecDeque<(StreamId, ErrorCode)>,
    /// Halves of the peer's that ended at the bound of a part before its SETTINGS arrived.
    unsettled: Vec<StreamId>,
    /// Halves of this side's that wait for the peer's SETTINGS, or for another stream.
    blocked: Vec<StreamId>,
    /// The peer's SETTINGS are here, and the halves that waited for them go on.
    is_settled: bool,
    /// Bidirectional streams that the peer has opened.
    opened: u64,
}

impl Chains {
    /// The first stream of the half that this stream of this side's belongs to.
    pub(super) fn first_written(&self, id: StreamId) -> StreamId {
        if self.writing.is_empty() { id } else { self.writing.get(&id).copied().unwrap_or(id) }
    }

    /// The first stream of the half that is read from this one.
    pub(super) fn first_read(&self, id: StreamId) -> Option<StreamId> {
        self.reading.get(&id).copied()
    }

    /// The peer has acknowledged a stream of this side's whole. Gives the first stream of its half.
    pub(super) fn acknowledged(&mut self, id: StreamId) -> StreamId {
        if self.writing.is_empty() { id } else { self.writing.remove(&id).unwrap_or(id) }
    }

    /// The code for the stream that carries on this one.
    fn take_stopped(&mut self, previous: StreamId) -> ErrorCode {
        let found = self.stopped.iter().position(|(stream, _)| *stream == previous);
        found.and_then(|at| self.stopped.remove(at)).map_or(ErrorCode::None, |(_, code)| code)
    }

    fn keep_stopped(&mut self, stream: StreamId, code: ErrorCode) {
        // Three faults in a minute close a connection: the oldest ones are needed no more.
        if self.stopped.len() == STOPPED_LEN_MAX {
            self.stopped.pop_front();
        }
        self.stopped.push_back((stream, code));
    }

    /// The peer has opened a bidirectional stream.
    pub(super) fn opened(&mut self) {
        self.opened += 1;
    }

    /// The streams of a half of this side's behind its first one.
    pub(super) fn abandon(&mut self, first: StreamId) -> impl Iterator<Item = StreamId> {
        self.writing.extract_if(move |_, of| *of == first).map(|(part, _)| part)
    }

    pub(super) fn clear(&mut self) {
        *self = Self { opened: self.opened, ..Self::default() };
    }
}

/// Frames of a part that waits for its turn, before they are looked at: more than a part has in packets of 1,200 bytes. Of these, half are gaps
/// at most, which quinn-proto bears.
const FRAMES_FOLLOWING_MAX: usize = 1800;

impl Role {
    /// Frames that may arrive of a stream that is not read, before they are looked at.
    pub(super) fn frames_asleep_max(&self) -> usize {
        if matches!(self, Self::Following(_)) { FRAMES_FOLLOWING_MAX } else { FRAMES_ASLEEP_MAX }
    }

    /// Whether its peer's half may be longer than a part.
    fn may_be_continued(&self) -> bool {
        !matches!(self, Self::Opening(_) | Self::Control(_) | Self::Following(_) | Self::Writing)
    }
}

impl Stream {
    /// Whether the peer carries its half on in another stream: it has ended this one at the bound of a part.
    pub(super) fn is_continued(&self, cx: &Reading<'_, '_>) -> bool {
        self.source.is_full(self.order.offset()) && cx.peer.may_continue() && self.role.may_be_continued()
    }
}

impl PeerState {
    /// Whether the peer may carry on its halves. Before its SETTINGS that is not known: it may.
    pub(super) fn may_continue(&self) -> bool {
        self.settings.is_none_or(|settings| settings.continued == Some(1))
    }
}

impl Session {
    /// Goes on with a half of this side's in another stream, or on in the same one with a peer that knows no other way. Returns whether
    /// bytes can be written now.
    pub(super) fn begin_part(&mut self, conn: &mut Connection, id: StreamId, target: StreamId) -> bool {
        let part = match self.peer.settings {
            Some(settings) if settings.continued == Some(1) => conn.streams().open(Dir::Uni),
            Some(_) => {
                if let Some(outbound) = self.outbound(id) {
                    outbound.write_undivided();
                }
                return true;
            }
            None => None,
        };
        let Some(part) = part else {
            if !self.chains.blocked.contains(&id) {
                self.chains.blocked.push(id);
            }
            return false;
        };
        // What is older goes first, so that parts arrive one after the other.
        self.arrivals = self.arrivals.saturating_sub(1);
        let _ = conn.send_stream(part).set_priority(self.arrivals);
        let _ = conn.send_stream(target).finish();
        let mut front = Vec::new();
        Continuation { stream: target.into() }.emit_record(&mut front);
        self.chains.writing.insert(part, id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.unacknowledged += 1;
            if let Sending::Open(outbound) = &mut stream.send {
                outbound.begin_part(part, front);
            }
        }
        true
    }

    /// Goes on with the halves that waited for a stream, or for SETTINGS.
    pub(super) fn resume_parts(&mut self, conn: &mut Connection) {
        for id in std::mem::take(&mut self.chains.blocked) {
            self.pump(conn, id);
        }
    }

    /// Once the peer's SETTINGS are here, it is known whether it carries on its halves: the halves that waited for that go on.
    pub(super) fn settle_chains(&mut self, conn: &mut Connection, cx: &mut Context<'_>) {
        if self.chains.is_settled || self.peer.settings.is_none() {
            return;
        }
        self.chains.is_settled = true;
        self.resume_parts(conn);
        self.open_waiting(conn, cx);
        if self.peer.may_continue() {
            self.chains.unsettled.clear();
        }
        for id in std::mem::take(&mut self.chains.unsettled) {
            self.end_undivided(conn, id, cx);
        }
    }

    /// A half that is as long as a part was whole.
    fn end_undivided(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        let ended = stream.end(&mut self.reading(id, cx));
        self.streams.insert(id, stream);
        match ended {
            Ok(()) => self.finished(conn, id),
            Err(fault) => self.fault(conn, id, fault, cx),
        }
    }

    /// The stream that a half of the peer's is read from has ended, and the half has not.
    pub(super) fn continued(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.source.ended = true;
        let source = stream.source.id(id);
        match self.chains.following.remove(&source) {
            Some(part) => self.adopt(conn, id, part, cx),
            None if self.peer.settings.is_none() => self.chains.unsettled.push(id),
            None => {}
        }
    }

    /// Puts a stream behind the one that it carries on. Does nothing where that was done.
    pub(super) fn follow(&mut self, conn: &mut Connection, part: StreamId, cx: &mut Context<'_>) {
        let Some(Stream { role: Role::Following(following), .. }) = self.streams.get_mut(&part) else {
            return;
        };
        if std::mem::replace(&mut following.is_listed, true) {
            return;
        }
        let previous = following.previous;
        let ours = conn.side();
        let is_earlier = match previous.dir() {
            Dir::Uni => previous.initiator() != ours && previous.index() < part.index(),
            Dir::Bi => true,
        };
        if !is_earlier || self.chains.following.contains_key(&previous) {
            let fault = Fault::malformed("CONTINUATION of a stream that cannot be carried on");
            return self.fault(conn, part, fault, cx);
        }
        let first = self.chains.first_read(previous).unwrap_or(previous);
        match self.streams.get(&first) {
            Some(stream) if stream.recv.is_some() => {
                if stream.source.is_ended() && stream.source.id(first) == previous {
                    return self.adopt(conn, first, part, cx);
                }
                self.chains.following.insert(previous, part);
            }
            // It has not arrived yet.
            None if previous.dir() == Dir::Bi
                && previous.initiator() != ours
                && previous.index() >= self.chains.opened =>
            {
                self.chains.following.insert(previous, part);
            }
            // Nothing more is read of it.
            _ => {
                let code = self.chains.take_stopped(previous);
                self.stop_reading(conn, part, code);
            }
        }
    }

    /// Reads a half on in the next stream.
    fn adopt(&mut self, conn: &mut Connection, first: StreamId, part: StreamId, cx: &mut Context<'_>) {
        let Some(next) = self.streams.remove(&part) else { return };
        let Some(stream) = self.streams.get_mut(&first) else { return };
        let mut rest = next.recv.unwrap_or_default();
        self.chains.reading.remove(&stream.source.id(first));
        self.chains.reading.insert(part, first);
        let start = next.order.offset() - rest.buffered_bytes() as u64;
        stream.source = Source { part: Some(part), start, ended: false };
        stream.order = next.order;
        stream.frames += next.frames;
        stream.charged += next.charged;
        // Bytes that were read together with the record.
        while let Some(bytes) = rest.take_raw(usize::MAX) {
            let Some(mut stream) = self.streams.remove(&first) else { break };
            let fed = stream.feed(bytes, &mut self.reading(first, cx));
            self.streams.insert(first, stream);
            if let Err(fault) = fed {
                return self.fault(conn, first, fault, cx);
            }
        }
        self.line_up(first);
    }

    /// No more is read of a half: neither of the streams that carry it on.
    pub(super) fn drop_followers(&mut self, conn: &mut Connection, id: StreamId, code: ErrorCode) {
        let Some(stream) = self.streams.get(&id) else { return };
        // A stream that ends while it waits gives its place up: the half that it waits for may never begin.
        if let Role::Following(Following { previous, .. }) = stream.role
            && self.chains.following.get(&previous) == Some(&id)
        {
            self.chains.following.remove(&previous);
        }
        let source = stream.source.id(id);
        self.chains.reading.remove(&source);
        match self.chains.following.remove(&source) {
            Some(part) => self.stop_reading(conn, part, code),
            None if code != ErrorCode::None => self.chains.keep_stopped(source, code),
            None => {}
        }
    }

    /// The first stream of the half that a stream that waits belongs to; itself for all others.
    pub(super) fn first_of(&self, id: StreamId) -> StreamId {
        let mut first = id;
        // Each previous stream was opened earlier: the walk ends.
        while let Some(Stream { role: Role::Following(following), .. }) = self.streams.get(&first)
            && following.is_listed
        {
            let previous = following.previous;
            first = self.chains.first_read(previous).unwrap_or(previous);
        }
        if self.streams.contains_key(&first) { first } else { id }
    }
}
