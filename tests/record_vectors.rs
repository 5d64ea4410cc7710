//! The byte-exact records of `tests/vectors/records.json`, read and written.

use data_encoding::HEXLOWER;
use serde::Deserialize;
use stoq::record::{
    Coding, Continuation, Coverage, Descriptor, Done, ErrorCode, ErrorRecord, Fetch, GoAway, Have, Holder,
    Holders, Hop, LeaseHolder, LeaseScope, List, Listed, ListedEntry, ListedLease, Locate, MessageHeader,
    Mirror, OkRecord, Put, Record, RecordReader, RecordType, Remove, Renew, Settings, Stat,
};
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Ranges, SetToken, Token};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    records: Vec<Vector>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    hex: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    name: String,
    hex: String,
    error: u64,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/records.json")).expect("the vectors are well-formed")
}

fn abc() -> Token {
    Token::of(b"abc")
}

/// `abc` in one stripe of two data lanes.
fn two_lanes() -> Descriptor {
    Descriptor::new(abc(), 3, 65_536, Coding::ReedSolomon { data_lanes: 2, parity: None }).unwrap()
}

/// The set token of [`two_lanes`].
fn set() -> SetToken {
    let mut descriptor = Vec::new();
    two_lanes().emit(&mut descriptor);
    SetToken::of(&descriptor)
}

/// Node IDs of one byte, repeated.
fn nodes<T: FromIterator<NodeId>>(bytes: &[u8]) -> T {
    bytes.iter().map(|&byte| NodeId([byte; 32])).collect()
}

fn lanes(lanes: &[u8]) -> Lanes {
    lanes.iter().copied().collect()
}

