use super::super::testing::{Bench, QUEUE, UNCHECKED_QUEUE, encoding, record};
use super::*;
use crate::record::{ErrorRecord, Fetch, Locate, MessageHeader, Mirror, OkRecord, Settings};
use crate::shard::{Descriptor, Lanes};
use crate::token::Token;

const PAYLOAD: &[u8] = b"the payload";

fn put(queue: u64) -> Vec<u8> {
    let descriptor = Descriptor::plain(Token::of(PAYLOAD), PAYLOAD.len() as u64).unwrap();
    record(&Put { queue, lease_s: 60, descriptor, lanes: None })
}

fn fetch() -> Vec<u8> {
    let token = Token::of(PAYLOAD).into();
    record(&Fetch { token, bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false })
}

fn locate() -> Vec<u8> {
    record(&Locate { token: Token::of(PAYLOAD).into() })
}

fn mirror() -> Vec<u8> {
    record(&Mirror { token: Token::of(PAYLOAD).into(), lanes: Lanes::NONE, lease_s: 0, sources: vec![] })
}

fn accept(stream: &mut super::super::stream::Stream) {
    let Role::Serving(serving) = &mut stream.role else { panic!("not served") };
    assert!(serving.accept());
}

#[test]
fn every_request_goes_to_its_application_once_and_nothing_may_follow_it() {
    for (bytes, kind) in
        [(fetch(), RecordType::Fetch), (locate(), RecordType::Locate), (mirror(), RecordType::Mirror)]
    {
        let mut bench = Bench::new();
        let mut stream = bench.bi(false);
        bench.feed(&mut stream, &bytes[..bytes.len() - 1]).unwrap();
        assert!(bench.delivered().is_empty(), "{kind:?} has not come whole");
        bench.feed(&mut stream, &bytes[bytes.len() - 1..]).unwrap();
        let delivered = bench.delivered();
        assert!(
            matches!(&delivered[..], [Delivery::Asked(_, asked)] if asked.request.record_type() == kind),
            "{delivered:?}"
        );
        assert_eq!(stream.role.take_counted(), Some(kind));
        // Itself once more, a record that may be skipped elsewhere, and the front of one.
        for more in [&bytes[..], &[0x20, 0x01, 0], &[0x20]] {
            let mut stream = bench.bi(false);
            let fault = bench.feed(&mut stream, &[&bytes[..], more].concat()).unwrap_err();
            assert_eq!((fault.code, fault.fatal), (ErrorCode::Malformed, false), "{kind:?} and {more:?}");
            let mut stream = bench.bi(false);
            bench.feed(&mut stream, &bytes).unwrap();
            assert_eq!(bench.feed(&mut stream, more).unwrap_err().code, ErrorCode::Malformed);
        }
    }
}

#[test]
fn records_that_are_no_request_are_malformed() {
    let mut message = Vec::new();
    MessageHeader { queue: QUEUE, token: None }.emit_record_front(0, &mut message);
    let ok = record(&OkRecord { length_bytes: 0, descriptor: None });
    for bytes in [record(&Settings::default()), message, ok] {
        let mut bench = Bench::new();
        let mut stream = bench.bi(false);
        let fault = bench.feed(&mut stream, &bytes).unwrap_err();
        assert_eq!((fault.code, fault.fatal), (ErrorCode::Malformed, false));
        assert!(bench.delivered().is_empty());
    }
}

#[test]
fn in_early_data_only_fetch_and_locate_are_taken() {
    for (bytes, taken) in [(fetch(), true), (locate(), true), (mirror(), false), (put(QUEUE), false)] {
        let mut bench = Bench::new();
        let mut stream = bench.bi(true);
        let fed = bench.feed(&mut stream, &bytes).map_err(|fault| fault.code);
        assert_eq!(fed, if taken { Ok(()) } else { Err(ErrorCode::TooEarly) });
        assert_eq!(bench.delivered().len(), usize::from(taken));
    }
}

#[test]
fn a_node_that_leaves_takes_no_request() {
    let mut bench = Bench::new();
    bench.leaving = true;
    let mut stream = bench.bi(false);
    assert_eq!(bench.feed(&mut stream, &fetch()).unwrap_err().code, ErrorCode::GoingAway);
}

#[test]
fn a_put_is_read_once_it_is_accepted_and_ends_checked() {
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    bench.feed(&mut stream, &put(QUEUE)).unwrap();
    assert_eq!(stream.readiness(&bench.ports), Readiness::Blocked);
    accept(&mut stream);
    assert_eq!(stream.readiness(&bench.ports), Readiness::Wants);
    bench.delivered();
    for chunk in encoding(PAYLOAD) {
        bench.feed(&mut stream, &chunk).unwrap();
    }
    bench.settle(&mut stream);
    bench.end(&mut stream).unwrap();
    let delivered = bench.delivered();
    let [Delivery::Piece { piece, .. }, Delivery::Ended(_, End::Checked)] = &delivered[..] else {
        panic!("{delivered:?}")
    };
    assert_eq!(piece.data, PAYLOAD);
    // The application is told once: settling again adds nothing.
    bench.settle(&mut stream);
    assert!(bench.delivered().is_empty());
}

