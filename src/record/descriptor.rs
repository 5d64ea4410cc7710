//! The shard descriptor: a payload and how it is cut (protocol §3).
//!
//! It is hashed into set tokens, so it has one canonical encoding and no other form is accepted.

use super::{RecordError, finish, take_token, varint};
use crate::limits::{
    LANES_DATA_MAX, LANES_PARITY_MAX, PAYLOAD_BYTES_MAX, SHARD_BYTES_DEFAULT, SHARD_BYTES_MAX,
};
use crate::token::{GROUP_BYTES_U64, TOKEN_BYTES, Token};

const VERSION: u64 = 1;
const CODE_NONE: u64 = 0;
const CODE_REED_SOLOMON: u64 = 1;

/// How a stripe of shards is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Code 0: one lane, nothing added.
    None,
    /// Code 1: Reed-Solomon over GF(2^16).
    ReedSolomon {
        /// Data shards a stripe, 1 to 64.
        data_lanes: u8,
        /// Parity shards a stripe and the parity blob's token, if there is parity; 1 to 64.
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

impl Descriptor {
    /// An uncoded payload of `length_bytes` bytes, cut at the default shard length. What a plain PUT carries.
    ///
    /// # Errors
    /// [`RecordError::Descriptor`] if the payload is longer than [`PAYLOAD_BYTES_MAX`].
    pub fn plain(content: Token, length_bytes: u64) -> Result<Self, RecordError> {
        Self::new(content, length_bytes, SHARD_BYTES_DEFAULT, Coding::None)
    }

    /// A descriptor whose bounds have been checked. `shard_bytes` is a multiple of 16 KiB, at most 1 MiB.
    ///
    /// # Errors
    /// [`RecordError::Descriptor`] names the bound that does not hold.
    pub fn new(
        content: Token,
        length_bytes: u64,
        shard_bytes: u64,
        coding: Coding,
    ) -> Result<Self, RecordError> {
        if length_bytes > PAYLOAD_BYTES_MAX {
            return Err(RecordError::Descriptor("the payload is longer than 2^50 bytes"));
        }
        if shard_bytes == 0 || shard_bytes > SHARD_BYTES_MAX || !shard_bytes.is_multiple_of(GROUP_BYTES_U64) {
            return Err(RecordError::Descriptor("shard_len is no multiple of 16 KiB up to 1 MiB"));
        }
        if let Coding::ReedSolomon { data_lanes, parity } = coding {
            if data_lanes == 0 || u64::from(data_lanes) > LANES_DATA_MAX {
                return Err(RecordError::Descriptor("k is not 1 to 64"));
            }
            match parity {
                Some((lanes, _)) if lanes == 0 || u64::from(lanes) > LANES_PARITY_MAX => {
                    return Err(RecordError::Descriptor("m is not 1 to 64"));
                }
                // One lane without parity has a code of its own: 0.
                None if data_lanes == 1 => {
                    return Err(RecordError::Descriptor("code 1 with k=1 and m=0 is code 0"));
                }
                _ => {}
            }
        }
        Ok(Self { content, length_bytes, shard_bytes, coding })
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

    /// `code`, `k`, `m` and the parity token, as they stand on the wire.
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

    /// Reads a whole descriptor; nothing may follow it.
    ///
    /// # Errors
    /// [`RecordError::Descriptor`] for anything that is not canonical, [`RecordError::Unsupported`] for a version or
    /// code that this side does not know.
    pub fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let body = &mut body;
        if varint::read_minimal(body, "descriptor version")? != VERSION {
            return Err(RecordError::Unsupported("a descriptor version other than 1 is"));
        }
        let content = take_token(body, "content token")?;
        let length_bytes = varint::read_minimal(body, "payload length")?;
        let shard_bytes = varint::read_minimal(body, "shard_len")?;
        let code = varint::read_minimal(body, "code")?;
        let k = varint::read_minimal(body, "k")?;
        let m = varint::read_minimal(body, "m")?;
        let coding = match code {
            CODE_NONE if (k, m) == (1, 0) => Coding::None,
            CODE_NONE => return Err(RecordError::Descriptor("code 0 has k=1 and m=0")),
            CODE_REED_SOLOMON => {
                let data_lanes = u8::try_from(k).map_err(|_| RecordError::Descriptor("k is not 1 to 64"))?;
                let lanes = u8::try_from(m).map_err(|_| RecordError::Descriptor("m is not 1 to 64"))?;
                let parity = if m > 0 { Some((lanes, take_token(body, "parity token")?)) } else { None };
                Coding::ReedSolomon { data_lanes, parity }
            }
            _ => return Err(RecordError::Unsupported("an erasure code other than 0 and 1 is")),
        };
        finish(body)?;
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
        assert_eq!(
            Descriptor::parse(&longer_varint).unwrap_err().code(),
            super::super::ErrorCode::BadDescriptor
        );
        let mut trailing = plain.clone();
        trailing.push(0);
        assert_eq!(Descriptor::parse(&trailing), Err(RecordError::Trailing(1)));
        let mut two_lanes_uncoded = plain.clone();
        let at = plain.len() - 2;
        two_lanes_uncoded[at] = 2;
        assert!(Descriptor::parse(&two_lanes_uncoded).is_err());
        let mut unknown_code = plain.clone();
        unknown_code[at - 1] = 2;
        assert_eq!(
            Descriptor::parse(&unknown_code).unwrap_err().code(),
            super::super::ErrorCode::UnsupportedCode
        );
        for len in 0..plain.len() {
            assert!(Descriptor::parse(&plain[..len]).is_err());
        }
    }
}
