//! PEM files: read with bounds, checked for permissions, written without overwriting.
//!
//! A file may hold a key, whichever file was meant. No error therefore has a byte of a file's content: it names labels of its own list,
//! and never the PEM reader's error, which quotes the text.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::pem::{LineEnding, encode_string};
use zeroize::Zeroizing;

/// A PEM file, bytes: room for a bundle of some hundreds of Falcon certificates.
const PEM_FILE_BYTES_MAX: u64 = 4 << 20;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// The first part of a line that begins a section.
const BEGIN: &str = "-----BEGIN ";

/// The labels that errors name. Another label may be part of a key whose line ends were lost.
const LABELS: [&str; 15] = [
    CERTIFICATE,
    CERTIFICATE_REQUEST,
    PRIVATE_KEY,
    "X509 CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "NEW CERTIFICATE REQUEST",
    "PUBLIC KEY",
    "RSA PUBLIC KEY",
    "EC PRIVATE KEY",
    "EC PARAMETERS",
    "RSA PRIVATE KEY",
    "DSA PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "X509 CRL",
];

/// A PEM text, and the path of its file, which messages name.
#[derive(Clone, Copy)]
pub struct PemText<'a> {
    /// The file's path.
    pub path: &'a Path,
    /// The text.
    pub text: &'a [u8],
}

/// Why a file of certificates or keys is refused. Each text names the file and the fix.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be opened or read.
    #[error("{}: cannot be read ({source}); check the path and the permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        r#source: io::Error,
    },
    /// The path is a PEM text itself. The error does not show it.
    #[error(
        "a PEM text is given where the path of its file belongs; write the text into a file of mode 0600, and give its path"
    )]
    TextForPath,
    /// The file is larger than any certificate bundle.
    #[error("{}: larger than {PEM_FILE_BYTES_MAX} bytes; this is no PEM file of certificates or keys", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Users other than owner and group may use the key file, or the group may write it.
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
    /// The file has no section of the needed kind.
    #[error("{}: has no section \"BEGIN {wanted}\"; there is {found}; {fix}", path.display())]
    WrongLabel {
        /// The file.
        path: PathBuf,
        /// The needed label.
        wanted: &'static str,
        /// The labels found.
        found: String,
        /// The fix.
        fix: &'static str,
    },
    /// The PEM text is damaged.
    #[error("{}: damaged PEM: {reason}; {fix}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damage.
        reason: String,
        /// The fix.
        fix: &'static str,
    },
    /// The file to write exists.
    #[error("{}: exists already and is not overwritten; move it away or choose another name", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The path to write is a device, a pipe, a directory or a link, which stays as it is.
    #[error("{}: is no file, and is not replaced; choose another name", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("{}: cannot be written ({source}); check the directory and its permissions", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        r#source: io::Error,
    },
}

/// Reads a public file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    read_bounded(path, open(path)?)
}

/// The certificates of a PEM file, in its order, at least one.
///
/// # Errors
/// [`PemError`]: the file cannot be read, is damaged, or has no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(path, &read(path)?)
}

/// The first private key of a PEM file, in whichever of PEM's forms of keys.
///
/// # Errors
/// [`PemError`]: the file cannot be read, is damaged, or has no private key.
pub fn read_any_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let (pem, exposed) = read_secret(path)?;
    let text = plain(&pem);
    // The fixes for a node's key speak of the node ID, which this key is not.
    let other = "give a key of this endpoint, or make one with its certificate";
    let fixed = |error| match error {
        PemError::Damaged { path, reason, fix } if fix == restore(PRIVATE_KEY) => {
            PemError::Damaged { path, reason, fix: other }
        }
        PemError::WrongLabel { path, wanted, found, fix } if fix == restore(PRIVATE_KEY) => {
            PemError::WrongLabel { path, wanted, found, fix: other }
        }
        error => error,
    };
    let mut keys = PrivateKeyDer::pem_slice_iter(&text);
    match keys.next() {
        Some(Ok(key)) => {
            exposed.map_or(Ok(key), |mode| Err(PemError::KeyExposed { path: path.into(), mode }))
        }
        Some(Err(error)) => Err(fixed(damaged(path, PRIVATE_KEY, &error, &text))),
        None => Err(fixed(wrong_label(path, PRIVATE_KEY, &pem, &text))),
    }
}

