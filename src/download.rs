//! A payload on its way into a file: never a file that looks whole before it is, and never a byte fetched twice.
//!
//! While it comes it is called `FILE.part`; beside it lies `FILE.part.json`, which says what it is part of. Bytes arrive in
//! rising order and are written in that order, so the length of the part is how far it got.

use crate::client::{ClientError, FetchOptions, Peer, Route};
use crate::limits::GROUP_BYTES;
use crate::token::{Ranges, Token};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a part belongs to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    token: Token,
    length: u64,
}

/// A download, begun or resumed.
#[derive(Debug)]
pub struct Download {
    output: PathBuf,
    part: PathBuf,
    note: PathBuf,
    token: Token,
    file: File,
    length: Option<u64>,
    have: u64,
    resumed: bool,
}

impl Download {
    /// Opens the part of an earlier, interrupted download of the same payload, or a new one.
    ///
    /// # Errors
    /// When `output` exists already, or its directory cannot be written.
    pub fn open(output: &Path, token: Token) -> Result<Self, ClientError> {
        let failed = |path: &Path, source| ClientError::File { path: path.display().to_string(), source };
        if output.exists() {
            let text = "exists already; remove it, or give another --output";
            return Err(failed(output, io::Error::new(io::ErrorKind::AlreadyExists, text)));
        }
        let (part, note) = (with_suffix(output, ".part"), with_suffix(output, ".part.json"));
        let known = std::fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let known = known.filter(|known| known.token == token);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(known.is_none())
            .open(&part)
            .map_err(|error| failed(&part, error))?;
        let have = match &known {
            Some(known) => {
                whole_groups(file.metadata().map_err(|error| failed(&part, error))?.len(), known.length)
            }
            None => 0,
        };
        file.set_len(have)
            .and_then(|()| file.seek(SeekFrom::Start(have)))
            .map_err(|error| failed(&part, error))?;
        let length = known.map(|known| known.length);
        Ok(Self { output: output.into(), part, note, token, file, length, have, resumed: have > 0 })
    }

    /// Payload bytes that are there.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Fetches what is missing. `progress` hears how much there is, and of how much. The task itself writes the file, as the bytes
    /// come. Dropping the future keeps what has arrived.
    ///
    /// # Errors
    /// The fetch's own; what has arrived stays for the next attempt.
    pub async fn run(
        &mut self,
        peer: &Peer,
        route: Option<Route>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let ranges = match self.length {
            Some(length) if self.have == length => return Ok(()),
            Some(length) => Ranges::covering(self.have..length)?,
            None => Ranges::all(),
        };
        let options = FetchOptions { ranges, route, ..FetchOptions::default() };
        let mut fetch = peer.fetch(self.token, options).await?;
        let length = fetch.length();
        self.learn(length).map_err(ClientError::Sink)?;
        progress(self.have, length);
        while let Some(piece) = fetch.next().await {
            let piece = piece?;
            debug_assert_eq!(piece.offset, self.have, "pieces come in rising order");
            self.file.write_all(&piece.data).map_err(ClientError::Sink)?;
            self.have += piece.data.len() as u64;
            progress(self.have, length);
        }
        Ok(())
    }

    /// Gives the whole file its name. A resumed one is read and hashed once more first: what an earlier process wrote may not
    /// have survived a crash of the machine.
    ///
    /// # Errors
    /// When bytes are missing, when the part was damaged (it is removed; start again), or the disk's own.
    pub fn finish(mut self) -> Result<u64, ClientError> {
        let length = self.have;
        self.seal().map_err(|source| ClientError::File { path: self.part.display().to_string(), source })?;
        Ok(length)
    }

    fn seal(&mut self) -> io::Result<()> {
        if self.length != Some(self.have) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "bytes are missing; run the same command again",
            ));
        }
        if self.resumed && !self.matches_token()? {
            std::fs::remove_file(&self.part)?;
            std::fs::remove_file(&self.note)?;
            let text =
                "the part of an earlier attempt was damaged and has been removed; run the same command again";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.file.sync_all()?;
        std::fs::rename(&self.part, &self.output)?;
        std::fs::remove_file(&self.note)
    }

    fn learn(&mut self, length: u64) -> io::Result<()> {
        if self.length.is_some_and(|known| known != length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the gateway now names another length"));
        }
        if self.length.replace(length).is_none() {
            let text = serde_json::to_vec(&Note { token: self.token, length })?;
            std::fs::write(&self.note, text)?;
        }
        Ok(())
    }

    fn matches_token(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(0))?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(Token::from_root(*hasher.finalize().as_bytes()) == self.token),
                read => hasher.update(&buffer[..read]),
            };
        }
    }
}

/// Of a part of this length, the bytes that are whole groups: a torn last one is fetched again.
fn whole_groups(part: u64, length: u64) -> u64 {
    if part >= length { length } else { part - part % GROUP_BYTES as u64 }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
