//! The answer to a request of this side.

use super::body::{Body, BodyPace, Taker};
use super::fault::{Fault, unexpected};
use super::reading::Reading;
use super::stream::{NextRole, Reader, Readiness, Reads, Sending};
use crate::queue::{Answer, Ask, Credit, Delivery, End, PeerWait, RequestId};
use crate::record::{
    Done, ErrorCode, ErrorRecord, Fetch, Holders, Listed, OkRecord, Payload, Record, RecordType, Request,
};
use crate::token::AnyToken;
use bytes::Bytes;

#[derive(Debug)]
pub(super) struct Asking {
    pub(super) app: usize,
    pub(super) request: RequestId,
    /// Whether the request is routed: the peer then forwards other nodes' bytes.
    pub(super) routed: bool,
    /// Whether the application was told of its end.
    over: bool,
    expected: Expected,
}

/// The possible answer.
#[derive(Debug)]
enum Expected {
    /// To PUT: OK, then DONE; or DONE alone.
    Put { accepted: bool },
    /// To FETCH: OK, then a verified encoding.
    Fetch(Box<Fetched>),
    /// To LOCATE: HOLDERS of this token.
    Holders(AnyToken),
    /// To MIRROR.
    Done,
    /// To LIST, STAT, REMOVE and RENEW.
    Listed,
}

#[derive(Debug)]
struct Fetched {
    fetch: Fetch,
    /// Reading takes this credit for every payload byte.
    pace: Option<Credit>,
    /// The encoding after OK.
    body: Option<Body>,
}

impl Asking {
    /// Of a request; also returns the credit for its data, if it is a PUT that has some.
    pub(super) fn new(app: usize, request: RequestId, ask: Ask) -> (Self, Option<Credit>) {
        let Ask { routed, credit } = ask;
        let (expected, credit) = match routed.request {
            Request::Put(_) => (Expected::Put { accepted: false }, credit),
            Request::Fetch(fetch) => {
                (Expected::Fetch(Box::new(Fetched { fetch, pace: credit, body: None })), None)
            }
            Request::Locate(locate) => (Expected::Holders(locate.token), None),
            Request::Mirror(_) => (Expected::Done, None),
            Request::List(_) | Request::Stat(_) | Request::Remove(_) | Request::Renew(_) => {
                (Expected::Listed, None)
            }
        };
        (Self { app, request, routed: routed.hop.is_some(), over: false, expected }, credit)
    }

    /// The encoding after OK.
    pub(super) fn body(&mut self) -> Option<&mut Body> {
        match &mut self.expected {
            Expected::Fetch(fetched) => fetched.body.as_mut(),
            _ => None,
        }
    }

    /// The bytes that verify threads check.
    pub(super) fn checking_bytes(&self) -> usize {
        match &self.expected {
            Expected::Fetch(fetched) => fetched.body.as_ref().map_or(0, Body::checking_bytes),
            _ => 0,
        }
    }

    /// What the peer owes, if it is the peer that must go on.
    pub(super) fn owed(&self, send: &Sending) -> Option<PeerWait> {
        match (&self.expected, send) {
            _ if self.over => None,
            (Expected::Fetch(fetched), _) if fetched.body.is_some() => Some(PeerWait::Rest),
            (Expected::Put { accepted: true }, Sending::Open(outbound)) => {
                // Without bytes, the next ones are to come from this side.
                outbound.waits().then_some(PeerWait::Room)
            }
            (Expected::Put { accepted: true }, _) => Some(PeerWait::Done),
            _ => Some(PeerWait::Answer),
        }
    }

    /// Delivers an answer. Any but OK ends the request.
    fn answer(&mut self, answer: Answer, cx: &mut Reading<'_, '_>) {
        self.over = !matches!(answer, Answer::Ok(_));
        cx.deliver(self.app, Delivery::Answered(self.request, answer));
    }
}

impl Fetched {
    /// The encoding to expect, now that OK has named the payload's length.
    fn body_of(&self, ok: &OkRecord) -> Result<Body, Fault> {
        let Fetch { token, lanes, ranges, .. } = &self.fetch;
        let set = match *token {
            AnyToken::Content(token) if lanes.is_none() => {
                return Body::payload(token, ok.length_bytes, ranges);
            }
            AnyToken::Content(_) => None,
            AnyToken::Set(set) => ok.descriptor.filter(|found| found.set_token() == set),
        };
        // The set token proves the descriptor, and the descriptor the tokens of both blobs.
        let Some(found) = set.filter(|found| found.length_bytes() == ok.length_bytes) else {
            return Err(Fault::new(
                ErrorCode::BadDescriptor,
                "the answer's descriptor does not match the set token",
            ));
        };
        match lanes {
            Some(lanes) => Body::lanes(Box::new(found), *lanes, ranges),
            None => Body::payload(found.content(), ok.length_bytes, ranges),
        }
    }
}

