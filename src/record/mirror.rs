//! MIRROR: a request to fetch a payload or lanes from other nodes and to hold them.

use super::{
    NODE_ID_BYTES, Record, RecordError, RecordType, finish, lanes_need_a_set, take_any_token, take_lanes,
    take_node_id, varint,
};
use crate::limits::MIRROR_SOURCES_MAX;
use crate::shard::Lanes;
use crate::tls::NodeId;
use crate::token::{AnyToken, TOKEN_BYTES};

/// MIRROR: `token(33) bitmap lease_s(i) n(i) node_id(32)*n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The payload or set to hold.
    pub token: AnyToken,
    /// Which lanes of a set; none for the whole payload.
    pub lanes: Lanes,
    /// How long to hold it, seconds; 0: as long as the holder likes.
    pub lease_s: u64,
    /// Nodes to fetch it from, the best first; at most [`MIRROR_SOURCES_MAX`]. None: the holders that the
    /// receiver knows.
    pub sources: Vec<NodeId>,
}

impl Record for Mirror {
    const TYPE: RecordType = RecordType::Mirror;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let token = take_any_token(&mut body)?;
        let lanes = take_lanes(&mut body)?;
        if !lanes.is_empty() {
            lanes_need_a_set(&token)?;
        }
        let lease_s = varint::read(&mut body, "lease_s")?;
        let len = varint::read(&mut body, "n")?;
        if len > MIRROR_SOURCES_MAX as u64 {
            return Err(RecordError::TooMany { what: "sources", max: MIRROR_SOURCES_MAX as u64 });
        }
        let sources = (0..len).map(|_| take_node_id(&mut body)).collect::<Result<_, _>>()?;
        finish(body)?;
        Ok(Self { token, lanes, lease_s, sources })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
        self.lanes.emit(out);
        varint::write(self.lease_s, out);
        varint::write(self.sources.len() as u64, out);
        for node in &self.sources {
            out.extend_from_slice(&node.0);
        }
    }

    fn encoded_len(&self) -> usize {
        TOKEN_BYTES
            + self.lanes.encoded_len()
            + varint::encoded_len(self.lease_s)
            + varint::encoded_len(self.sources.len() as u64)
            + NODE_ID_BYTES * self.sources.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use crate::token::{SetToken, Token};
    use proptest::prelude::*;

    fn refused(token: AnyToken, rest: &[u8]) -> ErrorCode {
        Mirror::parse(&[&token.to_bytes()[..], rest].concat()).unwrap_err().code()
    }

    #[test]
    fn lanes_need_a_set_and_sources_have_a_bound() {
        let (set, content) = (SetToken::from_hash([7; 32]).into(), Token::of(b"").into());
        assert_eq!(refused(content, &[1, 1, 0, 0]), ErrorCode::Malformed);
        assert_eq!(refused(set, &[17]), ErrorCode::Malformed);
        assert_eq!(refused(set, &[0, 0, 0x40, 65]), ErrorCode::Limit);
        assert_eq!(refused(set, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), ErrorCode::Limit);
        let sources = vec![NodeId([9; 32]); MIRROR_SOURCES_MAX];
        testing::assert_round_trip(&Mirror { token: content, lanes: Lanes::NONE, lease_s: 0, sources });
    }

    proptest! {
        #[test]
        fn any_mirror_round_trips(
            token in testing::any_token(),
            lanes in testing::lanes(),
            lease_s in 0..=varint::MAX,
            sources in proptest::collection::vec(testing::node_id(), 0..4),
        ) {
            let lanes = if token.content().is_some() { Lanes::NONE } else { lanes };
            testing::assert_round_trip(&Mirror { token, lanes, lease_s, sources });
        }
    }
}
