//! The first inputs of fuzzing, `fuzz/seeds/<target>/`, are made from the byte vectors. After a change of the vectors
//! `STOQ_WRITE_SEEDS=1 cargo test --no-default-features --test fuzz_seeds` writes them anew.

use data_encoding::HEXLOWER;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};
use stoq::record::{Put, Record};

/// Contents by `<target>/<name>`.
type Seeds = BTreeMap<String, Vec<u8>>;

fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// Every vector, by the name of its seed.
fn vectors() -> Vec<(String, Vec<u8>)> {
    let json: Value = serde_json::from_str(include_str!("vectors/records.json")).unwrap();
    let of = |key: &str| json[key].as_array().unwrap().clone();
    let text = |vector: &Value, key: &str| vector[key].as_str().unwrap().to_owned();
    [of("records"), of("refused")]
        .concat()
        .iter()
        .map(|v| (slug(&text(v, "name")), HEXLOWER.decode(text(v, "hex").as_bytes()).unwrap()))
        .collect()
}

/// The body of a vector: its header is two bytes, or three if the length takes two.
fn body(record: &[u8]) -> &[u8] {
    &record[if record[1] < 0x40 { 2 } else { 3 }..]
}

fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let vectors = vectors();
    for (name, bytes) in &vectors {
        seeds.insert(format!("records/{name}"), [&[7], &bytes[..]].concat());
        if let Ok(put) = Put::parse(body(bytes))
            && name.starts_with("put-")
        {
            let mut descriptor = Vec::new();
            put.descriptor.emit(&mut descriptor);
            seeds.insert(format!("descriptors/{name}"), descriptor);
        }
        if name.starts_with("hop") {
            for (policy, front) in
                [("anyone", [0, 2, 0, 255]), ("gateways", [0, 1, 0, 9]), ("last", [7, 0, 0, 1])]
            {
                seeds.insert(format!("hop/{name}-{policy}"), [&front, body(bytes)].concat());
            }
        }
    }
    let stream: Vec<u8> = vectors.iter().take(20).flat_map(|(_, bytes)| bytes.clone()).collect();
    seeds.insert("records/a-stream".into(), [&[33], &stream[..]].concat());

    // mode, cut, counts, length, claim, then runs, then changes or bytes.
    let mut encoding = |name: &str, bytes: &[u8]| seeds.insert(format!("encodings/{name}"), bytes.to_vec());
    encoding("nothing", &[0, 0, 0, 0, 0, 0, 0, 0, 0]);
    encoding("one-byte", &[0, 1, 0, 0, 0, 1, 0, 0, 0]);
    encoding("one-group", &[0, 7, 0, 0, 0x40, 0, 0, 0, 0]);
    encoding("two-groups", &[0, 200, 0, 0, 0x40, 1, 0, 0, 0]);
    encoding("whole", &[0, 0, 0, 1, 0x43, 0xe7, 0, 0, 0]);
    encoding("middle", &[0, 128, 1, 1, 0x43, 0xe7, 0, 0, 0, 1, 2]);
    encoding("first-and-last", &[0, 250, 2, 1, 0x43, 0xe7, 0, 0, 0, 0, 1, 4, 1]);
    encoding("changed-pair", &[0, 64, 4, 1, 0x43, 0xe7, 0, 0, 0, 0, 0, 70, 1]);
    encoding("changed-group", &[0, 255, 4, 1, 0x43, 0xe7, 0, 0, 0, 0, 1, 0, 1]);
    encoding("cut", &[2, 255, 4, 1, 0x43, 0xe7, 0, 0, 0, 0, 1, 0, 0]);
    encoding("claims-more", &[0, 255, 0, 0, 0x80, 0, 0, 0x40, 0]);
    encoding("claims-less", &[0, 255, 0, 0, 0x80, 1, 0, 0, 1]);
    encoding("wrong-byte", &[1, 0, 0, 0, 0, 1, 0, 0, 0, 9]);
    encoding("right-byte", &[1, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    // Two shards a stripe, of one group each; the second of them, in every stripe.
    encoding("lanes", &[4, 255, 0, 1, 0x43, 0xe7, 0, 0, 0, 0x0a, 0x02]);
    encoding("lanes-cut", &[12, 77, 1, 1, 0x43, 0xe7, 0, 0, 0, 0, 2, 0x12, 0x01]);
    let mut claim = vec![3, 9, 0, 0, 0, 0, 0, 0, 0];
    claim.extend_from_slice(&[5; 32]);
    claim.extend_from_slice(&(1u64 << 50).to_be_bytes());
    claim.extend_from_slice(&[6; 100]);
    encoding("claims-2-50", &claim);
    seeds
}

fn stored(directory: &Path) -> Seeds {
    let entries = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).map_or(Vec::new(), |entries| entries.map(|e| e.unwrap().path()).collect())
    };
    let name = |path: &Path| path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
    let files = entries(directory).into_iter().flat_map(|target| entries(&target));
    files.map(|file| (name(&file), fs::read(&file).unwrap())).collect()
}

#[test]
fn the_seeds_of_fuzzing_are_those_of_the_vectors() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let seeds = seeds();
    if env::var_os("STOQ_WRITE_SEEDS").is_some() {
        let _ = fs::remove_dir_all(&directory);
        for (name, bytes) in &seeds {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(stored(&directory) == seeds, "the seeds are stale; write them anew with STOQ_WRITE_SEEDS=1");
}
