//! A part's note: a small file beside it.

use super::place::OutputPlace;
use crate::limits::NOTE_BYTES_MAX;
use crate::token::AnyToken;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// The note of a part: its payload. It has no length: until the last byte is checked, a length is a gateway's claim. Earlier releases
/// noted one, which is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The token that the get named, as text.
    token: String,
    /// Whether the bytes arrive in any order. Otherwise the part's length is the progress.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gathered: bool,
}

/// The file under the note's name.
#[derive(Debug)]
pub(super) enum FoundNote {
    Nothing,
    /// An empty file, as a crash leaves it.
    Empty,
    Note(Note),
    /// Another file, and how it differs from a note.
    Foreign(String),
}

impl Note {
    pub(super) fn new(token: AnyToken, gathered: bool) -> Self {
        Self { token: token.to_string(), gathered }
    }

    /// The token; none if the text is no token.
    pub(super) fn token(&self) -> Option<AnyToken> {
        self.token.parse().ok()
    }

    /// Reads the file under the note's name.
    pub(super) fn find(place: &OutputPlace) -> FoundNote {
        let foreign = |error: Errno| FoundNote::Foreign(error.to_string());
        match place.stat(&place.note) {
            Ok(None) => return FoundNote::Nothing,
            Ok(Some(stat)) if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() => {
                return FoundNote::Foreign("it is no regular file".into());
            }
            Ok(Some(stat)) if stat.st_size == 0 => return FoundNote::Empty,
            Ok(Some(_)) => {}
            Err(error) => return foreign(error),
        }
        let mut text = Vec::new();
        match place.open(&place.note, OFlags::RDONLY) {
            Ok(file) => {
                if let Err(error) = file.take(NOTE_BYTES_MAX + 1).read_to_end(&mut text) {
                    return FoundNote::Foreign(error.to_string());
                }
            }
            Err(error) => return foreign(error),
        }
        if text.len() as u64 > NOTE_BYTES_MAX {
            return FoundNote::Foreign(format!("it has more than {NOTE_BYTES_MAX} bytes"));
        }
        match serde_json::from_slice::<Self>(&text) {
            Ok(note) if note.token().is_none() => FoundNote::Foreign("it names no token".into()),
            Ok(note) => FoundNote::Note(note),
            Err(error) => FoundNote::Foreign(error.to_string()),
        }
    }

    /// Writes the note, durably, in place of an earlier one. The part must be empty: for a moment it has no note.
    pub(super) fn write(&self, place: &OutputPlace) -> io::Result<()> {
        place.remove(&place.note)?;
        let text = serde_json::to_vec(self)?;
        let mut file = place.create(&place.note)?;
        file.write_all(&text).and_then(|()| file.sync_all()).inspect_err(|_| {
            let _ = place.remove(&place.note);
        })
    }
}