/// The record that a vector's name stands for, as bytes.
fn written(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let plain = Descriptor::plain(abc(), 3).unwrap();
    let hop = Hop {
        cache: false,
        hop_limit: 4,
        nonce: *b"0123456789abcdef",
        budget_bytes: 1 << 20,
        cursor: 0,
        route: nodes(&[0xa1, 0xb2]),
    };
    match name {
        "settings" => Settings {
            record_bytes_max: Some(65_536),
            hops_max: Some(8),
            ranges_max: Some(256),
            inflight_max: Some(256),
            roles: Some(Settings::ROLE_SEED | Settings::ROLE_ROUTE),
            continued: Some(1),
            leases: None,
        }
        .emit_record(&mut out),
        "settings-leases" => {
            let roles = Some(Settings::ROLE_SEED);
            Settings { roles, continued: Some(1), leases: Some(1), ..Settings::default() }
                .emit_record(&mut out);
        }
        "settings-empty" => Settings::default().emit_record(&mut out),
        "go-away" => GoAway { retry_ms: 5_000 }.emit_record(&mut out),
        "continuation" => Continuation { stream: 70 }.emit_record(&mut out),
        "message" => {
            MessageHeader { queue: 7, token: None }.emit_record_front(5, &mut out);
            out.extend_from_slice(b"hello");
        }
        "message-with-token" => {
            MessageHeader { queue: 70_000, token: Some(abc()) }.emit_record_front(3, &mut out);
            out.extend_from_slice(b"abc");
        }
        "have-all" => {
            Have { token: abc().into(), coverage: Coverage::All, lease_s: 3_600 }.emit_record(&mut out);
        }
        "have-lanes" => {
            let coverage = Coverage::Lanes(lanes(&[0, 5, 127]));
            Have { token: set().into(), coverage, lease_s: 0 }.emit_record(&mut out);
        }
        "have-none" => {
            Have { token: set().into(), coverage: Coverage::None, lease_s: 0 }.emit_record(&mut out);
        }
        "hop" => hop.emit_record(&mut out),
        "hop-forwarded" => Hop { hop_limit: 3, budget_bytes: 60_000, cursor: 1, ..hop }.emit_record(&mut out),
        "hop-longest" => {
            let route = nodes(&[1, 2, 3, 4, 5, 6, 7, 8]);
            let budget_bytes = (1 << 62) - 1;
            Hop { cache: true, hop_limit: 16, budget_bytes, cursor: 7, route, ..hop }.emit_record(&mut out);
        }
        "put-plain" => {
            Put { queue: 1, lease_s: 3_600, descriptor: plain, lanes: None }.emit_record(&mut out);
        }
        "put-lanes" => {
            let (descriptor, lanes) = (two_lanes(), Some(lanes(&[1])));
            Put { queue: 1, lease_s: 3_600, descriptor, lanes }.emit_record(&mut out);
        }
        "put-coded" => {
            let coding = Coding::ReedSolomon { data_lanes: 8, parity: Some((4, Token::of(b""))) };
            let descriptor = Descriptor::new(abc(), 1 << 50, 1 << 20, coding).unwrap();
            Put { queue: 0, lease_s: 0, descriptor, lanes: None }.emit_record(&mut out);
        }
        "fetch-all" | "fetch-set" | "fetch-ranges" | "fetch-describe" | "fetch-lanes" => {
            let of_set = matches!(name, "fetch-set" | "fetch-lanes" | "fetch-describe");
            let token = if of_set { AnyToken::from(set()) } else { abc().into() };
            let mut ranges = Ranges::all();
            let (bytes_max, lanes) = match name {
                "fetch-ranges" => {
                    ranges.push_run(0, 4).unwrap();
                    ranges.push_run(60, 64).unwrap();
                    (1 << 20, None)
                }
                "fetch-lanes" => {
                    ranges.push_run(2, 3).unwrap();
                    (0, Some(lanes(&[0, 1])))
                }
                _ => (0, None),
            };
            Fetch { token, bytes_max, lanes, ranges, describe: name == "fetch-describe" }
                .emit_record(&mut out);
        }
        "mirror" => {
            let sources = nodes(&[0xa1, 0xb2]);
            Mirror { token: abc().into(), lanes: Lanes::NONE, lease_s: 60, sources }.emit_record(&mut out);
        }
        "mirror-lanes" => {
            let lanes = lanes(&[1]);
            Mirror { token: set().into(), lanes, lease_s: 0, sources: Vec::new() }.emit_record(&mut out);
        }
        "locate" => Locate { token: set().into() }.emit_record(&mut out),
        "holders" => {
            let holder =
                |byte: u8, coverage, expires_s| Holder { node: NodeId([byte; 32]), coverage, expires_s };
            let holders =
                vec![holder(0xa1, Coverage::All, 0), holder(0xb2, Coverage::Lanes(lanes(&[0, 9])), 600)];
            Holders { holders }.emit_record(&mut out);
        }
        "holders-nobody" => Holders::default().emit_record(&mut out),
        "stat" => Stat { scope: LeaseScope::Own, token: abc().into() }.emit_record(&mut out),
        "stat-all" => Stat { scope: LeaseScope::All, token: set().into() }.emit_record(&mut out),
        "remove" => Remove { token: abc().into() }.emit_record(&mut out),
        "renew" => Renew { token: set().into(), lease_s: 604_800 }.emit_record(&mut out),
        name if name.starts_with("listed") => listed(name).emit_record(&mut out),
        name if name.starts_with("list") => list(name).emit_record(&mut out),
        "ok" => OkRecord { length_bytes: 3, descriptor: None }.emit_record(&mut out),
        "ok-with-descriptor" => OkRecord { length_bytes: 3, descriptor: Some(plain) }.emit_record(&mut out),
        "done" => Done { bytes: 3, token: abc().into() }.emit_record(&mut out),
        "done-lanes" => Done { bytes: 3, token: set().into() }.emit_record(&mut out),
        "error" => ErrorRecord::new(ErrorCode::Busy, 250, "too many requests").emit_record(&mut out),
        "error-right" => {
            let reason =
                "right put is not given to this peer; have the gateway's operator allow it in [[rights]]";
            ErrorRecord::new(ErrorCode::NotAuthorized, 0, reason).emit_record(&mut out);
        }
        _ => panic!("no record is named {name}"),
    }
    out
}

fn list(name: &str) -> List {
    match name {
        "list" => List::default(),
        "list-filtered" => List {
            scope: LeaseScope::All,
            after: Some(set().into()),
            holder: Some(LeaseHolder::Node(NodeId([0xa1; 32]))),
            length_min_bytes: 16_384,
            length_max_bytes: 1 << 30,
            ends_s: 86_400,
            entries_max: 100,
        },
        "list-anonymous" => {
            List { scope: LeaseScope::All, holder: Some(LeaseHolder::Anonymous), ..List::default() }
        }
        _ => panic!("no LIST is named {name}"),
    }
}

