//! PUT: a request to keep a payload, or lanes of a set. After OK the verified encoding follows on the stream.

use super::{Descriptor, Record, RecordError, RecordType, finish, take, take_some_lanes, take_u8, varint};
use crate::shard::Lanes;
use crate::token::RangesError;

/// PUT: `queue(i) flags(8) lease_s(i) descriptor_len(i) descriptor [lane bitmap if LANES]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The application's queue, at most 2^62 - 1.
    pub queue: u64,
    /// How long to keep it, seconds; 0: as long as the holder likes.
    pub lease_s: u64,
    /// The payload and how it is cut; uncoded for a plain payload.
    pub descriptor: Descriptor,
    /// Which lanes are put: at least one, all of them in the descriptor; `None`: the payload itself.
    pub lanes: Option<Lanes>,
}

impl Put {
    /// Flag: only the lanes of a bitmap are put.
    pub const FLAG_LANES: u8 = 0x01;
}

impl Record for Put {
    const TYPE: RecordType = RecordType::Put;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let queue = varint::read(&mut body, "queue")?;
        let of_lanes = match take_u8(&mut body, "flags")? {
            0 => false,
            Self::FLAG_LANES => true,
            _ => return Err(RecordError::Unsupported("a PUT flag other than LANES is")),
        };
        let lease_s = varint::read(&mut body, "lease_s")?;
        let descriptor_len = varint::read(&mut body, "descriptor_len")?;
        let descriptor_len = usize::try_from(descriptor_len).unwrap_or(usize::MAX);
        let descriptor = Descriptor::parse(take(&mut body, descriptor_len, "descriptor")?)?;
        let lanes = if of_lanes { Some(take_some_lanes(&mut body)?) } else { None };
        if lanes.is_some_and(|lanes| !descriptor.lanes().contains_all(lanes)) {
            return Err(RangesError::Lanes.into());
        }
        finish(body)?;
        Ok(Self { queue, lease_s, descriptor, lanes })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.queue, out);
        out.push(self.lanes.map_or(0, |_| Self::FLAG_LANES));
        varint::write(self.lease_s, out);
        varint::write(self.descriptor.encoded_len() as u64, out);
        self.descriptor.emit(out);
        if let Some(lanes) = self.lanes {
            lanes.emit(out);
        }
    }

    fn encoded_len(&self) -> usize {
        let descriptor_len = self.descriptor.encoded_len();
        varint::encoded_len(self.queue)
            + 1
            + varint::encoded_len(self.lease_s)
            + varint::encoded_len(descriptor_len as u64)
            + descriptor_len
            + self.lanes.map_or(0, |lanes| lanes.encoded_len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Coding, ErrorCode, testing};
    use super::*;
    use crate::token::Token;
    use proptest::prelude::*;

    fn coded(data_lanes: u8, parity_lanes: u8) -> Descriptor {
        let parity = (parity_lanes > 0).then(|| (parity_lanes, Token::of(b"parity")));
        let coding = Coding::ReedSolomon { data_lanes, parity };
        Descriptor::new(Token::of(b"payload"), 7, 65_536, coding).unwrap()
    }

    fn refused(descriptor: Descriptor, lanes: Lanes) -> ErrorCode {
        let mut body = Vec::new();
        Put { queue: 1, lease_s: 0, descriptor, lanes: Some(lanes) }.emit(&mut body);
        Put::parse(&body).unwrap_err().code()
    }

    #[test]
    fn lanes_past_the_sets_are_a_bad_range_and_none_is_malformed() {
        let plain = Descriptor::plain(Token::of(b"payload"), 7).unwrap();
        testing::assert_round_trip(&Put {
            queue: 1,
            lease_s: 0,
            descriptor: plain,
            lanes: Some(Lanes::one(0)),
        });
        assert_eq!(refused(plain, Lanes::one(1)), ErrorCode::BadRange);
        assert_eq!(refused(coded(4, 2), Lanes::first(7)), ErrorCode::BadRange);
        assert_eq!(refused(coded(4, 2), Lanes::one(127)), ErrorCode::BadRange);
        assert_eq!(refused(coded(4, 2), Lanes::NONE), ErrorCode::Malformed);
    }

    proptest! {
        #[test]
        fn any_put_round_trips(
            queue in 0..=varint::MAX,
            lease_s in 0..=varint::MAX,
            k in 2u8..=64,
            m in 0u8..=64,
            lanes in testing::lanes(),
        ) {
            let lanes = lanes.intersection(Lanes::first((k + m).into()));
            let lanes = (!lanes.is_empty()).then_some(lanes);
            testing::assert_round_trip(&Put { queue, lease_s, descriptor: coded(k, m), lanes });
        }
    }
}