impl Reader for Asking {
    fn app(&self) -> Option<usize> {
        Some(self.app)
    }

    fn reads(&self) -> Reads {
        match &self.expected {
            Expected::Fetch(fetched) if fetched.body.is_some() => Reads::Bytes,
            _ if self.over => Reads::Bytes,
            _ => Reads::Records,
        }
    }

    fn readiness(&self) -> Readiness {
        match &self.expected {
            Expected::Fetch(fetched) if fetched.pace.as_ref().is_some_and(|pace| !pace.has_room()) => {
                Readiness::Paused
            }
            Expected::Fetch(fetched) if fetched.body.as_ref().is_some_and(Body::awaits_checks) => {
                Readiness::Blocked
            }
            _ => Readiness::Wants,
        }
    }

    fn on_record(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> NextRole {
        let body = body.to_bytes();
        match (kind, &mut self.expected) {
            (RecordType::Error, _) => self.fail(End::Failed(ErrorRecord::parse(&body)?), cx),
            (RecordType::Ok, Expected::Put { accepted }) if !*accepted => {
                *accepted = true;
                let ok = OkRecord::parse(&body)?;
                self.answer(Answer::Ok(ok), cx);
            }
            (RecordType::Ok, Expected::Fetch(fetched)) => {
                let ok = OkRecord::parse(&body)?;
                let checked = fetched.body_of(&ok)?.checked_by(cx);
                let describes = fetched.fetch.describe;
                if !describes {
                    fetched.body = Some(checked);
                }
                self.answer(Answer::Ok(ok), cx);
                if describes {
                    self.over = true;
                    cx.deliver(self.app, Delivery::Ended(self.request, End::Checked));
                }
            }
            (RecordType::Done, Expected::Put { .. } | Expected::Done) => {
                self.answer(Answer::Done(Done::parse(&body)?), cx);
            }
            (RecordType::Holders, Expected::Holders(token)) => {
                let found = Holders::parse(&body)?;
                found.holders.iter().try_for_each(|holder| holder.coverage.check(token))?;
                self.answer(Answer::Holders(found), cx);
            }
            (RecordType::Listed, Expected::Listed) => {
                self.answer(Answer::Listed(Listed::parse(&body)?), cx);
            }
            _ => return Err(unexpected(kind, "in the answer")),
        }
        Ok(None)
    }

    fn on_bytes(&mut self, bytes: Bytes, cx: &mut Reading<'_, '_>) -> NextRole {
        let Some(body) = self.body() else { return Err(Fault::malformed("bytes after the answer")) };
        if body.push(&bytes)? {
            self.settle(cx)?;
        }
        Ok(None)
    }

    fn on_end(&mut self, _at_border: bool, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if self.over || self.body().is_some_and(|body| body.is_complete()) {
            return Ok(());
        }
        Err(Fault::malformed("the answer ends before it is whole"))
    }

    fn settle(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        let (app, request) = (self.app, self.request);
        let Expected::Fetch(fetched) = &mut self.expected else { return Ok(()) };
        let Fetched { body: Some(body), pace, .. } = &mut **fetched else { return Ok(()) };
        body.deliver(&Taker { app, request, pace: pace.as_ref().map(BodyPace::Account) }, cx)?;
        if body.becomes_complete() {
            // The application has every byte: a later fault concerns only the peer and this session.
            self.over = true;
            cx.deliver(app, Delivery::Ended(request, End::Checked));
        }
        Ok(())
    }

    fn fail(&mut self, end: End, cx: &mut Reading<'_, '_>) {
        if let Some(body) = self.body() {
            body.abandon();
        }
        if !std::mem::replace(&mut self.over, true) {
            cx.deliver(self.app, Delivery::Ended(self.request, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Role, Stream};
    use super::super::testing::{Bench, QUEUE, encoding, record};
    use super::*;
    use crate::record::{Coverage, Holder, List, Locate, Mirror, Put, Settings};
    use crate::shard::{Descriptor, Lanes};
    use crate::tls::NodeId;
    use crate::token::{Ranges, SetToken, Token};

    const PAYLOAD: &[u8] = b"the payload";

    fn token() -> AnyToken {
        Token::of(PAYLOAD).into()
    }

    fn asking(bench: &Bench, ask: Ask) -> Stream {
        let (asking, _) = Asking::new(0, RequestId::local(bench.connection(), 1), ask);
        Stream::new(Role::Asking(Box::new(asking)), Sending::Over)
    }

    fn fetch(describe: bool) -> Ask {
        Ask::new(Fetch { token: token(), bytes_max: 0, lanes: None, ranges: Ranges::all(), describe })
    }

    fn asks() -> [Ask; 5] {
        let descriptor = Descriptor::plain(Token::of(PAYLOAD), PAYLOAD.len() as u64).unwrap();
        [
            Ask::new(Put { queue: QUEUE, lease_s: 0, descriptor, lanes: None }),
            fetch(false),
            Ask::new(Locate { token: token() }),
            Ask::new(Mirror { token: token(), lanes: Lanes::NONE, lease_s: 0, sources: vec![] }),
            Ask::new(List::default()),
        ]
    }

    fn ok(length_bytes: u64) -> Vec<u8> {
        record(&OkRecord { length_bytes, descriptor: None })
    }

    fn done() -> Vec<u8> {
        record(&Done { bytes: 1, token: token() })
    }

    fn holders() -> Vec<u8> {
        record(&Holders { holders: vec![] })
    }

    fn listed() -> Vec<u8> {
        record(&Listed::default())
    }

    fn error() -> Vec<u8> {
        record(&ErrorRecord::new(ErrorCode::Busy, 0, "no"))
    }

    #[test]
    fn each_request_takes_its_own_answers_and_error_and_no_others() {
        let answers = [ok(PAYLOAD.len() as u64), done(), holders(), listed(), record(&Settings::default())];
        let taken = [
            [true, true, false, false, false],
            [true, false, false, false, false],
            [false, false, true, false, false],
            [false, true, false, false, false],
            [false, false, false, true, false],
        ];
        for (at, taken) in taken.into_iter().enumerate() {
            for (answer, taken) in answers.iter().zip(taken) {
                let mut bench = Bench::new();
                let mut stream = asking(&bench, asks()[at].clone());
                let fed = bench.feed(&mut stream, answer).map_err(|fault| fault.code);
                assert_eq!(fed, if taken { Ok(()) } else { Err(ErrorCode::Malformed) }, "{at} {answer:?}");
                assert_eq!(bench.delivered().len(), usize::from(taken));
            }
            let mut bench = Bench::new();
            let mut stream = asking(&bench, asks()[at].clone());
            bench.feed(&mut stream, &error()).unwrap();
            let delivered = bench.delivered();
            assert!(
                matches!(&delivered[..], [Delivery::Ended(_, End::Failed(failure))] if failure.code == ErrorCode::Busy),
                "{delivered:?}"
            );
            bench.end(&mut stream).unwrap();
        }
    }

    #[test]
    fn no_record_follows_the_last_of_an_answer() {
        for (at, last) in [(0, done()), (1, error()), (2, holders()), (3, done()), (4, listed())] {
            // A record that may be skipped elsewhere is none here.
            for then in [error(), last.clone(), vec![0x20, 0], vec![0x20]] {
                let mut bench = Bench::new();
                let mut stream = asking(&bench, asks()[at].clone());
                bench.feed(&mut stream, &last).unwrap();
                assert_eq!(bench.feed(&mut stream, &then).unwrap_err().code, ErrorCode::Malformed);
                assert_eq!(bench.delivered().len(), 1);
            }
        }
    }

    #[test]
    fn an_answer_that_cannot_be_parsed_is_reported_as_a_failure() {
        let answers = [
            (0, RecordType::Done),
            (1, RecordType::Ok),
            (2, RecordType::Holders),
            (3, RecordType::Error),
            (4, RecordType::Listed),
        ];
        for (at, kind) in answers {
            let mut bench = Bench::new();
            let mut stream = asking(&bench, asks()[at].clone());
            let mut cut_short = Vec::new();
            kind.emit_header(1, &mut cut_short);
            // LISTED begins with flags.
            cut_short.push(if kind == RecordType::Listed { 1 } else { 0x40 });
            let fault = bench.feed(&mut stream, &cut_short).unwrap_err();
            assert_eq!(fault.code, ErrorCode::Malformed, "{kind:?}");
            bench.fail(&mut stream, ErrorRecord::new(fault.code, 0, fault.reason));
            let delivered = bench.delivered();
            assert!(matches!(&delivered[..], [Delivery::Ended(_, End::Failed(_))]), "{kind:?} {delivered:?}");
        }
    }

    #[test]
    fn a_put_takes_ok_once_and_then_done() {
        let mut bench = Bench::new();
        let [put, ..] = asks();
        let mut stream = asking(&bench, put.clone());
        bench.feed(&mut stream, &ok(0)).unwrap();
        assert_eq!(bench.feed(&mut stream, &ok(0)).unwrap_err().code, ErrorCode::Malformed);
        let mut stream = asking(&bench, put);
        bench.feed(&mut stream, &[ok(0), done()].concat()).unwrap();
        bench.end(&mut stream).unwrap();
    }

    #[test]
    fn a_fetch_is_checked_and_reported_complete_once() {
        let mut bench = Bench::new();
        let pace = Credit::default();
        let mut stream = asking(&bench, fetch(false).with_credit(pace.clone()));
        bench.feed(&mut stream, &ok(PAYLOAD.len() as u64)).unwrap();
        assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed, "cut short");
        bench.feed(&mut stream, &encoding(PAYLOAD).concat()).unwrap();
        bench.settle(&mut stream);
        bench.end(&mut stream).unwrap();
        let delivered = bench.delivered();
        let [Delivery::Answered(..), Delivery::Piece { piece, .. }, Delivery::Ended(_, End::Checked)] =
            &delivered[..]
        else {
            panic!("{delivered:?}")
        };
        assert_eq!(piece.data, PAYLOAD);
        // A byte after the end is the peer's fault, but the application is not told.
        assert_eq!(bench.feed(&mut stream, b"more").unwrap_err().code, ErrorCode::Malformed);
        bench.fail(&mut stream, ErrorRecord::new(ErrorCode::Malformed, 0, "more"));
        assert!(bench.delivered().is_empty());
    }

    #[test]
    fn a_fetch_waits_for_its_credit() {
        let mut bench = Bench::new();
        let pace = Credit::default();
        let mut stream = asking(&bench, fetch(false).with_credit(pace.clone()));
        bench.feed(&mut stream, &ok(PAYLOAD.len() as u64)).unwrap();
        pace.take(64 << 20);
        assert_eq!(stream.readiness(&bench.ports), Readiness::Paused);
        pace.give_back(64 << 20);
        assert_eq!(stream.readiness(&bench.ports), Readiness::Wants);
        bench.fill();
        assert_eq!(stream.readiness(&bench.ports), Readiness::Full);
    }

    #[test]
    fn a_description_ends_with_ok() {
        let mut bench = Bench::new();
        let mut stream = asking(&bench, fetch(true));
        bench.feed(&mut stream, &ok(PAYLOAD.len() as u64)).unwrap();
        bench.end(&mut stream).unwrap();
        let delivered = bench.delivered();
        assert!(
            matches!(&delivered[..], [Delivery::Answered(..), Delivery::Ended(_, End::Checked)]),
            "{delivered:?}"
        );
        assert_eq!(bench.feed(&mut stream, &ok(0)).unwrap_err().code, ErrorCode::Malformed);
    }

    #[test]
    fn a_set_must_be_described_by_its_own_descriptor() {
        let descriptor = Descriptor::plain(Token::of(PAYLOAD), PAYLOAD.len() as u64).unwrap();
        let other = Descriptor::plain(Token::of(b"other"), PAYLOAD.len() as u64).unwrap();
        let of_set = Fetch {
            token: descriptor.set_token().into(),
            bytes_max: 0,
            lanes: None,
            ranges: Ranges::all(),
            describe: false,
        };
        for (length_bytes, said, fits) in [
            (PAYLOAD.len() as u64, Some(descriptor), true),
            (PAYLOAD.len() as u64, Some(other), false),
            (PAYLOAD.len() as u64, None, false),
            (1, Some(descriptor), false),
        ] {
            let mut bench = Bench::new();
            let mut stream = asking(&bench, Ask::new(of_set.clone()));
            let answer = record(&OkRecord { length_bytes, descriptor: said });
            let fed = bench.feed(&mut stream, &answer).map_err(|fault| fault.code);
            assert_eq!(fed, if fits { Ok(()) } else { Err(ErrorCode::BadDescriptor) });
        }
    }

    #[test]
    fn holders_have_lanes_of_a_set_alone() {
        let set = SetToken::from_hash([7; 32]).into();
        let held = |coverage| Holder { node: NodeId([9; 32]), coverage, expires_s: 0 };
        let lanes = Coverage::Lanes([0, 9].into_iter().collect());
        for (token, coverage, fits) in
            [(token(), Coverage::All, true), (token(), lanes, false), (set, lanes, true)]
        {
            let mut bench = Bench::new();
            let mut stream = asking(&bench, Ask::new(Locate { token }));
            let answer = record(&Holders { holders: vec![held(Coverage::All), held(coverage)] });
            let fed = bench.feed(&mut stream, &answer).map_err(|fault| fault.code);
            assert_eq!(fed, if fits { Ok(()) } else { Err(ErrorCode::Malformed) }, "{token} {coverage:?}");
            assert_eq!(bench.delivered().len(), usize::from(fits));
        }
    }

    #[test]
    fn an_answer_that_ends_too_early_is_malformed_and_a_reset_is_reported_once() {
        for ask in asks() {
            let mut bench = Bench::new();
            let mut stream = asking(&bench, ask);
            assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed);
            for _ in 0..2 {
                bench.fail(&mut stream, ErrorRecord::new(ErrorCode::None, 0, "given up"));
            }
            assert_eq!(bench.delivered().len(), 1);
        }
    }
}
