//! A request of either side whose bytes are not parsed here: it is forwarded to another gateway, or its payload is taken unchecked.

use super::fault::Fault;
use super::reading::Reading;
use super::serving::Serving;
use super::stream::{NextRole, Reader, Readiness, Reads};
use crate::queue::{Credit, Delivery, End, Forward, RequestId};
use crate::record::{Fetch, Hop, Payload, Record, RecordReader, RecordType};
use crate::rights::Right;
use crate::tls::NodeId;
use bytes::Bytes;

/// Chunks of a relayed stream in one delivery.
const RAW_CHUNKS_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) app: usize,
    pub(super) request: RequestId,
    /// Whether the bytes read may come from other nodes.
    pub(super) routed: bool,
    /// Whether the application was told of its end, or has ended it.
    pub(super) over: bool,
    /// Its kind, until its outcome is counted.
    pub(super) counted: Option<RecordType>,
    /// It is read only while this credit has room.
    pace: Credit,
    /// Chunks that are not delivered yet. One delivery then carries many of them.
    gathered: Payload,
    /// The front of a request to forward, until the kind of request is known.
    front: Option<Box<Front>>,
}

/// The front of a request to forward. Its first record tells whether it joins an equal one, or is answered here.
#[derive(Debug)]
struct Front {
    next: NodeId,
    hop: Box<Hop>,
    answer: Credit,
    reader: RecordReader,
}

impl Relayed {
    fn new(app: usize, request: RequestId, pace: Credit) -> Self {
        Self {
            app,
            request,
            routed: true,
            over: false,
            counted: None,
            pace,
            gathered: Payload::new(),
            front: None,
        }
    }

    /// The answer to a request of ours.
    pub(super) fn answer(app: usize, request: RequestId, pace: Credit) -> Self {
        Self { routed: false, ..Self::new(app, request, pace) }
    }

    /// A PUT of the peer whose payload is taken unchecked.
    pub(super) fn unchecked(
        app: usize,
        request: RequestId,
        routed: bool,
        counted: Option<RecordType>,
    ) -> Self {
        Self { routed, counted, ..Self::new(app, request, Credit::default()) }
    }

    /// A request of the peer to forward to `next`. `all`: the bytes of the peer's requests that wait for other gateways.
    pub(super) fn onward(
        app: usize,
        request: RequestId,
        (next, hop, routed): (NodeId, Box<Hop>, bool),
        (answer, all): (Credit, &Credit),
    ) -> Self {
        let front = Front { next, hop, answer, reader: RecordReader::new() };
        Self { front: Some(Box::new(front)), routed, ..Self::new(app, request, Credit::within(all)) }
    }

    /// Whether the request after the HOP is not known yet.
    pub(super) fn is_opening(&self) -> bool {
        self.front.is_some()
    }

    pub(super) fn set_pace(&mut self, pace: Credit) {
        self.pace = pace;
    }

    /// Decides on the request once enough of its first record has arrived. A FETCH is read completely: this node may answer it, or it may
    /// join an equal one. The last node of the route judges every other request.
    fn decide(&mut self, cx: &mut Reading<'_, '_>) -> NextRole {
        let Some(front) = &mut self.front else { return Ok(None) };
        let fetch = match front.reader.next_header()? {
            None => return Ok(None),
            Some(header) if header.record_type == RecordType::Fetch => match front.reader.take_body() {
                Some(body) => Some(Fetch::parse(&body.to_bytes())?),
                None => return Ok(None),
            },
            Some(_) => None,
        };
        self.pace.give_back(self.gathered.len());
        if let Some(fetch) = &fetch
            && front.hop.cache
            && cx.may(Right::Get)
            && cx.cx.routes.cache.as_ref().is_some_and(|cache| cache.holds(fetch))
        {
            if !front.reader.is_at_record_border() {
                return Err(Fault::malformed("more bytes after the request"));
            }
            return Serving::of(fetch.clone().into(), (front.answer.clone(), self.routed), cx).map(Some);
        }
        if let Some(front) = self.front.take() {
            let Front { next, hop, answer, .. } = *front;
            let forward = Forward { next, hop, fetch, answer, onward: self.pace.clone() };
            cx.deliver(self.app, Delivery::Forward(self.request, Box::new(forward)));
        }
        Ok(None)
    }
}

impl Reader for Relayed {
    fn app(&self) -> Option<usize> {
        Some(self.app)
    }

    fn reads(&self) -> Reads {
        Reads::Bytes
    }

    fn readiness(&self) -> Readiness {
        if self.pace.has_relay_room() { Readiness::Wants } else { Readiness::Paused }
    }