#[test]
fn bytes_before_ok_too_many_bytes_and_false_bytes_end_a_put() {
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    let early = [put(QUEUE), encoding(PAYLOAD).concat()].concat();
    assert_eq!(bench.feed(&mut stream, &early).unwrap_err().code, ErrorCode::Malformed);

    for (bytes, code) in [
        ([encoding(PAYLOAD).concat(), b"x".to_vec()].concat(), ErrorCode::Malformed),
        (vec![0; PAYLOAD.len()], ErrorCode::BadProof),
    ] {
        let mut stream = bench.bi(false);
        bench.feed(&mut stream, &put(QUEUE)).unwrap();
        accept(&mut stream);
        assert_eq!(bench.feed(&mut stream, &bytes).unwrap_err().code, code);
    }
}

#[test]
fn a_put_that_ends_early_is_malformed() {
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    bench.feed(&mut stream, &put(QUEUE)).unwrap();
    accept(&mut stream);
    assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed);
    let mut stream = bench.bi(false);
    assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed, "before its request");
}

#[test]
fn a_put_to_an_unchecked_queue_is_not_parsed_here_and_one_to_an_unknown_queue_is_refused() {
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    bench.feed(&mut stream, &put(UNCHECKED_QUEUE)).unwrap();
    assert!(matches!(stream.role, Role::Relayed(_)));
    assert_eq!(stream.role.take_counted(), Some(RecordType::Put));
    let mut stream = bench.bi(false);
    assert_eq!(bench.feed(&mut stream, &put(99)).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn the_application_is_told_of_one_end_and_of_none_before_the_request() {
    let failure = ErrorRecord::new(ErrorCode::None, 0, "given up");
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    bench.fail(&mut stream, failure.clone());
    assert!(bench.delivered().is_empty(), "no application knows of it");
    let mut stream = bench.bi(false);
    bench.feed(&mut stream, &fetch()).unwrap();
    bench.delivered();
    bench.fail(&mut stream, failure.clone());
    bench.fail(&mut stream, failure.clone());
    assert_eq!(bench.delivered().len(), 1);
    let mut stream = bench.bi(false);
    bench.feed(&mut stream, &fetch()).unwrap();
    bench.delivered();
    stream.role.close();
    bench.fail(&mut stream, failure);
    assert!(bench.delivered().is_empty(), "the application ended it itself");
}

#[test]
fn a_node_without_routes_refuses_hop() {
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    let fault = bench.feed(&mut stream, &record(&super::super::testing::hop())).unwrap_err();
    assert_eq!(fault.code, ErrorCode::NotAuthorized);
}

#[test]
fn a_wrong_group_that_finds_no_verify_thread_leaves_its_put_incomplete() {
    let payload = vec![7; 4 * crate::limits::GROUP_BYTES];
    let mut bench = Bench::new();
    bench.checks = crate::queue::check_rings(1, 1).0.pop(); // Its thread has ended.
    let mut stream = bench.bi(false);
    let descriptor = Descriptor::plain(Token::of(&payload), payload.len() as u64).unwrap();
    let put = Put { queue: QUEUE, lease_s: 60, descriptor, lanes: None };
    bench.feed(&mut stream, &record(&put)).unwrap();
    accept(&mut stream);
    bench.delivered();
    let mut encoded = encoding(&payload).concat();
    *encoded.last_mut().unwrap() ^= 1;
    assert_eq!(bench.feed(&mut stream, &encoded).unwrap_err().code, ErrorCode::BadProof);
    bench.settle(&mut stream);
    assert!(bench.delivered().is_empty(), "neither pieces behind it nor an end");
}

#[test]
fn a_put_is_read_only_while_its_credit_has_room_and_what_is_dropped_gives_it_back() {
    let mut bench = Bench::new();
    let mut stream = bench.bi(false);
    bench.feed(&mut stream, &put(QUEUE)).unwrap();
    accept(&mut stream);
    bench.feed(&mut stream, &encoding(PAYLOAD).concat()).unwrap();
    bench.settle(&mut stream);
    let delivered = bench.delivered();
    let [Delivery::Asked(..), Delivery::Piece { piece, .. }, Delivery::Ended(_, End::Checked)] =
        &delivered[..]
    else {
        panic!("{delivered:?}")
    };
    assert_eq!(
        bench.peer.requests_credit.outstanding_bytes(),
        piece.data.len(),
        "the peer is charged for it"
    );
    assert_eq!(stream.readiness(&bench.ports), Readiness::Wants);
    bench.peer.requests_credit.take(64 << 20);
    assert_eq!(stream.readiness(&bench.ports), Readiness::Paused);
    bench.peer.requests_credit.give_back(64 << 20);
    drop(delivered);
    assert_eq!(bench.peer.requests_credit.outstanding_bytes(), 0);
    assert_eq!(stream.readiness(&bench.ports), Readiness::Wants);
}
