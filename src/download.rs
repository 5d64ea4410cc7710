//! Downloads a payload into a file. The file has its name only when it is complete, and no byte is fetched twice.
//!
//! Until it is complete the file is called `FILE.part`; `FILE.part.json` beside it names its payload. Bytes arrive and are written
//! in rising order: the length of the part is the progress. The part is locked while it is written. A file with the part's name that
//! is no part of this payload is refused and left as it is.
//!
//! A payload's length is a gateway's claim until its last group is checked (protocol §6), so no claim outlives its attempt. A resumed
//! download has the gateway describe the payload, and fetches the missing groups, in any case the last one. If it matches, so does the
//! length; if not, this gateway is wrong, and another one continues with the same part.

use crate::client::{AskOptions, ClientError, FetchOptions, Peer};
use crate::limits::GROUP_BYTES;
use crate::part_file::{NOT_AS_WRITTEN, PartFile, WriteOrder};
use crate::record::{ErrorCode, ErrorRecord};
use crate::token::{Ranges, Token};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A download, begun or resumed.
#[derive(Debug)]
pub struct Download {
    part: PartFile,
    token: Token,
    /// The payload's length, bytes, once it is proven.
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
        let file = part.file();
        let have = if part.continues() {
            last_group(file.metadata().map_err(|error| part.failed(error))?.len())
        } else {
            0
        };
        file.set_len(have).map_err(|error| part.failed(error))?;
        part.keep(have > 0);
        Ok(Self { part, token, length: None, have, resumed: have > 0 })
    }

    /// Payload bytes in the part, as a number.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Fetches the missing bytes. `progress` gets the bytes so far and the length. The task itself writes the
    /// file, piece by piece. Dropping the future keeps the pieces written.
    ///
    /// # Errors
    /// Those of [`Peer::fetch`] and of [`FetchReader::chunk`](crate::client::FetchReader::chunk); [`ClientError::File`] for the disk;
    /// [`ClientError::Refused`] also for a length that the payload does not have. The written pieces stay for the next attempt.
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
        if self.length.is_some() {
            return Ok(());
        }
        let (claimed, ranges) = if self.have == 0 {
            (None, Ranges::all())
        } else {
            let length = self.peer_claims(peer, &options).await?;
            // The check of the last group proves the length. No bytes have no range: the token decides.
            let from = self.have.min(last_group(length.saturating_sub(1)));
            (Some(length), if length == 0 { Ranges::all() } else { Ranges::covering(from..length)? })
        };
        let mut at = ranges.iter().next().map_or(0, |run| run.start * GROUP_BYTES as u64);
        let options = FetchOptions { ranges, route: options.route, ..FetchOptions::default() };
        let mut fetch = peer.fetch_with(self.token, options).await?;
        let length = fetch.length();
        if let Some(claimed) = claimed.filter(|&claimed| claimed != length) {
            return Err(two_lengths(claimed, length));
        }
        if self.have == 0 {
            self.part.note()?;
        }
        progress(self.have, length);
        while let Some(chunk) = fetch.chunk().await {
            let chunk = chunk?;
            self.part.keep(true);
            self.part.file().write_all_at(&chunk, at).map_err(|error| self.part.failed(error))?;
            at += chunk.len() as u64;
            self.have = self.have.max(at);
            progress(self.have, length);
        }
        // Another program made the part longer than the payload.
        if self.have > length {
            self.part.file().set_len(length).map_err(|error| self.part.failed(error))?;
        }
        (self.length, self.have) = (Some(length), length);
        Ok(())
    }

    /// The length that the gateway claims, bytes.
    async fn peer_claims(&self, peer: &Peer, options: &AskOptions) -> Result<u64, ClientError> {
        Ok(peer.describe_with(self.token, options.clone()).await?.length)
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
}

fn two_lengths(described: u64, answered: u64) -> ClientError {
    let reason = format!(
        "the gateway describes {described} bytes and answers with a payload of {answered}: one of its lengths is wrong; ask \
         another gateway"
    );
    ClientError::Refused(ErrorRecord::new(ErrorCode::BadProof, 0, reason))
}

/// Where the last, incomplete group of this many bytes begins.
fn last_group(bytes: u64) -> u64 {
    bytes - bytes % GROUP_BYTES as u64
}
