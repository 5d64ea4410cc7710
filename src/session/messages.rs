//! The peer's messages, on streams and in datagrams.

use super::control::Opening;
use super::fault::{Fault, unexpected};
use super::reading::Reading;
use super::stream::{NextRole, RING_ROOM_MIN, Reader, Readiness, Reads};
use super::{Context, Session};
use crate::counters::Counter;
use crate::limits::{MESSAGE_COST_BYTES, MESSAGES_UNTAKEN_BYTES_MAX};
use crate::queue::{Credit, Delivery};
use crate::record::{ErrorCode, MessageHeader, Payload, RecordReader, RecordType};
use crate::rights::Right;
use crate::token::Token;
use bytes::Bytes;
use quinn_proto::{Connection, Dir, Side, StreamId};

/// A stream of messages.
#[derive(Debug)]
pub(super) struct Messages {
    /// The application that took the last message: reading waits for room in its ring.
    app: usize,
    /// Whether the stream began in early data.
    early: bool,
    /// They are read only while this credit has room: the answers to a peer that reads none take it.
    pace: Option<Credit>,
    /// The first message and its queue, if its application had no room for it.
    waiting: Option<(u64, Payload)>,
    /// Messages delivered in this reading, bytes with their cost.
    delivered_bytes: usize,
}

impl Messages {
    /// Takes the stream's first message. The application is known only from it, and may have no room.
    pub(super) fn begin(
        opening: &Opening,
        mut payload: Payload,
        cx: &mut Reading<'_, '_>,
    ) -> Result<Self, Fault> {
        let (early, pace) = (opening.early, opening.pace.clone());
        let (app, queue) = take_header(&mut payload, early, cx)?;
        let mut begun = Self { app, early, pace, waiting: None, delivered_bytes: 0 };
        if !begun.has_credit() || cx.cx.ports[app].room() < RING_ROOM_MIN {
            begun.waiting = Some((queue, payload));
        } else {
            begun.deliver(queue, payload, cx);
        }
        Ok(begun)
    }

    #[inline]
    fn deliver(&mut self, queue: u64, payload: Payload, cx: &mut Reading<'_, '_>) {
        self.delivered_bytes += payload.len() + MESSAGE_COST_BYTES;
        cx.deliver(self.app, Delivery::message(cx.connection, queue, payload));
    }

    fn has_credit(&self) -> bool {
        self.pace.as_ref().is_none_or(Credit::has_room)
    }

    /// Whether the ring of their application takes more of this connection's.
    #[inline]
    pub(super) fn has_place(&self, cx: &mut Reading<'_, '_>) -> bool {
        self.delivered_bytes < MESSAGES_UNTAKEN_BYTES_MAX
            && cx.peer.untaken.has_room(self.app, &cx.cx.ports[self.app])
    }

    /// The message that waits, bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |(_, payload)| payload.len())
    }
}

impl Reader for Messages {
    fn app(&self) -> Option<usize> {
        Some(self.app)
    }

    fn reads(&self) -> Reads {
        if self.waiting.is_some() { Reads::Nothing } else { Reads::Records }
    }

    fn readiness(&self) -> Readiness {
        if self.has_credit() { Readiness::Wants } else { Readiness::Paused }
    }

    #[inline]
    fn on_record(&mut self, kind: RecordType, mut body: Payload, cx: &mut Reading<'_, '_>) -> NextRole {
        if kind != RecordType::Message {
            return Err(unexpected(kind, "among messages"));
        }
        let (app, queue) = take_header(&mut body, self.early, cx)?;
        if self.app != app {
            self.settle(cx)?;
            self.app = app;
        }
        self.deliver(queue, body, cx);
        Ok(None)
    }

    fn resume(&mut self, cx: &mut Reading<'_, '_>) -> bool {
        let Some((queue, payload)) = self.waiting.take() else { return false };
        self.deliver(queue, payload, cx);
        true
    }

    fn settle(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        cx.count_untaken(self.app, std::mem::take(&mut self.delivered_bytes));
        Ok(())
    }

    fn on_end(&mut self, at_border: bool, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if at_border { Ok(()) } else { Err(Fault::malformed("a stream of messages ends inside a record")) }
    }
}

impl Session {
    /// Takes a QUIC datagram: one MESSAGE. Otherwise it is dropped under its counter.
    pub(crate) fn datagram(&mut self, conn: &Connection, datagram: Bytes, cx: &mut Context<'_>) {
        self.meet_rights(conn, cx);
        let mut reader = RecordReader::new();
        reader.push_kept(datagram, cx.crumb_bytes);
        let whole = match reader.next_header() {
            Ok(Some(header)) if header.record_type == RecordType::Message => reader.take_body(),
            _ => None,
        };
        let Some(mut payload) = whole.filter(|_| reader.is_at_record_border()) else {
            return cx.counters.add(Counter::DropDatagramMalformed, 1);
        };
        cx.counters.add(Counter::RecordsIn, 1);
        let (early, bytes) = (self.early, payload.len());
        // A peer that does not read its answers gets none to further messages.
        if conn.side().is_server() && !self.message_credit.has_room() {
            return cx.counters.add(Counter::DropDatagramRingFull, 1);
        }
        let no_stream = StreamId::new(Side::Client, Dir::Uni, 0);
        let mut reading = self.reading(no_stream, cx);
        match take_header(&mut payload, early, &mut reading) {
            Ok((app, queue)) if reading.takes_message(app) => {
                reading.deliver(app, Delivery::message(reading.connection, queue, payload));
                reading.count_untaken(app, bytes + MESSAGE_COST_BYTES);
            }
            Ok(_) => cx.counters.add(Counter::DropDatagramRingFull, 1),
            Err(_) => cx.counters.add(Counter::DropDatagramRefused, 1),
        }
    }
}