/// Reads a private key file, unless users other than its owner and group can read it.
///
/// The group may read: Kubernetes (`fsGroup`) and systemd hand secrets to services that way.
pub(super) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let (bytes, exposed) = read_secret(path)?;
    match exposed {
        // If a file holds no key at all, its mode is not the fault.
        Some(mode) if private_key(path, &bytes).is_ok() => {
            Err(PemError::KeyExposed { path: path.into(), mode })
        }
        _ => Ok(bytes),
    }
}

/// The bytes of a file, and its mode if that is [exposed](exposed_mode).
fn read_secret(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Option<u32>), PemError> {
    let file = open(path)?;
    let mode = exposed_mode(&file).map_err(|source| PemError::Read { path: path.into(), source })?;
    Ok((read_bounded(path, file).map(Zeroizing::new)?, mode))
}

/// The mode of a file that users other than its owner and group can read, or that its group can write.
///
/// # Errors
/// The file's metadata cannot be read.
pub fn exposed_mode(file: &File) -> io::Result<Option<u32>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        Ok((mode & 0o027 != 0).then_some(mode))
    }
    #[cfg(not(unix))]
    file.metadata().map(|_| None)
}

fn open(path: &Path) -> Result<File, PemError> {
    File::open(path).map_err(|source| match path.to_string_lossy().contains(BEGIN.trim_end()) {
        true => PemError::TextForPath,
        false => PemError::Read { path: path.into(), source },
    })
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
    let text = plain(pem);
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| damaged(path, CERTIFICATE, &error, &text))?;
    if found.is_empty() {
        return Err(wrong_label(path, CERTIFICATE, pem, &text));
    }
    Ok(found)
}

/// The first private key of a PEM text, as its PKCS#8 DER. `path` is for messages.
pub(super) fn private_key(path: &Path, pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let text = plain(pem);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        let (kind, der) = section.map_err(|error| damaged(path, PRIVATE_KEY, &error, &text))?;
        let der = Zeroizing::new(der);
        if kind == SectionKind::PrivateKey {
            return Ok(der);
        }
    }
    Err(wrong_label(path, PRIVATE_KEY, pem, &text))
}

/// The text in the form for parsers: UTF-8 without the mark that editors put in front, lines without blanks
/// around them. A text that was indented in a YAML file, or passed through Windows, is the same text.
fn plain(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    let wide = |parse: fn([u8; 2]) -> u16| {
        let units = pem[2..].chunks_exact(2).map(|pair| parse([pair[0], pair[1]]));
        // PEM is ASCII only.
        Zeroizing::new(units.map(|unit| u8::try_from(unit).unwrap_or(b'?')).collect::<Vec<u8>>())
    };
    let utf8 = match pem {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] => Zeroizing::new(text.to_vec()),
        text => Zeroizing::new(text.to_vec()),
    };
    // Room for the whole from the start: a buffer that grows leaves copies of a key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(utf8.len() + 1));
    for line in utf8.split(|byte| matches!(byte, b'\n' | b'\r')) {
        text.extend_from_slice(match line.trim_ascii() {
            // The label of OpenSSL's first versions.
            b"-----BEGIN X509 CERTIFICATE-----" => b"-----BEGIN CERTIFICATE-----",
            b"-----END X509 CERTIFICATE-----" => b"-----END CERTIFICATE-----",
            line => line,
        });
        text.push(b'\n');
    }
    text
}

/// The fix for a damaged file. The key is the node's identity: making a new one is never the first
/// suggestion.
fn restore(wanted: &str) -> &'static str {
    if wanted == PRIVATE_KEY {
        "restore the key from where it was made or from its backup; a new key is a new node ID, which every peer that trusts \
         this one would have to be told"
    } else {
        "copy the file again from where it was made; with the key, `stoq identity renew` makes another certificate of the same node ID"
    }
}

fn damaged(path: &Path, wanted: &'static str, error: &pem::Error, text: &[u8]) -> PemError {
    // The form in environment variables and JSON.
    if text.windows(7).any(|part| part == b"-----\\n") {
        return PemError::Damaged {
            path: path.into(),
            reason: "its line ends are written as `\\n`".into(),
            fix: "write them as line ends: printf '%b' \"$(cat FILE)\" > NEW_FILE",
        };
    }
    if has_no_line_ends(text) {
        return PemError::Damaged {
            path: path.into(),
            reason: "it has no line ends: BEGIN and the bytes after it stand on one line".into(),
            fix: "give each part a line of its own: grep -oE -e '-----[A-Z ]+-----|[A-Za-z0-9+/=]+' FILE > NEW_FILE",
        };
    }
    let reason = match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a section has a BEGIN line and no END line; the file is cut short".into()
        }
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line does not end in five dashes".into(),
        pem::Error::Base64Decode(_) => {
            "the text between BEGIN and END is no base64; it was changed, or is encrypted".into()
        }
        // Not the reader's own words, which quote the text.
        _ => "it cannot be read as PEM".into(),
    };
    PemError::Damaged { path: path.into(), reason, fix: restore(wanted) }
}

