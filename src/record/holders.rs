//! HOLDERS: the answer to LOCATE.

use super::{Coverage, NODE_ID_BYTES, Record, RecordError, RecordType, finish, take_node_id, varint};
use crate::limits::HOLDERS_LEN_MAX;
use crate::tls::NodeId;

/// One node that holds the located payload or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// How much it holds; never [`Coverage::None`].
    pub coverage: Coverage,
    /// How long it still holds it, seconds; 0: no end is known.
    pub expires_s: u64,
}

/// HOLDERS: `n(i) { node_id(32) coverage(8) [lane bitmap] expires_s(i) }*`, in the answerer's order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// At most [`HOLDERS_LEN_MAX`]; empty when no holder is known.
    pub holders: Vec<Holder>,
}

impl Record for Holders {
    const TYPE: RecordType = RecordType::Holders;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let len = varint::read(&mut body, "n")?;
        if len > HOLDERS_LEN_MAX as u64 {
            return Err(RecordError::TooMany { what: "holders", max: HOLDERS_LEN_MAX as u64 });
        }
        let mut holders = Vec::new();
        for _ in 0..len {
            let node = take_node_id(&mut body)?;
            let coverage = Coverage::take(&mut body)?;
            if coverage == Coverage::None {
                return Err(RecordError::Malformed("a holder that holds nothing"));
            }
            let expires_s = varint::read(&mut body, "expires_s")?;
            holders.push(Holder { node, coverage, expires_s });
        }
        finish(body)?;
        Ok(Self { holders })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.holders.len() as u64, out);
        for holder in &self.holders {
            out.extend_from_slice(&holder.node.0);
            holder.coverage.emit(out);
            varint::write(holder.expires_s, out);
        }
    }

    fn encoded_len(&self) -> usize {
        let holders: usize = self
            .holders
            .iter()
            .map(|holder| {
                NODE_ID_BYTES + holder.coverage.encoded_len() + varint::encoded_len(holder.expires_s)
            })
            .sum();
        varint::encoded_len(self.holders.len() as u64) + holders
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_holders_are_one_zero_byte() {
        assert_eq!(testing::assert_round_trip(&Holders::default()), [0]);
    }

    #[test]
    fn a_holder_of_nothing_and_too_many_holders_are_refused() {
        let nothing = [&[1][..], &[9; 32], &[0, 0]].concat();
        assert_eq!(Holders::parse(&nothing).unwrap_err().code(), ErrorCode::Malformed);
        assert_eq!(Holders::parse(&[0x40, 65]).unwrap_err().code(), ErrorCode::Limit);
        assert_eq!(Holders::parse(&[0xff; 8]).unwrap_err().code(), ErrorCode::Limit);
        let holder = Holder { node: NodeId([9; 32]), coverage: Coverage::All, expires_s: 5 };
        testing::assert_round_trip(&Holders { holders: vec![holder; HOLDERS_LEN_MAX] });
    }

    proptest! {
        #[test]
        fn any_holders_round_trip(holders in proptest::collection::vec(
            (testing::node_id(), testing::lanes(), 0..=varint::MAX), 0..5)) {
            let holders = holders.into_iter().map(|(node, lanes, expires_s)| {
                let coverage = if lanes.is_empty() { Coverage::All } else { Coverage::Lanes(lanes) };
                Holder { node, coverage, expires_s }
            });
            testing::assert_round_trip(&Holders { holders: holders.collect() });
        }
    }
}
