//! HOP: the route of the request that follows it on the stream (protocol §5). [`crate::hop`] judges it.

use super::{NODE_ID_BYTES, Record, RecordError, RecordType, finish, take, take_node_id, take_u8, varint};
use crate::limits::{HOP_LIMIT_MAX, HOPS_LEN_MAX};
use crate::tls::NodeId;
use smallvec::SmallVec;

const NONCE_BYTES: usize = 16;

/// HOP: `flags(8) hop_limit(8) nonce[16] budget(i) cursor(8) n(8) node_id(32)*n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Gateways on the route may answer from their stores, and may keep the answer that they forward.
    pub cache: bool,
    /// How many more gateways may take it, this one included; at most [`HOP_LIMIT_MAX`].
    pub hop_limit: u8,
    /// Drawn at random by the asker, once a request: a gateway recognizes a repeated request by it.
    pub nonce: [u8; NONCE_BYTES],
    /// Bytes that may pass after this record, both directions together.
    pub budget_bytes: u64,
    /// The place in the route of the node that the record is for, less than the route's length.
    pub cursor: u8,
    /// The gateways in order, 1 to [`HOPS_LEN_MAX`]; the last one answers.
    pub route: SmallVec<[NodeId; HOPS_LEN_MAX]>,
}

impl Hop {
    /// Flag: gateways on the route may answer from their stores, and may keep the answer that they forward.
    pub const FLAG_CACHE: u8 = 0x01;
}

impl Record for Hop {
    const TYPE: RecordType = RecordType::Hop;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let cache = match take_u8(&mut body, "flags")? {
            0 => false,
            Self::FLAG_CACHE => true,
            _ => return Err(RecordError::Unsupported("a HOP flag other than CACHE is")),
        };
        let hop_limit = take_u8(&mut body, "hop_limit")?;
        if hop_limit > HOP_LIMIT_MAX {
            return Err(RecordError::TooMany { what: "hops in hop_limit", max: HOP_LIMIT_MAX.into() });
        }
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(take(&mut body, NONCE_BYTES, "nonce")?);
        let budget_bytes = varint::read(&mut body, "budget")?;
        let cursor = take_u8(&mut body, "cursor")?;
        let len = take_u8(&mut body, "n")?;
        if usize::from(len) > HOPS_LEN_MAX {
            return Err(RecordError::TooMany { what: "nodes in a route", max: HOPS_LEN_MAX as u64 });
        }
        if cursor >= len {
            return Err(RecordError::Malformed("the cursor stands outside the route"));
        }
        let route = (0..len).map(|_| take_node_id(&mut body)).collect::<Result<_, _>>()?;
        finish(body)?;
        Ok(Self { cache, hop_limit, nonce, budget_bytes, cursor, route })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[if self.cache { Self::FLAG_CACHE } else { 0 }, self.hop_limit]);
        out.extend_from_slice(&self.nonce);
        varint::write(self.budget_bytes, out);
        out.extend_from_slice(&[self.cursor, self.route.len() as u8]);
        for node in &self.route {
            out.extend_from_slice(&node.0);
        }
    }

    fn encoded_len(&self) -> usize {
        2 + NONCE_BYTES + varint::encoded_len(self.budget_bytes) + 2 + NODE_ID_BYTES * self.route.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use proptest::prelude::*;

    fn body(flags: u8, hop_limit: u8, cursor: u8, len: u8) -> Vec<u8> {
        let mut body = vec![flags, hop_limit];
        body.extend_from_slice(&[5; 16]);
        body.extend_from_slice(&[9, cursor, len]);
        body.resize(body.len() + 32 * usize::from(len), 7);
        body
    }

    fn refused(body: &[u8]) -> ErrorCode {
        Hop::parse(body).unwrap_err().code()
    }

    #[test]
    fn fields_stand_where_the_protocol_puts_them() {
        let hop = Hop::parse(&body(1, 16, 1, 8)).unwrap();
        assert_eq!((hop.cache, hop.hop_limit, hop.nonce, hop.budget_bytes), (true, 16, [5; 16], 9));
        // A node that occurs twice is judged by the gateway, not by the parser.
        assert_eq!((hop.cursor, &hop.route[..]), (1, &[NodeId([7; 32]); 8][..]));
    }

    #[test]
    fn bounds_and_flags_are_refused_with_their_codes() {
        assert_eq!(refused(&body(2, 3, 0, 1)), ErrorCode::UnsupportedCode);
        assert_eq!(refused(&body(0, 17, 0, 1)), ErrorCode::Limit);
        assert_eq!(refused(&body(0, 3, 0, 9)), ErrorCode::Limit);
        assert_eq!(refused(&body(0, 3, 0, 0)), ErrorCode::Malformed);
        assert_eq!(refused(&body(0, 3, 2, 2)), ErrorCode::Malformed);
        assert_eq!(refused(&body(0, 3, 255, 255)), ErrorCode::Limit);
    }

    proptest! {
        #[test]
        fn any_hop_round_trips(
            cache: bool,
            hop_limit in 0..=HOP_LIMIT_MAX,
            nonce: [u8; 16],
            budget_bytes in 0..=varint::MAX,
            cursor: proptest::sample::Index,
            route in proptest::collection::vec(testing::node_id(), 1..=HOPS_LEN_MAX),
        ) {
            let cursor = cursor.index(route.len()) as u8;
            testing::assert_round_trip(
                &Hop { cache, hop_limit, nonce, budget_bytes, cursor, route: route.into() });
        }
    }
}