    fn on_record(&mut self, _kind: RecordType, _body: Payload, _cx: &mut Reading<'_, '_>) -> NextRole {
        Err(Fault::malformed("a record in a stream that is not read here"))
    }

    fn on_bytes(&mut self, bytes: Bytes, cx: &mut Reading<'_, '_>) -> NextRole {
        let crumb_bytes = cx.cx.crumb_bytes;
        if let Some(front) = &mut self.front {
            // Skipped records may precede the request: they wait within the stream's own bound.
            self.pace.take(bytes.len());
            self.gathered.push_kept(bytes.clone(), crumb_bytes);
            front.reader.push_kept(bytes, crumb_bytes);
            return self.decide(cx);
        }
        self.gathered.push_kept(bytes, crumb_bytes);
        if self.gathered.iter().len() >= RAW_CHUNKS_MAX {
            self.settle(cx)?;
        }
        Ok(None)
    }

    fn on_end(&mut self, _at_border: bool, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if self.front.is_some() {
            return Err(Fault::malformed("the stream ends before the request of its HOP"));
        }
        self.settle(cx)?;
        cx.deliver(self.app, Delivery::Ended(self.request, End::Raw));
        Ok(())
    }

    fn settle(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if self.front.is_none() && !self.gathered.is_empty() {
            cx.deliver(self.app, Delivery::Raw(self.request, std::mem::take(&mut self.gathered)));
        }
        Ok(())
    }

