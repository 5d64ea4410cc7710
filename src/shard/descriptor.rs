//! The shard descriptor: a payload and its sharding (protocol §3).
//!
//! Set tokens are hashes of it. It therefore has one canonical encoding, and no other form is accepted.

use super::{Blob, Lanes, Part, ShardIndex};
use crate::error_code::ErrorCode;
use crate::limits::{
    LANES_DATA_MAX, LANES_PARITY_MAX, PAYLOAD_BYTES_MAX, SHARD_BYTES_DEFAULT, SHARD_BYTES_MAX,
};
use crate::token::{
    GROUP_BYTES_U64, LaneGroups, Ranges, RangesError, Selection, SetToken, TOKEN_BYTES, Token, TokenError,
};
use crate::varint::{self, Truncated, VarintError};
use smallvec::SmallVec;

const VERSION: u64 = 1;
const CODE_NONE: u64 = 0;
const CODE_REED_SOLOMON: u64 = 1;

/// How a stripe of shards is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Code 0: one lane, no parity.
    None,
    /// Code 1: Reed-Solomon over GF(2^16).
    ReedSolomon {
        /// Data shards of a stripe, 1 to 64.
        data_lanes: u8,
        /// Parity shards of a stripe, 1 to 64, and the parity blob's token; `None` without parity.
        parity: Option<(u8, Token)>,
    },
}

/// A descriptor: `version(i)=1 content_token(33) length(i) shard_len(i) code(i) k(i) m(i) [parity_token(33) if m>0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    content: Token,
    length_bytes: u64,
    shard_bytes: u64,
    coding: Coding,
}

/// Why a descriptor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// It ends inside a field.
    #[error("descriptor ends inside {0}")]
    Truncated(&'static str),
    /// It goes on after its last field.
    #[error("{0} bytes after the descriptor's last field")]
    Trailing(usize),
    /// It is not in its one canonical form (protocol §3).
    #[error("bad descriptor: {0}")]
    Form(&'static str),
    /// A version or a code that this side does not know.
    #[error("{0} not supported in a descriptor")]
    Unsupported(&'static str),
    /// A token in it that cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
}

const BAD_K: DescriptorError = DescriptorError::Form("k is not 1 to 64");
const BAD_M: DescriptorError = DescriptorError::Form("m is not 1 to 64");

impl DescriptorError {
    /// The error code for the peer (protocol §9).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated(_) | Self::Trailing(_) => ErrorCode::Malformed,
            Self::Form(_) => ErrorCode::BadDescriptor,
            Self::Unsupported(_) | Self::Token(_) => ErrorCode::UnsupportedCode,
        }
    }
}

impl From<VarintError> for DescriptorError {
    fn from(error: VarintError) -> Self {
        match error {
            VarintError::Truncated(Truncated(what)) => Self::Truncated(what),
            VarintError::Long => Self::Form("an integer of it is not in its shortest form"),
        }
    }
}

/// Takes a content token off `body`.
fn take_token(body: &mut &[u8], what: &'static str) -> Result<Token, DescriptorError> {
    let (token, rest) = body.split_at_checked(TOKEN_BYTES).ok_or(DescriptorError::Truncated(what))?;
    *body = rest;
    Ok(Token::from_slice(token)?)
}

impl Descriptor {
    /// An uncoded payload of `length_bytes` bytes, cut at the default shard length. A plain PUT carries it.
    ///
    /// # Errors
    /// [`DescriptorError::Form`] if the payload is longer than [`PAYLOAD_BYTES_MAX`].
    pub fn plain(content: Token, length_bytes: u64) -> Result<Self, DescriptorError> {
        Self::new(content, length_bytes, SHARD_BYTES_DEFAULT, Coding::None)
    }

