//! The bearer token of the endpoint.

use anyhow::Context;
use std::path::Path;
use stoq::limits::ADMIN_TOKEN_BYTES_MIN;

/// Reads a bearer token.
///
/// # Errors
/// A file that cannot be read, or a token that is too short to be safe.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("admin.token_file: {} cannot be read", path.display()))?;
    let token = text.trim();
    anyhow::ensure!(
        token.len() >= ADMIN_TOKEN_BYTES_MIN,
        "admin.token_file: the token in {} is shorter than {ADMIN_TOKEN_BYTES_MIN} bytes; \
         `openssl rand -hex 32` makes one",
        path.display()
    );
    Ok(token.to_owned())
}
