//! How a file is sharded, as people write it.

use std::path::Path;
use std::str::FromStr;
use stoq::client::{ClientError, Prepared};
use stoq::limits::SHARD_BYTES_DEFAULT;

/// `16+4`, or `16+4@65536`: data and parity shards a stripe, and their length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    lanes: (u8, u8),
    shard_bytes: u64,
}

impl FromStr for Shards {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (lanes, shard_bytes) = match text.split_once('@') {
                Some((lanes, bytes)) => (lanes, bytes.parse().ok()?),
                None => (text, SHARD_BYTES_DEFAULT),
            };
            let (k, m) = lanes.split_once('+')?;
            Some(Self { lanes: (k.parse().ok()?, m.parse().ok()?), shard_bytes })
        };
        parse().ok_or_else(|| {
            "shards are written as data+parity, such as 16+4, or with their length in bytes, such as 16+4@65536".into()
        })
    }
}

/// Hashes a file, and shards it if that is asked for.
pub(crate) fn prepare(file: &Path, shards: Option<Shards>) -> Result<Prepared, ClientError> {
    match shards {
        Some(Shards { lanes, shard_bytes }) => Prepared::sharded(file, shard_bytes, lanes),
        None => Prepared::file(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_read_as_people_write_them() {
        let default = SHARD_BYTES_DEFAULT;
        assert_eq!("16+4".parse(), Ok(Shards { lanes: (16, 4), shard_bytes: default }));
        assert_eq!("1+0@16384".parse(), Ok(Shards { lanes: (1, 0), shard_bytes: 16_384 }));
        for text in ["", "16", "16+", "+4", "16-4", "16+4@", "300+4", "16+4@64k"] {
            assert!(text.parse::<Shards>().unwrap_err().contains("16+4@65536"), "{text}");
        }
    }
}
