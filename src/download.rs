//! Downloads a payload into a file. The file has its name only when it is complete, and no byte is fetched twice.
//!
//! Until it is complete the file is called `FILE.part`; `FILE.part.json` beside it names its payload. Bytes arrive and are written
//! in rising order: the length of the part is the progress. The part is locked while it is written. A file with the part's name that
//! is no part of this payload is refused and left as it is.
//!
//! A payload's length is a gateway's claim until its last group is checked (protocol §6), so no claim outlives its attempt. A resumed
//! download has the gateway describe the payload, and fetches the missing groups, in any case the last one. If it matches, so does the
//! length; if not, this gateway is wrong, and another one continues with the same part.

use crate::client::{AskOptions, ClientError, FetchOptions, FetchReader, Peer};
use crate::limits::GROUP_BYTES;
use crate::part_file::{NOT_AS_WRITTEN, OutputPlace, PartFile, WriteOrder};
use crate::record::{ErrorCode, ErrorRecord};
use crate::token::{Ranges, Token};
use bytes::Bytes;
use std::fs::File;
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
        Self::of(PartFile::open(output, token.into(), WriteOrder::Rising)?, token)
    }

    /// Like [`Self::open`], for an output whose directory is open.
    pub(crate) fn at(place: OutputPlace, token: Token) -> Result<Self, ClientError> {
        Self::of(PartFile::at(place, token.into(), WriteOrder::Rising)?, token)
    }

    fn of(mut part: PartFile, token: Token) -> Result<Self, ClientError> {
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
        progress: impl FnMut(u64, u64),
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
        let at = ranges.iter().next().map_or(0, |run| run.start * GROUP_BYTES as u64);
        let options = FetchOptions { ranges, route: options.route, ..FetchOptions::default() };
        let fetch = peer.fetch_with(self.token, options).await?;
        if let Some(claimed) = claimed.filter(|&claimed| claimed != fetch.length()) {
            return Err(two_lengths(claimed, fetch.length()));
        }
        self.take(fetch, at, progress).await
    }

    /// Writes what `fetch` gives from byte `at` of the payload on, up to the payload's end.
    pub(crate) async fn take(
        &mut self,
        mut fetch: FetchReader,
        mut at: u64,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let length = fetch.length();
        if self.have == 0 {
            self.part.note()?;
        }
        progress(self.have, length);
        while let Some(chunk) = fetch.chunk().await {
            let chunk = chunk?;
            self.part.keep(true);
            self.write(&chunk, at)?;
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

    /// A payload that is here as a whole.
    pub(crate) fn with(mut self, payload: Bytes) -> Result<Self, ClientError> {
        let length = payload.len() as u64;
        self.part.file().set_len(0).map_err(|error| self.part.failed(error))?;
        (self.have, self.length) = (0, Some(length));
        self.write(&payload, 0)?;
        self.have = length;
        Ok(self)
    }

    /// Writes bytes of the payload. Behind the part's end, groups of zeros become holes.
    fn write(&self, bytes: &Bytes, at: u64) -> Result<(), ClientError> {
        let written = if at < self.have {
            self.part.file().write_all_at(bytes, at)
        } else {
            write_with_holes(self.part.file(), bytes, at)
        };
        written.map_err(|error| self.part.failed(error))
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

/// Writes at the end of a file, which is at `at`. Groups of zeros are not written: they are holes.
pub(crate) fn write_with_holes(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let is_hole = |group: &[u8]| group.iter().all(|&byte| byte == 0);
    let mut start = 0;
    for (group, whole) in bytes.chunks(GROUP_BYTES).enumerate() {
        let here = group * GROUP_BYTES;
        if is_hole(whole) {
            file.write_all_at(&bytes[start..here], at + start as u64)?;
            start = here + whole.len();
        }
    }
    if start < bytes.len() {
        return file.write_all_at(&bytes[start..], at + start as u64);
    }
    file.set_len(at + bytes.len() as u64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn groups_of_zeros_are_holes_wherever_they_are() {
        let group = GROUP_BYTES;
        let zeros = |len: usize| vec![0; len];
        let sevens = |len: usize| vec![7; len];
        for (bytes, blocks_max) in [
            ([sevens(group), zeros(16 * group), sevens(5)].concat(), 2 * group + 8192),
            ([zeros(16 * group), sevens(group)].concat(), group + 8192),
            ([sevens(100), zeros(16 * group)].concat(), group + 8192),
            (zeros(16 * group + 1), 8192),
            (sevens(3 * group + 1), 4 * group + 8192),
            (Vec::new(), 0),
        ] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(b"begin", 0).unwrap();
            write_with_holes(&file, &bytes, 5).unwrap();
            let mut there = vec![0; bytes.len() + 5];
            file.read_exact_at(&mut there, 0).unwrap();
            assert!(there[5..] == bytes[..] && file.metadata().unwrap().len() == there.len() as u64);
            assert!(file.metadata().unwrap().blocks() * 512 <= (blocks_max + 8192) as u64);
        }
    }
}
