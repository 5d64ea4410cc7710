//! The bearer token of the endpoint.

use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use stoq::limits::ADMIN_TOKEN_BYTES_MIN;
use stoq::tls::exposed_mode;

/// A longer file holds no token, bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads a bearer token. `key` is the option or the key of the configuration that names the file.
///
/// # Errors
/// A file that cannot be read or that other users can read, or a token that is too short to be safe.
pub(super) fn read(path: &Path, key: &str) -> anyhow::Result<String> {
    let read = || {
        let file = File::open(path)?;
        let is_file = file.metadata()?.is_file();
        let exposed = exposed_mode(&file)?;
        // A device has no end.
        let text = std::io::read_to_string(file.take(TOKEN_FILE_BYTES_MAX))?;
        Ok::<_, std::io::Error>((is_file, exposed, text))
    };
    let (is_file, exposed, text) =
        read().with_context(|| format!("{key}: the token file {} cannot be read", path.display()))?;
    if let Some(mode) = exposed {
        let file = path.display();
        ensure!(is_file, "{key}: {file} is no file, and other users can read it; give a file of mode 0600");
        bail!("{key}: other users can read the token in {file} (mode {mode:04o}); run: chmod 600 {file}");
    }
    let token = text.trim();
    ensure!(
        token.len() >= ADMIN_TOKEN_BYTES_MIN,
        "{key}: the token in {} is shorter than {ADMIN_TOKEN_BYTES_MIN} bytes; \
         `openssl rand -hex 32` makes one",
        path.display()
    );
    Ok(token.to_owned())
}
