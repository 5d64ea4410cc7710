//! Content tokens, and the verified encoding that checks any range of a payload against its token as it arrives.
//!
//! A token is the root of BLAKE3's own tree over the payload. The tree is cut at groups of 16 KiB: the pairs
//! of hashes above them are the [`Outboard`]; pairs and groups in tree order are the verified encoding
//! (bao-tree's mixed encoding without a length prefix).

mod decoder;
mod encoder;
mod hasher;
mod outboard;
mod piece;
mod ranges;
mod selection;
mod set;
mod walk;

pub use decoder::VerifiedDecoder;
pub use encoder::{EncodedPiece, VerifiedEncoder};
pub use hasher::OutboardHasher;
pub use outboard::{Outboard, OutboardBuilder, OutboardError, ReadPairs, outboard_bytes};
pub use piece::{Proof, UncheckedPiece, VerifiedPiece, VerifyError};
pub use ranges::{Ranges, RangesError};
pub use selection::{LaneGroups, Selection};
pub use set::{AnyToken, SetToken};

use crate::limits::GROUP_BYTES;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use data_encoding::HEXLOWER_PERMISSIVE;
use std::fmt;
use std::str::FromStr;

/// A token on the wire, bytes.
pub const TOKEN_BYTES: usize = 33;
/// [`GROUP_BYTES`] for offsets.
pub(crate) const GROUP_BYTES_U64: u64 = GROUP_BYTES as u64;

const ALGORITHM_BLAKE3: u8 = 0x01;
const TEXT_PREFIX: &str = "b3:";

/// One hash pair, bytes.
pub(crate) const PAIR_BYTES: usize = 64;

/// Groups of a payload; a payload of no bytes has one, an empty one.
pub(crate) const fn groups_of(length: u64) -> u64 {
    let groups = length.div_ceil(GROUP_BYTES_U64);
    if groups == 0 { 1 } else { groups }
}

/// Groups in the left part of a subtree of `groups`, more than one: the largest power of two below `groups`
/// (BLAKE3 paper §2.1).
const fn left_groups(groups: u64) -> u64 {
    1 << (u64::BITS - 1 - (groups - 1).leading_zeros())
}

/// The hash of one group, or of any whole subtree, that begins at payload byte `offset`.
fn hash_subtree(offset: u64, data: &[u8], is_root: bool) -> [u8; 32] {
    if is_root {
        return blake3::hash(data).into();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(data);
    hasher.finalize_non_root()
}

/// The hash above two subtrees.
fn hash_pair(pair: &[u8; 64], is_root: bool) -> [u8; 32] {
    let [left, right] = split_pair(pair);
    if is_root {
        merge_subtrees_root(&left, &right, Mode::Hash).into()
    } else {
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

/// The two hashes of a pair.
fn split_pair(pair: &[u8; 64]) -> [[u8; 32]; 2] {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(&pair[..32]);
    right.copy_from_slice(&pair[32..]);
    [left, right]
}

/// A content token: the BLAKE3-256 root of a payload. On the wire `0x01 | root`; as text `b3:` and 64 hex
/// digits, the digits that `b3sum` prints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token([u8; 32]);

impl Token {
    /// The token of `payload`.
    pub fn of(payload: &[u8]) -> Self {
        Self(blake3::hash(payload).into())
    }

    /// The token with this root.
    pub const fn from_root(root: [u8; 32]) -> Self {
        Self(root)
    }

    /// The BLAKE3 root.
    pub const fn root(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the root as 64 hex digits, as [`Token::hex`] writes it.
    ///
    /// # Errors
    /// [`TokenError::Text`] if these are no 64 hex digits.
    pub fn from_hex(hex: &str) -> Result<Self, TokenError> {
        let mut root = [0; 32];
        if hex.len() != 64 {
            return Err(TokenError::Text);
        }
        HEXLOWER_PERMISSIVE.decode_mut(hex.as_bytes(), &mut root).map_err(|_| TokenError::Text)?;
        Ok(Self(root))
    }

    /// Reads the 33 bytes of the wire.
    ///
    /// # Errors
    /// [`TokenError::Length`] if there are not 33, [`TokenError::Algorithm`] if the first is not 0x01.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, TokenError> {
        match bytes {
            [ALGORITHM_BLAKE3, root @ ..] => {
                root.try_into().map(Self).map_err(|_| TokenError::Length(bytes.len()))
            }
            [algorithm, ..] => Err(TokenError::Algorithm(*algorithm)),
            [] => Err(TokenError::Length(0)),
        }
    }

    /// The 33 bytes of the wire.
    pub fn to_bytes(&self) -> [u8; TOKEN_BYTES] {
        let mut bytes = [ALGORITHM_BLAKE3; TOKEN_BYTES];
        bytes[1..].copy_from_slice(&self.0);
        bytes
    }

    /// The root as 64 lower-case hex digits: how the store names files.
    pub fn hex(&self) -> String {
        HEXLOWER_PERMISSIVE.encode(&self.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_PREFIX}{}", HEXLOWER_PERMISSIVE.encode_display(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::from_hex(text.strip_prefix(TEXT_PREFIX).ok_or(TokenError::Text)?)
    }
}

impl serde::Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why bytes or a text are no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not the text form.
    #[error(
        "a token is `b3:` and 64 hexadecimal digits, as `b3sum` prints them, or `set:` and 64 digits, as `stoq token` does"
    )]
    Text,
    /// Not 33 bytes.
    #[error("a token has 33 bytes, not {0}")]
    Length(usize),
    /// An algorithm other than 0x01.
    #[error(
        "token algorithm {0:#04x} is not supported here; 0x01 (content) is, and 0x02 (set) where a set token is allowed"
    )]
    Algorithm(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3's own test vector for the empty input.
    const EMPTY: &str = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn the_text_equals_the_output_of_b3sum() {
        let token = Token::of(b"");
        assert_eq!(token.to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(token));
        assert_eq!(format!("b3:{}", EMPTY[3..].to_uppercase()).parse(), Ok(token));
        assert_eq!(serde_json::to_string(&token).unwrap(), format!("\"{EMPTY}\""));
        assert_eq!(serde_json::from_str::<Token>(&format!("\"{EMPTY}\"")).unwrap(), token);
    }

    #[test]
    fn other_texts_are_refused_with_the_right_form() {
        for text in
            ["", "b3:", &EMPTY[3..], &EMPTY[..66], "b3:zz", &format!("{EMPTY}0"), &EMPTY.replace('f', "g")]
        {
            assert_eq!(text.parse::<Token>(), Err(TokenError::Text), "{text}");
        }
    }

    #[test]
    fn wire_bytes_round_trip_and_other_algorithms_are_refused() {
        let token = Token::of(b"payload");
        let mut bytes = token.to_bytes();
        assert_eq!(Token::from_slice(&bytes), Ok(token));
        assert_eq!(Token::from_slice(&bytes[..32]), Err(TokenError::Length(32)));
        assert_eq!(Token::from_slice(&[]), Err(TokenError::Length(0)));
        bytes[0] = 2;
        assert_eq!(Token::from_slice(&bytes), Err(TokenError::Algorithm(2)));
    }
}