    /// A descriptor whose bounds have been checked. `shard_bytes` is a multiple of 16 KiB, at most 1 MiB.
    ///
    /// # Errors
    /// [`DescriptorError::Form`] names the broken bound.
    pub fn new(
        content: Token,
        length_bytes: u64,
        shard_bytes: u64,
        coding: Coding,
    ) -> Result<Self, DescriptorError> {
        if length_bytes > PAYLOAD_BYTES_MAX {
            return Err(DescriptorError::Form("the payload is longer than 2^50 bytes"));
        }
        if shard_bytes == 0 || shard_bytes > SHARD_BYTES_MAX || !shard_bytes.is_multiple_of(GROUP_BYTES_U64) {
            return Err(DescriptorError::Form("shard_len is no multiple of 16 KiB up to 1 MiB"));
        }
        if let Coding::ReedSolomon { data_lanes, parity } = coding {
            if data_lanes == 0 || u64::from(data_lanes) > LANES_DATA_MAX {
                return Err(BAD_K);
            }
            match parity {
                Some((lanes, _)) if lanes == 0 || u64::from(lanes) > LANES_PARITY_MAX => {
                    return Err(BAD_M);
                }
                // One lane without parity has a code of its own: 0.
                None if data_lanes == 1 => {
                    return Err(DescriptorError::Form("code 1 with k=1 and m=0 is code 0"));
                }
                _ => {}
            }
        }
        let descriptor = Self { content, length_bytes, shard_bytes, coding };
        // At most 2^36 stripes of 64 shards of 2^20 bytes: no overflow.
        if descriptor.parity_length() > PAYLOAD_BYTES_MAX {
            return Err(DescriptorError::Form("the parity blob is longer than 2^50 bytes"));
        }
        Ok(descriptor)
    }

    /// The payload's own token.
    pub fn content(&self) -> Token {
        self.content
    }

    /// The payload's length, bytes.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// The length of one shard, bytes.
    pub fn shard_bytes(&self) -> u64 {
        self.shard_bytes
    }

    /// How the shards are protected.
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// The set token: it names the payload together with this descriptor.
    pub fn set_token(&self) -> SetToken {
        let mut descriptor = Vec::with_capacity(self.encoded_len());
        self.emit(&mut descriptor);
        SetToken::of(&descriptor)
    }

    /// Data shards of a stripe, 1 to 64.
    pub fn k(&self) -> u8 {
        match self.coding {
            Coding::None => 1,
            Coding::ReedSolomon { data_lanes, .. } => data_lanes,
        }
    }

    /// Parity shards of a stripe, 0 to 64.
    pub fn m(&self) -> u8 {
        match self.coding {
            Coding::ReedSolomon { parity: Some((lanes, _)), .. } => lanes,
            _ => 0,
        }
    }

    /// The parity blob's token, if there is parity.
    pub fn parity_token(&self) -> Option<Token> {
        match self.coding {
            Coding::ReedSolomon { parity, .. } => parity.map(|(_, token)| token),
            Coding::None => None,
        }
    }

    /// All k + m lanes.
    pub fn lanes(&self) -> Lanes {
        Lanes::first(u32::from(self.k()) + u32::from(self.m()))
    }

    /// Payload bytes of a full stripe.
    pub fn stripe_bytes(&self) -> u64 {
        u64::from(self.k()) * self.shard_bytes
    }

    /// The number of stripes, the last of which may be short; 0 for a payload of no bytes.
    pub fn stripes(&self) -> u64 {
        self.length_bytes.div_ceil(self.stripe_bytes())
    }

    /// The parity blob's length, bytes: m whole shards for every stripe. At most 2^50.
    pub fn parity_length(&self) -> u64 {
        self.stripes() * u64::from(self.m()) * self.shard_bytes
    }

    /// The shard of a blob's byte. Unchecked: an offset past the blob's end gives a stripe past the last.
    pub fn shard_at(&self, blob: Blob, offset: u64) -> ShardIndex {
        let shard = offset / self.shard_bytes;
        let (first, width) = match blob {
            Blob::Content => (0, self.k()),
            Blob::Parity => (self.k(), self.m().max(1)),
        };
        let lane = (shard % u64::from(width)) as u8;
        ShardIndex { lane: first + lane, stripe: shard / u64::from(width) }
    }

    /// The length of a shard as stored and sent, bytes. Data shards end with the payload, so the last may be
    /// short and later ones are empty. 0 for a lane or stripe that the set does not have.
    pub fn shard_len(&self, lane: u8, stripe: u64) -> u64 {
        if stripe >= self.stripes() || !self.lanes().contains(lane) {
            0
        } else if lane >= self.k() {
            self.shard_bytes
        } else {
            let start = stripe * self.stripe_bytes() + u64::from(lane) * self.shard_bytes;
            self.length_bytes.saturating_sub(start).min(self.shard_bytes)
        }
    }

