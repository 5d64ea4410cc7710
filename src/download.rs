//! Downloads a payload into a file. The file has its name only when it is complete, and no byte is fetched twice.
//!
//! Until it is complete the file is called `FILE.part`; `FILE.part.json` beside it names its payload. Bytes arrive and are written
//! in rising order: the length of the part is the progress. The part is locked while it is written. A file with the part's name that
//! is no part of this payload is refused and left as it is.

use crate::client::{AskOptions, ClientError, FetchOptions, Peer};
use crate::limits::GROUP_BYTES;
use crate::part_file::{NOT_AS_WRITTEN, PartFile, WriteOrder};
use crate::record::ErrorCode;
use crate::token::{Ranges, Token};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A download, begun or resumed.
#[derive(Debug)]
pub struct Download {
    part: PartFile,
    token: Token,
    length: Option<u64>,
    have: u64,
    resumed: bool,
}

impl Download {
    /// Opens the part of an earlier, interrupted download of the same payload, or a new one.
    ///
    /// # Errors
    /// [`ClientError::File`], with the fix: `output` exists already, another process downloads to it, its directory cannot be
    /// written, or a file with the part's name is no part of this payload.
    pub fn open(output: &Path, token: Token) -> Result<Self, ClientError> {
        let mut part = PartFile::open(output, token.into(), WriteOrder::Rising)?;
        let length = part.noted_length();
        let file = part.file();
        let have = match length {
            Some(length) => whole_groups(file.metadata().map_err(|error| part.failed(error))?.len(), length),
            None => 0,
        };
        file.set_len(have).map_err(|error| part.failed(error))?;
        part.keep(have > 0);
        Ok(Self { part, token, length, have, resumed: have > 0 })
    }

    /// Payload bytes in the part, as a number.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Fetches the missing bytes. `progress` gets the bytes so far and the length. The task itself writes the
    /// file, piece by piece. Dropping the future keeps the pieces written.
    ///
    /// # Errors
    /// Those of [`Peer::fetch`] and of [`FetchReader::chunk`](crate::client::FetchReader::chunk); [`ClientError::File`] for the disk, or a length
    /// other than an earlier gateway's. The written pieces stay for the next attempt.
    pub async fn run(&mut self, peer: &Peer, progress: impl FnMut(u64, u64)) -> Result<(), ClientError> {
        self.run_with(peer, AskOptions::default(), progress).await
    }

    /// Fetches the missing bytes along a route.
    ///
    /// # Errors
    /// Those of [`Download::run`], and [`ClientError::Route`].
    pub async fn run_with(
        &mut self,
        peer: &Peer,
        options: AskOptions,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let AskOptions { route } = options;
        let ranges = match self.length {
            Some(length) if self.have == length => return Ok(()),
            Some(length) => Ranges::covering(self.have..length)?,
            None => Ranges::all(),
        };
        let options = FetchOptions { ranges, route, ..FetchOptions::default() };
        let mut fetch = match peer.fetch_with(self.token, options).await {
            Err(ClientError::Refused(failure))
                if self.length.is_some() && failure.code == ErrorCode::BadRange =>
            {
                return Err(self.another_length("another length".into()));
            }
            fetch => fetch?,
        };
        let length = fetch.length();
        match self.length {
            Some(known) if known != length => return Err(self.another_length(format!("{length} bytes"))),
            Some(_) => {}
            None => self.part.note(length)?,
        }
        self.length = Some(length);
        progress(self.have, length);
        while let Some(chunk) = fetch.chunk().await {
            let chunk = chunk?;
            self.part.keep(true);
            self.part.file().write_all_at(&chunk, self.have).map_err(|error| self.part.failed(error))?;
            self.have += chunk.len() as u64;
            progress(self.have, length);
        }
        Ok(())
    }

    /// Reads the whole file back, hashes it, and gives it its name; returns the payload's length, bytes. `progress` gets the bytes read.
    /// Dropping the future keeps the part for the next attempt.
    ///
    /// # Errors
    /// [`ClientError::File`], with the fix: bytes are missing; the file is not the payload (it is removed); another file has taken the
    /// name (it is not replaced, and the part stays); the disk failed.
    pub async fn finish(self, progress: impl FnMut(u64)) -> Result<u64, ClientError> {
        if self.length != Some(self.have) {
            let text = "bytes are missing; run the same command again";
            return Err(self.part.failed(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        if self.part.holds(self.token, progress).await.map_err(|error| self.part.failed(error))? {
            self.part.give_name()?;
            return Ok(self.have);
        }
        let text = if self.resumed { "the part of an earlier attempt was damaged" } else { NOT_AS_WRITTEN };
        Err(self.part.discard(text))
    }

    fn another_length(&self, says: String) -> ClientError {
        let (part, note) = (self.part.path(), self.part.note_path());
        let text = format!(
            "the gateway says {says}, and an earlier one said {} bytes: one of the gateways is wrong; ask another one, or remove {} and \
             {} to begin anew",
            self.length.unwrap_or_default(),
            part.display(),
            note.display()
        );
        self.part.failed(io::Error::other(text))
    }
}

/// The bytes of a part of this length that are complete groups. An incomplete last group is fetched again.
fn whole_groups(part: u64, length: u64) -> u64 {
    if part >= length { length } else { part - part % GROUP_BYTES as u64 }
}
