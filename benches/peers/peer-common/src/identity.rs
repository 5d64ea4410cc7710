//! The server's certificate: made at its start, and trusted by a client that is given its file.

use anyhow::Context;
use std::path::{Path, PathBuf};

/// A self-signed ECDSA P-256 certificate and its key, both PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    pub fn made() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([crate::SERVER_NAME.into()])?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// Writes the certificate for clients to read.
    pub fn write(&self, certificate: &Path) -> anyhow::Result<()> {
        write(certificate, &self.certificate)
    }

    /// Writes the key beside the certificate's file, for stacks that only load it from a file. Returns its path.
    pub fn write_key(&self, certificate: &Path) -> anyhow::Result<PathBuf> {
        let path = certificate.with_extension("key");
        write(&path, &self.key)?;
        Ok(path)
    }
}

/// The certificate that a server wrote, PEM.
pub fn read(certificate: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(certificate)
        .with_context(|| format!("cannot read {}; start the server first", certificate.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