fn listed(name: &str) -> Listed {
    let lease = |holder, expires_s| ListedLease { holder, expires_s };
    let payload = ListedEntry {
        token: abc().into(),
        coverage: Coverage::All,
        length_bytes: 3,
        stored_bytes: 5_632,
        leases: 0,
        shown: Vec::new(),
    };
    match name {
        "listed" => {
            let shown =
                vec![lease(LeaseHolder::Node(NodeId([0xa1; 32])), 0), lease(LeaseHolder::Anonymous, 3_600)];
            let lanes = ListedEntry {
                token: set().into(),
                coverage: Coverage::Lanes(lanes(&[0, 1])),
                length_bytes: 100_000,
                stored_bytes: 70_000,
                leases: 1,
                shown: vec![lease(LeaseHolder::Cache, 60)],
            };
            let entries = vec![ListedEntry { leases: 2, shown, ..payload }, lanes];
            Listed { next: Some(set().into()), entries }
        }
        "listed-nothing" => Listed::default(),
        "listed-kept-for-others" => Listed { next: None, entries: vec![payload] },
        _ => panic!("no LISTED is named {name}"),
    }
}

/// Reads one record and writes it again.
fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    fn again<R: Record>(body: &[u8]) -> Result<Vec<u8>, ErrorCode> {
        let record = R::parse(body).map_err(|e| e.code())?;
        let mut out = Vec::new();
        record.emit_record(&mut out);
        Ok(out)
    }
    let mut reader = RecordReader::new();
    bytes.chunks(7).for_each(|chunk| reader.push(bytes::Bytes::copy_from_slice(chunk)));
    let header = reader.next_header().map_err(|e| e.code())?.expect("a whole header");
    let mut body = reader.take_body().expect("a whole body");
    assert!(reader.is_at_record_border());
    let whole = body.to_bytes();
    match header.record_type {
        RecordType::Settings => again::<Settings>(&whole),
        RecordType::Have => again::<Have>(&whole),
        RecordType::GoAway => again::<GoAway>(&whole),
        RecordType::Hop => again::<Hop>(&whole),
        RecordType::Put => again::<Put>(&whole),
        RecordType::Fetch => again::<Fetch>(&whole),
        RecordType::Mirror => again::<Mirror>(&whole),
        RecordType::Locate => again::<Locate>(&whole),
        RecordType::List => again::<List>(&whole),
        RecordType::Stat => again::<Stat>(&whole),
        RecordType::Remove => again::<Remove>(&whole),
        RecordType::Renew => again::<Renew>(&whole),
        RecordType::Listed => again::<Listed>(&whole),
        RecordType::Ok => again::<OkRecord>(&whole),
        RecordType::Holders => again::<Holders>(&whole),
        RecordType::Done => again::<Done>(&whole),
        RecordType::Error => again::<ErrorRecord>(&whole),
        RecordType::Continuation => again::<Continuation>(&whole),
        RecordType::Message => {
            let header = MessageHeader::take_from(&mut body).map_err(|e| e.code())?;
            let mut out = Vec::new();
            header.emit_record_front(body.len(), &mut out);
            out.extend_from_slice(&body.to_bytes());
            Ok(out)
        }
    }
}

#[test]
fn records_are_written_and_read_like_the_vectors() {
    for Vector { name, hex } in vectors().records {
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(HEXLOWER.encode(&written(&name)), hex, "{name}");
        assert_eq!(rewritten(&bytes), Ok(bytes), "{name}");
    }
}

#[test]
fn refused_records_give_the_error_of_the_vectors() {
    for Refused { name, hex, error } in vectors().refused {
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(rewritten(&bytes).map_err(ErrorCode::number), Err(error), "{name}");
    }
}

#[test]
fn no_cut_or_flipped_body_panics() {
    for Vector { hex, .. } in vectors().records {
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        let body = &bytes[2..];
        for len in 0..body.len() {
            parse_all(&body[..len]);
        }
        for bit in 0..body.len() * 8 {
            let mut flipped = body.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            parse_all(&flipped);
        }
    }
}

fn parse_all(body: &[u8]) {
    fn one<R: Record>(body: &[u8]) {
        if let Ok(record) = R::parse(body) {
            let mut out = Vec::new();
            record.emit(&mut out);
            assert_eq!(out.len(), record.encoded_len());
        }
    }
    one::<Settings>(body);
    one::<Have>(body);
    one::<GoAway>(body);
    one::<Hop>(body);
    one::<Put>(body);
    one::<Fetch>(body);
    one::<Mirror>(body);
    one::<Locate>(body);
    one::<List>(body);
    one::<Stat>(body);
    one::<Remove>(body);
    one::<Renew>(body);
    one::<Listed>(body);
    one::<OkRecord>(body);
    one::<Holders>(body);
    one::<Done>(body);
    one::<ErrorRecord>(body);
    one::<Continuation>(body);
    let _ = Descriptor::parse(body);
    let _ = MessageHeader::take_from(&mut bytes::Bytes::copy_from_slice(body).into());
}

proptest::proptest! {
    #[test]
    fn random_bodies_never_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        parse_all(&body);
    }
}
