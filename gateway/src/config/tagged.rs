//! Sections whose `kind` decides their other keys: serde's derived code for these loses the wrong key's name.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

/// The kind, and the other keys.
pub(super) fn tagged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, toml::Table), D::Error> {
    let mut keys = toml::Table::deserialize(deserializer)?;
    match keys.remove("kind") {
        Some(toml::Value::String(kind)) => Ok((kind, keys)),
        Some(_) => Err(D::Error::custom("`kind` must be a string")),
        None => Err(D::Error::missing_field("kind")),
    }
}

/// The other keys as a type.
pub(super) fn section<T: DeserializeOwned, E: Error>(keys: toml::Table) -> Result<T, E> {
    keys.try_into().map_err(|error: toml::de::Error| E::custom(error.to_string().trim_end()))
}