    fn fail(&mut self, end: End, cx: &mut Reading<'_, '_>) {
        // The relay knows the request only once its kind is known.
        if self.front.is_none() && !std::mem::replace(&mut self.over, true) {
            cx.deliver(self.app, Delivery::Ended(self.request, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Role, Sending, Stream};
    use super::super::testing::{Bench, NEXT, hop, record};
    use super::*;
    use crate::limits::{ANSWERS_BYTES_MAX, RELAY_WINDOW_BYTES, REQUESTS_LEN_MAX};
    use crate::record::{ErrorCode, ErrorRecord, Locate, Settings};
    use crate::token::{Ranges, Token};

    fn fetch() -> Fetch {
        let token = Token::of(b"payload").into();
        Fetch { token, bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false }
    }

    fn routed(bench: &mut Bench) -> Stream {
        bench.route();
        let mut stream = bench.bi(false);
        bench.feed(&mut stream, &record(&hop())).unwrap();
        assert!(bench.delivered().is_empty(), "the request has not arrived");
        stream
    }

    #[test]
    fn a_fetch_is_handed_over_whole_with_its_bytes_behind_it() {
        let mut bench = Bench::new();
        let mut stream = routed(&mut bench);
        let bytes = record(&fetch());
        for byte in &bytes {
            assert!(bench.delivered().is_empty());
            bench.feed(&mut stream, &[*byte]).unwrap();
        }
        bench.settle(&mut stream);
        bench.end(&mut stream).unwrap();
        let delivered = bench.delivered();
        let [Delivery::Forward(_, forward), Delivery::Raw(_, raw), Delivery::Ended(_, End::Raw)] =
            &delivered[..]
        else {
            panic!("{delivered:?}")
        };
        assert_eq!((forward.next, &forward.fetch), (NEXT, &Some(fetch())));
        assert_eq!((forward.hop.cursor, forward.hop.hop_limit), (1, hop().hop_limit - 1));
        assert_eq!(raw.to_bytes(), bytes);
    }

    #[test]
    fn another_request_is_forwarded_as_soon_as_its_type_is_known() {
        let mut bench = Bench::new();
        let mut stream = routed(&mut bench);
        let bytes = record(&Locate { token: Token::of(b"payload").into() });
        bench.feed(&mut stream, &bytes[..2]).unwrap();
        let delivered = bench.delivered();
        assert!(
            matches!(&delivered[..], [Delivery::Forward(_, forward)] if forward.fetch.is_none()),
            "{delivered:?}"
        );
        bench.feed(&mut stream, &bytes[2..]).unwrap();
        bench.settle(&mut stream);
        let delivered = bench.delivered();
        assert!(
            matches!(&delivered[..], [Delivery::Raw(_, raw)] if raw.to_bytes() == bytes),
            "{delivered:?}"
        );
    }

    #[test]
    fn a_request_that_cannot_be_read_or_ends_early_is_refused() {
        let mut odd = Vec::new();
        crate::varint::write(0x7f, &mut odd);
        odd.push(0);
        let mut false_fetch = Vec::new();
        RecordType::Fetch.emit_header(1, &mut false_fetch);
        false_fetch.push(0);
        for (bytes, code) in [(odd, ErrorCode::UnknownRecord), (false_fetch, ErrorCode::Malformed)] {
            let mut bench = Bench::new();
            let mut stream = routed(&mut bench);
            assert_eq!(bench.feed(&mut stream, &bytes).unwrap_err().code, code);
            assert!(!stream.role.is_routed(), "the peer is the asker: it is charged");
            bench.fail(&mut stream, ErrorRecord::new(code, 0, "refused"));
            assert!(bench.delivered().is_empty(), "the relay knows nothing of it");
        }
        let mut bench = Bench::new();
        let mut stream = routed(&mut bench);
        assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed);
    }

    #[test]
    fn records_that_are_skipped_before_the_request_wait_within_a_bound() {
        let mut bench = Bench::new();
        let mut stream = routed(&mut bench);
        let mut skipped = vec![0x40, 0x20, 0x80, 0, 0xff, 0];
        skipped.resize(6 + 0xff00, 0);
        let mut fed = 0;
        while stream.readiness(&bench.ports) == Readiness::Wants {
            bench.feed(&mut stream, &skipped).unwrap();
            fed += skipped.len();
        }
        assert_eq!(stream.readiness(&bench.ports), Readiness::Paused);
        assert!(fed <= RELAY_WINDOW_BYTES + skipped.len(), "{fed}");
        assert!(bench.delivered().is_empty());
    }

    #[test]
    fn requests_that_wait_for_other_gateways_share_one_bound_of_their_connection() {
        let mut bench = Bench::new();
        let locate = record(&Locate { token: Token::of(b"payload").into() });
        let mut held = Vec::new();
        loop {
            let mut stream = routed(&mut bench);
            bench.feed(&mut stream, &locate[..2]).unwrap();
            let Some(Delivery::Forward(_, forward)) = bench.delivered().pop() else {
                panic!("not forwarded")
            };
            if stream.readiness(&bench.ports) == Readiness::Paused {
                break;
            }
            // The next gateway takes no bytes.
            forward.onward.take(RELAY_WINDOW_BYTES);
            held.push((stream, forward));
            assert!(held.len() <= REQUESTS_LEN_MAX as usize, "nothing bounds them");
        }
        assert_eq!(held.len(), ANSWERS_BYTES_MAX / RELAY_WINDOW_BYTES);
        held.pop();
        assert_ne!(routed(&mut bench).readiness(&bench.ports), Readiness::Paused, "their end gives it back");
    }

    #[test]
    fn a_relayed_stream_is_read_while_its_consumer_has_room_and_any_bytes_pass() {
        let mut bench = Bench::new();
        let pace = Credit::default();
        let request = RequestId::local(bench.connection(), 1);
        let mut stream = Stream::new(Role::Relayed(Relayed::answer(0, request, pace.clone())), Sending::Over);
        pace.take(64 << 20);
        assert_eq!(stream.readiness(&bench.ports), Readiness::Paused);
        let other = Credit::default();
        let Role::Relayed(relayed) = &mut stream.role else { unreachable!() };
        relayed.set_pace(other);
        assert_eq!(stream.readiness(&bench.ports), Readiness::Wants);
        let bytes = record(&Settings::default());
        bench.feed(&mut stream, &bytes).unwrap();
        bench.settle(&mut stream);
        assert!(
            matches!(&bench.delivered()[..], [Delivery::Raw(id, raw)] if *id == request && raw.to_bytes() == bytes)
        );
    }

    #[test]
    fn a_request_of_ours_whose_bytes_are_all_sent_still_reports_its_end() {
        let mut bench = Bench::new();
        let request = RequestId::local(bench.connection(), 1);
        let mut stream =
            Stream::new(Role::Relayed(Relayed::answer(0, request, Credit::default())), Sending::Over);
        stream.role.close();
        bench.fail(&mut stream, ErrorRecord::new(ErrorCode::UpstreamFailed, 0, "reset"));
        assert_eq!(bench.delivered().len(), 1);
    }

    #[test]
    fn chunks_are_delivered_together_and_an_end_is_reported_once() {
        let mut bench = Bench::new();
        let request = RequestId::local(bench.connection(), 1);
        let mut stream =
            Stream::new(Role::Relayed(Relayed::answer(0, request, Credit::default())), Sending::Over);
        for _ in 0..RAW_CHUNKS_MAX + 1 {
            bench.feed(&mut stream, b"x").unwrap();
        }
        assert_eq!(bench.delivered().len(), 1);
        for _ in 0..2 {
            bench.fail(&mut stream, ErrorRecord::new(ErrorCode::None, 0, "reset"));
        }
        assert_eq!(bench.delivered().len(), 1);
    }
}