    /// The parts that a PUT or FETCH of `lanes` of `stripes` carries: first the content's, then the parity's;
    /// an empty part is left out. Data shards past the payload's end are absent, and the last may be short.
    ///
    /// # Errors
    /// [`RangesError::Lanes`] for a lane that the set does not have, [`RangesError::OutOfBounds`] for a run that ends past
    /// the last stripe.
    pub fn parts(&self, lanes: Lanes, stripes: &Ranges) -> Result<SmallVec<[Part; 2]>, RangesError> {
        if !self.lanes().contains_all(lanes) {
            return Err(RangesError::Lanes);
        }
        if stripes.iter().any(|run| run.end > self.stripes()) {
            return Err(RangesError::OutOfBounds);
        }
        let (data_bits, parity_bits) = (lanes.data_bits(self.k()), lanes.parity_bits(self.k()));
        let mut parts = SmallVec::new();
        let content = (Blob::Content, self.content, self.length_bytes, self.k(), data_bits);
        let parity = self
            .parity_token()
            .map(|token| (Blob::Parity, token, self.parity_length(), self.m(), parity_bits));
        for (blob, token, length, width, bits) in [Some(content), parity].into_iter().flatten() {
            // A selection of every group has the shortest form.
            let selection = if bits.count_ones() == u32::from(width) && stripes.is_all() {
                Selection::Ranges(Ranges::all())
            } else {
                let shard_groups = self.shard_bytes / GROUP_BYTES_U64;
                LaneGroups::new(width, bits, shard_groups, stripes.clone())?.into()
            };
            let bytes = selection.selected_bytes(length)?;
            if bytes > 0 {
                parts.push(Part { blob, token, length, selection, bytes });
            }
        }
        Ok(parts)
    }

    /// `code`, `k`, `m` and the parity token, as on the wire.
    fn code_fields(&self) -> (u64, u64, u64, Option<Token>) {
        match self.coding {
            Coding::None => (CODE_NONE, 1, 0, None),
            Coding::ReedSolomon { data_lanes, parity } => (
                CODE_REED_SOLOMON,
                data_lanes.into(),
                parity.map_or(0, |(lanes, _)| lanes.into()),
                parity.map(|(_, token)| token),
            ),
        }
    }

    /// Reads a whole descriptor without trailing bytes.
    ///
    /// # Errors
    /// [`DescriptorError::Form`] for anything that is not canonical, [`DescriptorError::Unsupported`] for a version or
    /// code that this side does not know.
    pub fn parse(mut body: &[u8]) -> Result<Self, DescriptorError> {
        let body = &mut body;
        if varint::read_minimal(body, "descriptor version")? != VERSION {
            return Err(DescriptorError::Unsupported("a descriptor version other than 1 is"));
        }
        let content = take_token(body, "content token")?;
        let length_bytes = varint::read_minimal(body, "payload length")?;
        let shard_bytes = varint::read_minimal(body, "shard_len")?;
        let code = varint::read_minimal(body, "code")?;
        let k = varint::read_minimal(body, "k")?;
        let m = varint::read_minimal(body, "m")?;
        let coding = match code {
            CODE_NONE if (k, m) == (1, 0) => Coding::None,
            CODE_NONE => return Err(DescriptorError::Form("code 0 has k=1 and m=0")),
            CODE_REED_SOLOMON => {
                let data_lanes = u8::try_from(k).map_err(|_| BAD_K)?;
                let lanes = u8::try_from(m).map_err(|_| BAD_M)?;
                let parity = if m > 0 { Some((lanes, take_token(body, "parity token")?)) } else { None };
                Coding::ReedSolomon { data_lanes, parity }
            }
            _ => return Err(DescriptorError::Unsupported("an erasure code other than 0 and 1 is")),
        };
        if !body.is_empty() {
            return Err(DescriptorError::Trailing(body.len()));
        }
        Self::new(content, length_bytes, shard_bytes, coding)
    }

