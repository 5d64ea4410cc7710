//! The value of `--shards`.

use std::str::FromStr;
use stoq::client::Sharding;
use stoq::limits::{GROUP_BYTES, LANES_DATA_MAX, LANES_PARITY_MAX, SHARD_BYTES_DEFAULT, SHARD_BYTES_MAX};
use stoq::shard::Lanes;

/// `16+4`, or `16+4@65536`: data and parity shards a stripe, and their length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shards(pub(crate) Sharding);

impl Shards {
    /// The lanes of its set.
    pub(crate) fn lanes(self) -> Lanes {
        Lanes::first(u32::from(self.0.data) + u32::from(self.0.parity))
    }
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
            Some((k.parse().ok()?, m.parse().ok()?, shard_bytes))
        };
        let (k, m, shard_bytes): (u64, u64, u64) = parse().ok_or(
            "shards are written as data+parity, such as 16+4, or with their length in bytes, such as 16+4@65536",
        )?;
        let (Ok(data), Ok(parity), true, true) =
            (u8::try_from(k), u8::try_from(m), (1..=LANES_DATA_MAX).contains(&k), m <= LANES_PARITY_MAX)
        else {
            return Err(format!(
                "{k}+{m} is out of range; give 1 to {LANES_DATA_MAX} data and 0 to {LANES_PARITY_MAX} parity shards"
            ));
        };
        let group = GROUP_BYTES as u64;
        if !(group..=SHARD_BYTES_MAX).contains(&shard_bytes) || !shard_bytes.is_multiple_of(group) {
            return Err(format!(
                "{shard_bytes} bytes are no length of a shard; give a multiple of {group} up to {SHARD_BYTES_MAX}"
            ));
        }
        Ok(Self(Sharding { shard_bytes, data, parity }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_read_as_people_write_them() {
        let default = SHARD_BYTES_DEFAULT;
        let shards = |data, parity, shard_bytes| Ok(Shards(Sharding { shard_bytes, data, parity }));
        assert_eq!("16+4".parse(), shards(16, 4, default));
        assert_eq!("1+0@16384".parse(), shards(1, 0, 16_384));
        for text in ["", "16", "16+", "+4", "16-4", "16+4@", "16+4@64k"] {
            assert!(text.parse::<Shards>().unwrap_err().contains("16+4@65536"), "{text}");
        }
        for text in ["64+64@1048576", "1+0@16384"] {
            text.parse::<Shards>().unwrap();
        }
        for text in ["0+1", "65+1", "1+65", "300+4", "18446744073709551615+0"] {
            assert!(
                text.parse::<Shards>().unwrap_err().contains("give 1 to 64 data and 0 to 64 parity"),
                "{text}"
            );
        }
        for text in ["1+1@0", "1+1@1", "1+1@16385", "1+1@1064960", "1+1@18446744073709551615"] {
            assert!(
                text.parse::<Shards>().unwrap_err().contains("a multiple of 16384 up to 1048576"),
                "{text}"
            );
        }
    }
}
