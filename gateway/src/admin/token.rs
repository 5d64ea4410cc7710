//! The bearer token of the endpoint.

use anyhow::Context;
use std::path::Path;
use stoq::limits::ADMIN_TOKEN_BYTES_MIN;

/// Reads a bearer token. `key` is the option or the key of the configuration that names the file.
///
/// # Errors
/// A file that cannot be read, or a token that is too short to be safe.
pub(super) fn read(path: &Path, key: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{key}: the token file {} cannot be read", path.display()))?;
    let token = text.trim();
    anyhow::ensure!(
        token.len() >= ADMIN_TOKEN_BYTES_MIN,
        "{key}: the token in {} is shorter than {ADMIN_TOKEN_BYTES_MIN} bytes; \
         `openssl rand -hex 32` makes one",
        path.display()
    );
    Ok(token.to_owned())
}
