//! Errors that name the file.

use crate::client::ClientError;
use std::io;
use std::path::Path;

pub(crate) fn refused(path: &Path, text: impl Into<String>) -> ClientError {
    file_error(path, io::Error::other(text.into()))
}

pub(crate) fn file_error(path: &Path, source: io::Error) -> ClientError {
    ClientError::File { path: path.display().to_string(), source }
}
