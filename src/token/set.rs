//! Set tokens, and tokens of either kind.

use super::{TOKEN_BYTES, Token, TokenError};
use data_encoding::HEXLOWER_PERMISSIVE;
use std::fmt;
use std::str::FromStr;

const ALGORITHM_SET: u8 = 0x02;
const TEXT_PREFIX: &str = "set:";
/// BLAKE3's context string of set tokens (protocol §2).
const CONTEXT: &str = "STOQ 1 shard set";

/// A set token: names a payload together with its sharding. On the wire `0x02 |` BLAKE3 derive_key of the
/// descriptor; as text `set:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetToken([u8; 32]);

impl SetToken {
    /// The token of the set that this encoded descriptor describes.
    pub fn of(descriptor: &[u8]) -> Self {
        Self(blake3::derive_key(CONTEXT, descriptor))
    }

    /// The set token with this hash.
    pub const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The 33 bytes of the wire.
    pub fn to_bytes(&self) -> [u8; TOKEN_BYTES] {
        let mut bytes = [ALGORITHM_SET; TOKEN_BYTES];
        bytes[1..].copy_from_slice(&self.0);
        bytes
    }

    /// The hash as 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        HEXLOWER_PERMISSIVE.encode(&self.0)
    }
}

impl fmt::Display for SetToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_PREFIX}{}", HEXLOWER_PERMISSIVE.encode_display(&self.0))
    }
}

impl fmt::Debug for SetToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The token in a FETCH, LOCATE, MIRROR or HAVE: of a payload, or of a payload with its sharding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnyToken {
    /// A payload.
    Content(Token),
    /// A payload with its sharding.
    Set(SetToken),
}

impl AnyToken {
    /// Reads the 33 bytes of the wire.
    ///
    /// # Errors
    /// [`TokenError::Length`] if there are not 33, [`TokenError::Algorithm`] if the first is neither 0x01 nor 0x02.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, TokenError> {
        match bytes {
            [ALGORITHM_SET, hash @ ..] => {
                let hash = hash.try_into().map_err(|_| TokenError::Length(bytes.len()))?;
                Ok(Self::Set(SetToken(hash)))
            }
            _ => Token::from_slice(bytes).map(Self::Content),
        }
    }

    /// The 33 bytes of the wire.
    pub fn to_bytes(&self) -> [u8; TOKEN_BYTES] {
        match self {
            Self::Content(token) => token.to_bytes(),
            Self::Set(token) => token.to_bytes(),
        }
    }

    /// The content token, if this is one.
    pub fn content(&self) -> Option<Token> {
        match self {
            Self::Content(token) => Some(*token),
            Self::Set(_) => None,
        }
    }
}

impl From<Token> for AnyToken {
    fn from(token: Token) -> Self {
        Self::Content(token)
    }
}

impl From<SetToken> for AnyToken {
    fn from(token: SetToken) -> Self {
        Self::Set(token)
    }
}

impl fmt::Display for AnyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(token) => token.fmt(f),
            Self::Set(token) => token.fmt(f),
        }
    }
}

impl FromStr for SetToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let hex = text.strip_prefix(TEXT_PREFIX).ok_or(TokenError::Text)?;
        let mut hash = [0; 32];
        if hex.len() != 64 {
            return Err(TokenError::Text);
        }
        HEXLOWER_PERMISSIVE.decode_mut(hex.as_bytes(), &mut hash).map_err(|_| TokenError::Text)?;
        Ok(Self(hash))
    }
}

impl FromStr for AnyToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.starts_with(TEXT_PREFIX) {
            return text.parse().map(Self::Set);
        }
        text.parse().map(Self::Content)
    }
}

impl serde::Serialize for SetToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl serde::Serialize for AnyToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for AnyToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_both_kinds_round_trip_and_are_told_apart() {
        let content = AnyToken::from(Token::of(b"payload"));
        let set = AnyToken::from(SetToken::of(b"descriptor"));
        for token in [content, set] {
            assert_eq!(AnyToken::from_slice(&token.to_bytes()), Ok(token));
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        assert_eq!(AnyToken::from_slice(&set.to_bytes()[..32]), Err(TokenError::Length(32)));
        assert_eq!(AnyToken::from_slice(&[3; 33]), Err(TokenError::Algorithm(3)));
        assert_eq!("set:zz".parse::<AnyToken>(), Err(TokenError::Text));
        assert_eq!("".parse::<AnyToken>(), Err(TokenError::Text));
    }
}
