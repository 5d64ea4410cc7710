//! Node IDs: the name of a node is the hash of its public key.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MalformedCertificate;

/// BLAKE3-256 of a certificate's SubjectPublicKeyInfo in DER.
///
/// It names the key, so a renewed certificate for the same key keeps it. As text it is 52 lower-case
/// characters of base32 (RFC 4648 §6, without padding), the only accepted form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 52;

    /// The ID of the key with this SubjectPublicKeyInfo.
    pub fn from_public_key_info(der: &[u8]) -> Self {
        Self(*blake3::hash(der).as_bytes())
    }

    /// The ID of the key in a certificate.
    ///
    /// The parser is the one that checks the handshake's signature, so no certificate can show one key here
    /// and another there.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, MalformedCertificate> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(MalformedCertificate::from)?;
        Ok(Self::from_public_key_info(&parsed.subject_public_key_info()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no node ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a node ID: expected 52 characters out of a-z and 2-7, as `stoq identity show` prints them; got {got:?}"
)]
pub struct NodeIdError {
    got: String,
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decode = || {
            let canonical =
                text.len() == Self::TEXT_LEN && !text.bytes().any(|byte| byte.is_ascii_uppercase());
            let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
            canonical.then_some(Self(bytes.try_into().ok()?))
        };
        decode().ok_or_else(|| NodeIdError { got: text.chars().take(64).collect() })
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_form_is_base32_of_the_hash() {
        let id = NodeId::from_public_key_info(b"");
        // BLAKE3 of no bytes is af1349b9...1f3262.
        assert_eq!(id.to_string(), "v4jutopv7gq2nicajxvdnxgjjgn4wjojvxarfn6mtkj4vza7gjra");
        assert_eq!(id.to_string().len(), NodeId::TEXT_LEN);
    }

    #[test]
    fn only_the_canonical_text_is_accepted() {
        let text = NodeId([0xff; 32]).to_string();
        assert!(text.parse::<NodeId>().is_ok());
        assert!(text.to_ascii_uppercase().parse::<NodeId>().is_err());
        assert!(text[1..].parse::<NodeId>().is_err());
        assert!(format!("{text}a").parse::<NodeId>().is_err());
        // The last character carries one bit of the ID; its other four bits must be zero.
        assert!(format!("{}7", &text[..51]).parse::<NodeId>().is_err());
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            let id = NodeId(bytes);
            prop_assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
        }

        #[test]
        fn any_text_is_judged_without_panic(text in ".{0,80}") {
            if let Ok(id) = text.parse::<NodeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
