//! PEM files: read with bounds, checked for who may read them, written without overwriting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_cert::der::pem::{LineEnding, encode_string};
use zeroize::Zeroizing;

/// A PEM file, bytes: room for a bundle of some hundreds of Falcon certificates.
const PEM_FILE_BYTES_MAX: u64 = 4 << 20;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// What can be wrong with a file of certificates or keys. Each text names the file and the fix.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read ({source}); check the path and the permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than any certificate bundle.
    #[error("{}: larger than {PEM_FILE_BYTES_MAX} bytes; this is no PEM file of certificates or keys", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Others than owner and group may use the key file, or the group may write it.
    #[error(
        "{0}: the private key is open to other users (mode {mode:04o}); run: chmod 600 {0}",
        path.display()
    )]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no section of the kind wanted.
    #[error("{}: holds no \"BEGIN {wanted}\" section, but {found}; {fix}", path.display())]
    WrongLabel {
        /// The file.
        path: PathBuf,
        /// The label wanted.
        wanted: &'static str,
        /// What is there instead.
        found: String,
        /// What to do.
        fix: &'static str,
    },
    /// The PEM text is damaged.
    #[error("{}: damaged PEM ({reason}); copy the file again from where it was made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The file to be written exists.
    #[error("{}: exists already and is not overwritten; move it away or choose another name", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("{}: cannot be written ({source}); check the directory and its permissions", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads a file that anyone may read.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let file = File::open(path).map_err(|source| PemError::Read { path: path.into(), source })?;
    read_bounded(path, file)
}

/// Reads a private key file, unless its permissions let others than its owner's group read it.
///
/// The group may read: Kubernetes (`fsGroup`) and systemd hand secrets to services that way.
pub(super) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let file = File::open(path).map_err(|source| PemError::Read { path: path.into(), source })?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = file.metadata().map_err(|source| PemError::Read { path: path.into(), source })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(PemError::KeyExposed { path: path.into(), mode });
        }
    }
    read_bounded(path, file).map(Zeroizing::new)
}

fn read_bounded(path: &Path, file: File) -> Result<Vec<u8>, PemError> {
    // Room for the whole from the start: a buffer that grows leaves copies of a key behind.
    let len = file.metadata().map_or(0, |metadata| metadata.len()).min(PEM_FILE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
    file.take(PEM_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| PemError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > PEM_FILE_BYTES_MAX {
        return Err(PemError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

/// The certificates of a PEM text, in its order, at least one. `path` is for messages.
pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PemError::Damaged { path: path.into(), reason: error.to_string() })?;
    if found.is_empty() {
        return Err(wrong_label(path, CERTIFICATE, pem));
    }
    Ok(found)
}

/// The first private key of a PEM text, as its PKCS#8 DER. `path` is for messages.
pub(super) fn private_key(path: &Path, pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) =
            section.map_err(|error| PemError::Damaged { path: path.into(), reason: error.to_string() })?;
        let der = Zeroizing::new(der);
        if kind == SectionKind::PrivateKey {
            return Ok(der);
        }
    }
    Err(wrong_label(path, PRIVATE_KEY, pem))
}

fn wrong_label(path: &Path, wanted: &'static str, pem: &[u8]) -> PemError {
    let text = String::from_utf8_lossy(pem);
    let label = text.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    let fix = match (wanted, label) {
        (PRIVATE_KEY, Some("ENCRYPTED PRIVATE KEY")) => "decrypt it: openssl pkcs8 -in FILE -out NEW_FILE",
        (PRIVATE_KEY, Some("EC PRIVATE KEY")) => "convert it: openssl pkcs8 -topk8 -nocrypt",
        (PRIVATE_KEY, Some(CERTIFICATE)) => "this is the certificate: give the key file here",
        (CERTIFICATE, Some(PRIVATE_KEY)) => "this is the key: give the certificate file here",
        (CERTIFICATE, Some(CERTIFICATE_REQUEST)) => {
            "have an authority sign the request, then give its certificate"
        }
        (CERTIFICATE, None) => "if it is DER, convert it: openssl x509 -inform DER",
        _ => "give the right file here",
    };
    let found = match label {
        Some(label) => format!("\"BEGIN {}\"", label.chars().take(64).collect::<String>().escape_debug()),
        None => "no PEM at all".into(),
    };
    PemError::WrongLabel { path: path.into(), wanted, found, fix }
}

/// DER as PEM text.
pub(super) fn encode(label: &'static str, der: &[u8]) -> Result<String, x509_cert::der::Error> {
    Ok(encode_string(label, LineEnding::LF, der)?)
}

/// Writes a new file, for its owner alone if it is private. Never overwrites.
pub(super) fn write_new(path: &Path, text: &str, private: bool) -> Result<(), PemError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if private { 0o600 } else { 0o644 });
    }
    let write = || {
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PemError::Exists { path: path.into() },
        _ => PemError::Write { path: path.into(), source },
    })
}
