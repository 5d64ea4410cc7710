//! The byte vectors of descriptors, verified encodings and parity: `tests/vectors/{descriptors,encodings,parity}.json`.
//!
//! The case of an entry (lengths, lanes, ranges, a seed) is written by hand; its results (bytes, hashes) are filled in by `STOQ_WRITE_VECTORS=1 cargo test --test shard_vectors` and compared by every other run.
//! `tests/vectors/read.py` reads the same files with code of its own.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use std::path::PathBuf;
use stoq::shard::{Blob, Coded, Coding, Descriptor, Lanes, encode};
use stoq::token::{EncodedPiece, Outboard, Ranges, Selection, Token, VerifiedEncoder};

/// Encodings of at most this many bytes are given whole.
const WHOLE_BYTES_MAX: usize = 1024;

/// Byte `i` is `seed + 31 i + 7 (i / 2^8) + 101 (i / 2^14)` modulo 256.
fn payload(entry: &Value) -> Vec<u8> {
    let seed = number(entry, "seed");
    (0..number(entry, "length")).map(|i| (seed + 31 * i + 7 * (i >> 8) + 101 * (i >> 14)) as u8).collect()
}

fn number(entry: &Value, key: &str) -> u64 {
    entry[key].as_u64().unwrap_or_else(|| panic!("{}: no number {key:?}", entry["name"]))
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Compares the entries of `list` in `file` with the results of `fill`, or writes these results to the file.
fn check(file: &str, list: &str, fill: impl Fn(&mut Value)) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let text = std::fs::read_to_string(&path).expect("the vectors can be read");
    let mut vectors: Value = serde_json::from_str(&text).expect("the vectors are JSON");
    let entries = vectors[list].as_array_mut().expect("the vectors are a list");
    assert!(!entries.is_empty());
    let write = std::env::var_os("STOQ_WRITE_VECTORS").is_some();
    for entry in entries {
        let mut filled = entry.clone();
        fill(&mut filled);
        assert!(write || filled == *entry, "{file} says\n{entry:#}\nand this version makes\n{filled:#}");
        *entry = filled;
    }
    if write {
        std::fs::write(path, format!("{vectors:#}\n")).expect("the vectors can be written");
    }
}

/// `[[gap, len], ...]`; no value: the whole payload.
fn runs(value: &Value) -> Ranges {
    let mut ranges = Ranges::all();
    for run in value.as_array().expect("runs are a list") {
        ranges
            .push_run(run[0].as_u64().unwrap(), run[1].as_u64().unwrap())
            .expect("the runs are well-formed");
    }
    ranges
}

fn coded(entry: &Value, data: &[u8]) -> (Coded, Vec<u8>) {
    let mut parity = Vec::new();
    let lanes = (number(entry, "k") as u8, number(entry, "m") as u8);
    let coded = encode(data, data.len() as u64, number(entry, "shard_len"), lanes, &mut parity);
    (coded.expect("the shape is allowed"), parity)
}

#[test]
fn descriptors_are_written_like_the_vectors() {
    check("descriptors.json", "descriptors", |entry| {
        let token = |key: &str| entry[key].as_str().map(|text| text.parse::<Token>().expect("a token"));
        let coding = match number(entry, "code") {
            0 => Coding::None,
            _ => Coding::ReedSolomon {
                data_lanes: number(entry, "k") as u8,
                parity: token("parity").map(|token| (number(entry, "m") as u8, token)),
            },
        };
        let content = token("content").expect("every payload has a token");
        let set = Descriptor::new(content, number(entry, "length"), number(entry, "shard_len"), coding)
            .expect("the descriptor is allowed");
        let mut bytes = Vec::new();
        set.emit(&mut bytes);
        assert_eq!(Descriptor::parse(&bytes), Ok(set));
        entry["hex"] = HEXLOWER.encode(&bytes).into();
        entry["set_token"] = set.set_token().to_string().into();
        entry["stripes"] = set.stripes().into();
        entry["parity_length"] = set.parity_length().into();
    });
}

#[test]
fn descriptors_are_refused_with_the_errors_of_the_vectors() {
    check("descriptors.json", "refused", |entry| {
        let bytes = HEXLOWER.decode(entry["hex"].as_str().unwrap().as_bytes()).unwrap();
        let error = Descriptor::parse(&bytes).expect_err("the descriptor is refused");
        // The protocol defines the codes: they are not filled in.
        assert_eq!(number(entry, "error"), error.code().number(), "{}", entry["name"]);
    });
}

fn encoding(selection: Selection, blob: &[u8], outboard: Outboard) -> Vec<u8> {
    let mut encoder = VerifiedEncoder::new(outboard, selection).expect("the selection is in the payload");
    let (mut pieces, mut bytes) = (Vec::new(), Vec::new());
    while encoder.next_batch(usize::MAX, &mut pieces).unwrap() > 0 {
        for piece in pieces.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => bytes.extend_from_slice(&pairs),
                EncodedPiece::Data { offset, len } => {
                    bytes.extend_from_slice(&blob[offset as usize..][..len])
                }
            }
        }
    }
    bytes
}

#[test]
fn encodings_are_written_like_the_vectors() {
    check("encodings.json", "encodings", |entry| {
        let data = payload(entry);
        let (token, bytes) = if entry["ranges"].is_array() {
            let (token, outboard) = Outboard::build(&data[..], data.len() as u64).unwrap();
            (token, encoding(runs(&entry["ranges"]).into(), &data, outboard))
        } else {
            let (coded, parity) = coded(entry, &data);
            let lanes: Lanes =
                entry["lanes"].as_array().unwrap().iter().map(|lane| lane.as_u64().unwrap() as u8).collect();
            let parts = coded.descriptor.parts(lanes, &runs(&entry["stripes"])).unwrap();
            let (blob, bytes, outboard) = match entry["blob"].as_str() {
                Some("content") => (Blob::Content, &data, Some(coded.content)),
                Some("parity") => (Blob::Parity, &parity, coded.parity),
                other => panic!("blob {other:?}"),
            };
            let part = parts.into_iter().find(|part| part.blob == blob).expect("the blob has a part");
            (part.token, encoding(part.selection, bytes, outboard.expect("the blob is there")))
        };
        entry["token"] = token.to_string().into();
        entry["bytes"] = bytes.len().into();
        entry["blake3"] = hash(&bytes).into();
        if bytes.len() <= WHOLE_BYTES_MAX {
            entry["hex"] = HEXLOWER.encode(&bytes).into();
        }
    });
}

#[test]
fn parity_is_computed_like_the_vectors() {
    check("parity.json", "sets", |entry| {
        let (coded, parity) = coded(entry, &payload(entry));
        let set = &coded.descriptor;
        entry["content"] = set.content().to_string().into();
        entry["parity"] = set.parity_token().expect("the set has parity").to_string().into();
        entry["set_token"] = set.set_token().to_string().into();
        let shards = parity.chunks(set.shard_bytes() as usize).enumerate().map(|(number, shard)| {
            let m = usize::from(set.m());
            json!({
                "lane": usize::from(set.k()) + number % m,
                "stripe": number / m,
                "blake3": hash(shard),
                "first": HEXLOWER.encode(&shard[..64]),
            })
        });
        entry["shards"] = shards.collect::<Vec<_>>().into();
    });
}