/// Takes the header off a MESSAGE of a stream or a datagram, and checks its token. Returns the application that takes it, and its queue.
pub(super) fn take_header(
    payload: &mut Payload,
    early: bool,
    cx: &mut Reading<'_, '_>,
) -> Result<(usize, u64), Fault> {
    let header = MessageHeader::take_from(payload)?;
    if !cx.peer.grant.allows_messages(header.queue) {
        return Err(cx.lacks(Right::Messages));
    }
    let app = cx.queue(header.queue)?;
    if early && !cx.cx.routes.replay_safe.contains(&header.queue) {
        return Err(Fault::new(ErrorCode::TooEarly, "no messages for this queue in early data"));
    }
    if let Some(token) = header.token
        && token != token_of(payload)
    {
        cx.cx.counters.add(Counter::BadProofs, 1);
        return Err(Fault::new(ErrorCode::BadProof, "a message does not match its token"));
    }
    if early {
        cx.introduce(app);
    }
    Ok((app, header.queue))
}

fn token_of(payload: &Payload) -> Token {
    let mut hasher = blake3::Hasher::new();
    payload.iter().for_each(|chunk| {
        hasher.update(chunk);
    });
    Token::from_root(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::stream::Readiness;
    use super::super::testing::{Bench, QUEUE, SAFE_QUEUE, record};
    use super::*;
    use crate::queue::ConnectionEvent;
    use crate::record::{GoAway, Settings};

    fn one(queue: u64, token: Option<Token>, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        MessageHeader { queue, token }.emit_record_front(payload.len(), &mut out);
        out.extend_from_slice(payload);
        out
    }

    fn heard(bench: &mut Bench) -> Vec<Vec<u8>> {
        let messages = bench.delivered().into_iter().map(|delivery| match delivery {
            Delivery::Connection(_, ConnectionEvent::Message { payload, .. }) => payload.to_bytes().to_vec(),
            other => panic!("{other:?}"),
        });
        messages.collect()
    }

    #[test]
    fn messages_arrive_in_order_however_they_are_cut() {
        let mut bench = Bench::new();
        let mut stream = bench.uni(false);
        let all = [one(QUEUE, None, b"first"), one(QUEUE, Some(Token::of(b"second")), b"second")].concat();
        for byte in all {
            bench.feed(&mut stream, &[byte]).unwrap();
        }
        assert_eq!(heard(&mut bench), [b"first".to_vec(), b"second".to_vec()]);
        bench.end(&mut stream).unwrap();
    }

    #[test]
    fn another_record_among_messages_is_malformed() {
        for other in [record(&Settings::default()), record(&GoAway { retry_ms: 0 })] {
            let mut bench = Bench::new();
            let mut stream = bench.uni(false);
            bench.feed(&mut stream, &one(QUEUE, None, b"first")).unwrap();
            let fault = bench.feed(&mut stream, &other).unwrap_err();
            assert_eq!((fault.code, fault.fatal), (ErrorCode::Malformed, false));
        }
    }

    #[test]
    fn a_message_for_no_queue_or_with_a_false_token_is_refused() {
        for (bytes, code) in [
            (one(99, None, b"x"), ErrorCode::NotFound),
            (one(QUEUE, Some(Token::of(b"another")), b"x"), ErrorCode::BadProof),
        ] {
            let mut bench = Bench::new();
            let mut stream = bench.uni(false);
            assert_eq!(bench.feed(&mut stream, &bytes).unwrap_err().code, code);
            assert!(bench.delivered().is_empty());
        }
    }

    #[test]
    fn early_messages_are_for_queues_that_may_be_replayed() {
        let mut bench = Bench::new();
        let mut stream = bench.uni(true);
        bench.feed(&mut stream, &one(SAFE_QUEUE, None, b"safe")).unwrap();
        let fault = bench.feed(&mut stream, &one(QUEUE, None, b"late")).unwrap_err();
        assert_eq!(fault.code, ErrorCode::TooEarly);
        assert_eq!(heard(&mut bench), [b"safe".to_vec()]);
    }

    #[test]
    fn a_first_message_without_room_waits_and_those_behind_it_follow() {
        let mut bench = Bench::new();
        let mut stream = bench.uni(false);
        bench.fill();
        bench.feed(&mut stream, &[one(QUEUE, None, b"a"), one(QUEUE, None, b"b")].concat()).unwrap();
        assert_eq!(stream.readiness(&bench.ports), Readiness::Full);
        bench.empty();
        assert_eq!(stream.readiness(&bench.ports), Readiness::Wants);
        bench.resume(&mut stream).unwrap();
        assert_eq!(heard(&mut bench), [b"a".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn a_stream_that_ends_inside_a_message_is_malformed() {
        let mut bench = Bench::new();
        let mut stream = bench.uni(false);
        let message = one(QUEUE, None, b"cut short");
        bench.feed(&mut stream, &message[..message.len() - 1]).unwrap();
        assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed);
    }
}