    /// Appends the descriptor to `out`: [`Descriptor::encoded_len`] bytes.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let (code, k, m, parity) = self.code_fields();
        varint::write(VERSION, out);
        out.extend_from_slice(&self.content.to_bytes());
        for value in [self.length_bytes, self.shard_bytes, code, k, m] {
            varint::write(value, out);
        }
        if let Some(token) = parity {
            out.extend_from_slice(&token.to_bytes());
        }
    }

    /// Bytes that [`Descriptor::emit`] writes.
    pub fn encoded_len(&self) -> usize {
        let (code, k, m, parity) = self.code_fields();
        let fields: usize = [VERSION, self.length_bytes, self.shard_bytes, code, k, m]
            .into_iter()
            .map(varint::encoded_len)
            .sum();
        fields + TOKEN_BYTES + parity.map_or(0, |_| TOKEN_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ErrorCode;
    use proptest::prelude::*;

    fn emitted(descriptor: &Descriptor) -> Vec<u8> {
        let mut out = Vec::new();
        descriptor.emit(&mut out);
        assert_eq!(out.len(), descriptor.encoded_len());
        out
    }

    #[test]
    fn descriptors_round_trip() {
        let token = Token::of(b"payload");
        let parity = Some((4, Token::of(b"parity")));
        for descriptor in [
            Descriptor::plain(token, 0).unwrap(),
            Descriptor::plain(token, PAYLOAD_BYTES_MAX).unwrap(),
            Descriptor::new(token, 5, SHARD_BYTES_MAX, Coding::ReedSolomon { data_lanes: 8, parity })
                .unwrap(),
            Descriptor::new(token, 5, 16_384, Coding::ReedSolomon { data_lanes: 64, parity: None }).unwrap(),
        ] {
            assert_eq!(Descriptor::parse(&emitted(&descriptor)), Ok(descriptor));
        }
    }

    #[test]
    fn bounds_are_refused() {
        let token = Token::of(b"payload");
        assert!(Descriptor::plain(token, PAYLOAD_BYTES_MAX + 1).is_err());
        for shard_bytes in [0, 1, 16_383, 16_385, SHARD_BYTES_MAX + 16_384] {
            assert!(Descriptor::new(token, 1, shard_bytes, Coding::None).is_err());
        }
        for (data_lanes, parity) in
            [(0, None), (1, None), (65, None), (8, Some((0, token))), (8, Some((65, token)))]
        {
            assert!(Descriptor::new(token, 1, 65_536, Coding::ReedSolomon { data_lanes, parity }).is_err());
        }
    }

    #[test]
    fn other_forms_of_the_same_descriptor_are_refused() {
        let plain = emitted(&Descriptor::plain(Token::of(b"payload"), 5).unwrap());
        let mut longer_varint = plain.clone();
        longer_varint.splice(0..1, [0x40, 0x01]);
        assert_eq!(Descriptor::parse(&longer_varint).unwrap_err().code(), ErrorCode::BadDescriptor);
        let mut trailing = plain.clone();
        trailing.push(0);
        assert_eq!(Descriptor::parse(&trailing), Err(DescriptorError::Trailing(1)));
        let mut two_lanes_uncoded = plain.clone();
        let at = plain.len() - 2;
        two_lanes_uncoded[at] = 2;
        assert!(Descriptor::parse(&two_lanes_uncoded).is_err());
        let mut unknown_code = plain.clone();
        unknown_code[at - 1] = 2;
        assert_eq!(Descriptor::parse(&unknown_code).unwrap_err().code(), ErrorCode::UnsupportedCode);
        for len in 0..plain.len() {
            assert!(Descriptor::parse(&plain[..len]).is_err());
        }
    }

    fn coded(length_bytes: u64, shard_bytes: u64, k: u8, m: u8) -> Result<Descriptor, DescriptorError> {
        let coding = match (k, m) {
            (1, 0) => Coding::None,
            (_, 0) => Coding::ReedSolomon { data_lanes: k, parity: None },
            _ => Coding::ReedSolomon { data_lanes: k, parity: Some((m, Token::of(b"parity"))) },
        };
        Descriptor::new(Token::of(b"content"), length_bytes, shard_bytes, coding)
    }

    #[test]
    fn a_parity_blob_is_no_longer_than_a_payload_may_be() {
        assert_eq!(coded(PAYLOAD_BYTES_MAX, 65_536, 8, 8).unwrap().parity_length(), PAYLOAD_BYTES_MAX);
        assert!(coded(PAYLOAD_BYTES_MAX, 65_536, 8, 9).is_err());
        assert!(coded(PAYLOAD_BYTES_MAX, 16_384, 1, 64).is_err());
    }

    #[test]
    fn lanes_and_stripes_outside_the_set_are_refused() {
        let set = coded(300_000, 16_384, 4, 2).unwrap();
        assert_eq!(set.parts(Lanes::one(6), &Ranges::all()), Err(RangesError::Lanes));
        assert_eq!(set.parts(Lanes::one(127), &Ranges::all()), Err(RangesError::Lanes));
        let mut stripes = Ranges::all();
        stripes.push_run(4, 1).unwrap();
        assert_eq!(set.stripes(), 5);
        assert!(set.parts(Lanes::NONE, &stripes).unwrap().is_empty());
        stripes.push_run(1, 1).unwrap();
        for lanes in [Lanes::NONE, Lanes::one(5)] {
            assert_eq!(set.parts(lanes, &stripes), Err(RangesError::OutOfBounds));
        }
    }

    #[test]
    fn a_payload_of_no_bytes_has_no_parts() {
        let empty = coded(0, 16_384, 4, 2).unwrap();
        assert_eq!((empty.stripes(), empty.parity_length()), (0, 0));
        assert!(empty.parts(empty.lanes(), &Ranges::all()).unwrap().is_empty());
        let mut stripes = Ranges::all();
        stripes.push_run(0, 1).unwrap();
        assert_eq!(empty.parts(empty.lanes(), &stripes), Err(RangesError::OutOfBounds));
    }

    #[test]
    fn a_lane_past_the_end_of_a_short_stripe_has_no_part() {
        // Stripe 1 has one data shard, of 1 byte.
        let set = coded(4 * 16_384 + 1, 16_384, 4, 2).unwrap();
        let mut last = Ranges::all();
        last.push_run(1, 1).unwrap();
        assert!(set.parts(Lanes::one(1), &last).unwrap().is_empty());
        let [part] = &set.parts(Lanes::one(0), &last).unwrap()[..] else { panic!("one part") };
        assert_eq!((part.blob, part.bytes), (Blob::Content, 1));
        let [part] = &set.parts(Lanes::one(5), &last).unwrap()[..] else { panic!("one part") };
        assert_eq!((part.blob, part.bytes), (Blob::Parity, 16_384));
    }

    proptest! {
        #[test]
        fn parts_carry_just_the_shards_of_their_lanes(
            (k, m, shard_groups) in (1u8..=5, 0u8..=5, 1u64..=3),
            length in 1u64..1_000_000,
            lane_bits: u128,
            run in proptest::option::of((0u64..6, 1u64..4)),
        ) {
            let set = coded(length, shard_groups * GROUP_BYTES_U64, k, m).unwrap();
            let lanes = set.lanes().intersection((0..128).filter(|lane| lane_bits >> lane & 1 == 1).collect());
            let mut stripes = Ranges::all();
            if let Some((gap, len)) = run {
                stripes.push_run(gap, len).unwrap();
            }
            let parts = match set.parts(lanes, &stripes) {
                Err(error) => {
                    prop_assert_eq!(error, RangesError::OutOfBounds);
                    prop_assert!(stripes.iter().any(|run| run.end > set.stripes()));
                    return Ok(());
                }
                Ok(parts) => parts,
            };
            prop_assert!(parts.is_sorted_by_key(|part| part.blob == Blob::Parity));
            for (blob, blob_length) in [(Blob::Content, length), (Blob::Parity, set.parity_length())] {
                let part = parts.iter().find(|part| part.blob == blob);
                let mut bytes = 0;
                for group in 0..blob_length.div_ceil(GROUP_BYTES_U64) {
                    let offset = group * GROUP_BYTES_U64;
                    let shard = set.shard_at(blob, offset);
                    let asked = lanes.contains(shard.lane) && stripes.intersects(shard.stripe..shard.stripe + 1);
                    prop_assert_eq!(part.is_some_and(|part| part.selection.intersects(group..group + 1)), asked);
                    bytes += if asked { (blob_length - offset).min(GROUP_BYTES_U64) } else { 0 };
                }
                prop_assert_eq!(part.map_or(0, |part| part.bytes), bytes);
                prop_assert!(part.is_none_or(|part| part.length == blob_length && part.bytes > 0));
            }
        }
    }
}
