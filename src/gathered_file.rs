//! Gathers a payload, which arrives from several holders in any order, into a file.
//!
//! Until it is complete the file is called `FILE.part`, as a [`crate::download::Download`]'s is. It gets its name when every byte is
//! there, proven and read back; otherwise it is removed. Unlike a download, it begins anew each time.

use crate::client::{ClientError, Gathered, Gathering};
use crate::part_file::{NOT_AS_WRITTEN, PartFile, WriteOrder};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{AssembleError, Assembler};
use crate::token::{AnyToken, Token};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file that a gathering fills.
#[derive(Debug)]
pub struct GatheredFile {
    part: PartFile,
    /// The content token that the file must match; `None` until a set's descriptor is known.
    content: Option<Token>,
    length: u64,
    assembler: Option<Assembler>,
}

/// The result of a gathering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherSummary {
    /// The payload's length, bytes.
    pub length: u64,
    /// Whether some of it was decoded from parity.
    pub decoded: bool,
}

impl GatheredFile {
    /// Makes the file for the payload of `token`.
    ///
    /// # Errors
    /// [`ClientError::File`], with the fix: `output` exists already, another process writes to it, its directory cannot be
    /// written, or a file with the part's name is no part of a gathering.
    pub fn open(output: &Path, token: AnyToken) -> Result<Self, ClientError> {
        let part = PartFile::open(output, token, WriteOrder::Any)?;
        Ok(Self { part, content: token.content(), length: 0, assembler: None })
    }

    /// Writes everything that `gathering` gives, and decodes missing shards. `progress` gets the bytes so far and the payload's
    /// length.
    ///
    /// # Errors
    /// Those of [`Gathering::next`]; [`ClientError::Refused`] for a set whose shards do not give its payload; [`ClientError::Sink`] for
    /// shards that cannot be decoded; [`ClientError::File`] for the disk.
    pub async fn run(
        &mut self,
        gathering: &mut Gathering,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let mut have = 0;
        while let Some(gathered) = gathering.next().await {
            have += self.take(gathered?)?;
            progress(have.min(self.length), self.length);
        }
        Ok(())
    }

    /// Takes one event; returns its number of bytes.
    fn take(&mut self, gathered: Gathered) -> Result<u64, ClientError> {
        let mut bytes = 0;
        match gathered {
            Gathered::Described { length, descriptor } => {
                self.part.note()?;
                self.length = length;
                if let Some(set) = descriptor {
                    self.content = Some(set.content());
                    let file = self.clone_file()?;
                    self.assembler = Some(Assembler::new(set, file).map_err(|error| self.assembling(error))?);
                }
            }
            Gathered::Piece(piece) => {
                bytes = piece.data.len() as u64;
                let written = self.part.file().write_all_at(&piece.data, piece.offset);
                written.map_err(|error| self.part.failed(error))?;
            }
            Gathered::Shard { shard, blob, piece } => {
                bytes = piece.data.len() as u64;
                let taken = self.assembler.as_mut().map(|assembler| assembler.shard(shard, blob, &piece));
                taken.transpose().map_err(|error| self.assembling(error))?;
            }
            Gathered::Stripes { start, count, lanes } => {
                let decoded = self.assembler.as_mut().map(|assembler| assembler.stripes(start, count, lanes));
                decoded.transpose().map_err(|error| self.assembling(error))?;
            }
        }
        Ok(bytes)
    }

    /// Reads the whole file back, hashes it, and gives it its name. `checked` gets the bytes read. Dropping the future removes the file.
    ///
    /// [`ClientError::Refused`] for a set whose shards do not give its payload, which `gathering`'s client then remembers;
    /// [`ClientError::Stopped`] if nothing was gathered; [`ClientError::File`] if the file is not the payload, if another file has taken
    /// the name (it is not replaced, and the part stays), or if the disk failed.
    pub async fn finish(
        self,
        gathering: &Gathering,
        checked: impl FnMut(u64),
    ) -> Result<GatherSummary, ClientError> {
        let Self { part, content, length, assembler } = self;
        let decoded = assembler.as_ref().is_some_and(Assembler::decoded);
        let Some(content) = content else { return Err(ClientError::Stopped) };
        if part.holds(content, checked).await.map_err(|error| part.failed(error))? {
            part.give_name()?;
            return Ok(GatherSummary { length, decoded });
        }
        match assembler {
            // Every shard matched its token: the set's parity was not made from the payload.
            Some(assembler) if decoded => {
                gathering.mark_bad(assembler.set_token());
                Err(bad_descriptor())
            }
            _ => Err(part.discard(NOT_AS_WRITTEN)),
        }
    }

    fn clone_file(&self) -> Result<File, ClientError> {
        self.part.file().try_clone().map_err(|error| self.part.failed(error))
    }

    fn assembling(&self, error: AssembleError) -> ClientError {
        match error {
            AssembleError::File(error) => self.part.failed(error),
            AssembleError::BadDescriptor => bad_descriptor(),
            AssembleError::Coder(error) => ClientError::Sink(io::Error::other(error)),
        }
    }
}

fn bad_descriptor() -> ClientError {
    let reason = AssembleError::BadDescriptor.to_string();
    ClientError::Refused(ErrorRecord::new(ErrorCode::BadDescriptor, 0, reason))
}
