//! Reads sections whose `kind` decides their other keys. Serde's derived code for these does not name a wrong key in its errors.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

/// Splits a section into its kind and its other keys.
pub(super) fn tagged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, toml::Table), D::Error> {
    let mut keys = toml::Table::deserialize(deserializer)?;
    match keys.remove("kind") {
        Some(toml::Value::String(kind)) => Ok((kind, keys)),
        Some(_) => Err(D::Error::custom("`kind` must be a string")),
        None => Err(D::Error::missing_field("kind")),
    }
}

/// Reads the other keys as a type.
pub(super) fn section<T: DeserializeOwned, E: Error>(keys: toml::Table) -> Result<T, E> {
    keys.try_into().map_err(|error: toml::de::Error| E::custom(error.to_string().trim_end()))
}