/// Whether more than its label stands on the first line that begins a section.
fn has_no_line_ends(text: &[u8]) -> bool {
    let begins = |line: &&[u8]| line.starts_with(BEGIN.as_bytes());
    let Some(line) = text.split(|byte| *byte == b'\n').find(begins) else { return false };
    let after = &line[BEGIN.len()..];
    after.windows(5).position(|part| part == b"-----").is_some_and(|end| end + 5 < after.len())
}

fn wrong_label(path: &Path, wanted: &'static str, pem: &[u8], text: &[u8]) -> PemError {
    let text = Zeroizing::new(String::from_utf8_lossy(text).into_owned());
    let label = |line: &'_ str| Some(line.strip_prefix(BEGIN)?.strip_suffix("-----")?.to_owned());
    let labels: Vec<_> = text.lines().filter_map(label).collect();
    if labels.is_empty() && text.contains(BEGIN) {
        return PemError::Damaged {
            path: path.into(),
            reason: "BEGIN does not stand on a line of its own".into(),
            fix: "give the text from -----BEGIN to -----END, nothing else on these lines",
        };
    }
    let has = |label: &str| labels.iter().any(|found| found == label);
    let fix = match wanted {
        PRIVATE_KEY if has("ENCRYPTED PRIVATE KEY") => "decrypt it: openssl pkcs8 -in FILE -out NEW_FILE",
        PRIVATE_KEY if has("EC PRIVATE KEY") => {
            "convert it: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW_FILE"
        }
        PRIVATE_KEY if has(CERTIFICATE) => "this is the certificate: give the key file here",
        PRIVATE_KEY if has("PUBLIC KEY") => "this is the public key: give the private key here",
        PRIVATE_KEY if pem.first() == Some(&0x30) => {
            "if it is DER, write it as PEM: (echo -----BEGIN PRIVATE KEY-----; base64 FILE; echo -----END PRIVATE KEY-----) > NEW_FILE"
        }
        CERTIFICATE if has(PRIVATE_KEY) => "this is the key: give the certificate file here",
        CERTIFICATE if has(CERTIFICATE_REQUEST) || has("NEW CERTIFICATE REQUEST") => {
            "have an authority sign the request, then give its certificate"
        }
        CERTIFICATE if has("TRUSTED CERTIFICATE") => "convert it: openssl x509 -in FILE -out NEW_FILE",
        CERTIFICATE if pem.first() == Some(&0x30) => {
            "if it is DER, convert it: openssl x509 -inform DER -in FILE -out NEW_FILE"
        }
        _ if pem.is_empty() => restore(wanted),
        _ => "give the right file here",
    };
    let shown = |label: &String| match LABELS.contains(&label.as_str()) {
        true => format!("\"BEGIN {label}\""),
        false => "a section of another kind".into(),
    };
    let found = match &labels[..] {
        [] if pem.is_empty() => "nothing, since the file is empty".into(),
        [] => "no PEM at all".into(),
        labels => labels.iter().take(4).map(shown).collect::<Vec<_>>().join(", "),
    };
    PemError::WrongLabel { path: path.into(), wanted, found, fix }
}

/// DER as PEM text.
pub(super) fn encode(label: &'static str, der: &[u8]) -> Result<String, x509_cert::der::Error> {
    Ok(encode_string(label, LineEnding::LF, der)?)
}

/// Writes a new file, for its owner alone if it is private. Never overwrites.
pub(super) fn write_new(path: &Path, text: &[u8], private: bool) -> Result<(), PemError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if private { 0o600 } else { 0o644 });
    }
    let write = || {
        let mut file = options.open(path)?;
        file.write_all(text)?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => match path.symlink_metadata() {
            Ok(there) if !there.is_file() => PemError::NoFile { path: path.into() },
            _ => PemError::Exists { path: path.into() },
        },
        _ => PemError::Write { path: path.into(), source },
    })
}
