//! A payload that comes from several holders at once, in any order, on its way into a file.
//!
//! While it comes the file is called `FILE.gathering`. It gets its name when every byte is there and proven; otherwise it is
//! removed. Unlike a [`crate::download::Download`] it begins anew each time.

use crate::client::{ClientError, Gained, Gathering};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{AssembleError, Assembler};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file that is being filled.
#[derive(Debug)]
pub struct Collection {
    output: PathBuf,
    part: PathBuf,
    file: File,
}

/// What was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The payload's length, bytes.
    pub length: u64,
    /// Whether some of it was decoded from parity.
    pub decoded: bool,
}

impl Collection {
    /// Makes the file.
    ///
    /// # Errors
    /// When `output` exists already, or its directory cannot be written.
    pub fn open(output: &Path) -> Result<Self, ClientError> {
        if output.exists() {
            let text = "exists already; remove it, or give another --output";
            return Err(failed(output, io::Error::new(io::ErrorKind::AlreadyExists, text)));
        }
        let part = output.with_added_extension("gathering");
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(true).open(&part);
        let file = opened.map_err(|error| failed(&part, error))?;
        Ok(Self { output: output.into(), part, file })
    }

    /// Takes everything that `gathering` brings, decodes what is missing, and gives the file its name. `progress` hears how
    /// many bytes have come, and how long the payload is.
    ///
    /// # Errors
    /// The gathering's own; a set whose shards do not give its payload; the disk's.
    pub async fn run(
        self,
        gathering: &mut Gathering,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Collected, ClientError> {
        let (mut have, mut length) = (0, 0);
        let mut assembler: Option<Assembler> = None;
        while let Some(gained) = gathering.next().await {
            match gained? {
                Gained::Described { length: described, descriptor } => {
                    length = described;
                    assembler = match descriptor {
                        Some(set) => Some(Assembler::new(set, self.clone_file()?).map_err(assembling)?),
                        None => None,
                    };
                }
                Gained::Piece(piece) => {
                    have += piece.data.len() as u64;
                    self.file.write_all_at(&piece.data, piece.offset).map_err(ClientError::Sink)?;
                }
                Gained::Shard(shard, blob, piece) => {
                    have += piece.data.len() as u64;
                    if let Some(assembler) = &mut assembler {
                        assembler.shard(shard, blob, &piece).map_err(assembling)?;
                    }
                }
                Gained::Stripes(start, count, lanes) => {
                    if let Some(assembler) = &mut assembler {
                        assembler.stripes(start, count, lanes).map_err(assembling)?;
                    }
                }
            }
            progress(have.min(length), length);
        }
        let decoded = assembler.as_ref().is_some_and(Assembler::decoded);
        if let Some(assembler) = assembler {
            let set = assembler.set_token();
            let finished = assembler.finish();
            if let Err(AssembleError::BadDescriptor) = finished {
                gathering.mark_bad(set);
            }
            finished.map_err(assembling)?;
        }
        let named = self.file.sync_all().and_then(|()| std::fs::rename(&self.part, &self.output));
        named.map_err(|error| failed(&self.output, error))?;
        Ok(Collected { length, decoded })
    }

    fn clone_file(&self) -> Result<File, ClientError> {
        self.file.try_clone().map_err(ClientError::Sink)
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        // Once it has its name there is nothing under this one.
        let _ = std::fs::remove_file(&self.part);
    }
}

fn failed(path: &Path, source: io::Error) -> ClientError {
    ClientError::File { path: path.display().to_string(), source }
}

fn assembling(error: AssembleError) -> ClientError {
    match error {
        AssembleError::File(error) => ClientError::Sink(error),
        AssembleError::BadDescriptor => {
            ClientError::Refused(ErrorRecord::new(ErrorCode::BadDescriptor, 0, error.to_string()))
        }
        AssembleError::Coder(error) => ClientError::Sink(io::Error::other(error)),
    }
}
