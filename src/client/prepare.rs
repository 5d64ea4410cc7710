//! Makes a payload ready to be put: reads it once, hashes it and cuts it into shards.
//!
//! A verified encoding begins with hashes from the top of the tree. The payload's length is therefore needed before its first byte is
//! hashed, and its bytes are read again when they are sent. A file is read in place both times. An input without a length, or with a
//! wrong one, is first copied into a temporary file, its spool.

use super::ClientError;
use super::input::{FileStamp, From, Input, WINDOW_BYTES, read_full};
use super::payload::{Data, Prepared, Stored};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::shard::{Coded, CoderError, Descriptor, encode};
use crate::token::{Outboard, OutboardError, Token};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How a payload is made ready; the default is one lane, and temporary files in `TMPDIR` or /tmp.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// The shards, if the payload is to be sharded.
    pub sharding: Option<Sharding>,
    /// The directory for temporary files, which hold inputs without a length, and parity. They have no name, and are gone when the
    /// [`Prepared`] is dropped or the process ends in any way.
    pub spool: Option<PathBuf>,
    /// A file of at most this length is read into memory, and is closed then; 0: none. A sharded one is not.
    pub memory_bytes: u64,
}

/// The shape of a payload's stripes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// The length of a shard, bytes: a multiple of 16 KiB, 1 MiB at most.
    pub shard_bytes: u64,
    /// Data shards of a stripe, 1 to 64.
    pub data: u8,
    /// Parity shards of a stripe, 0 to 64.
    pub parity: u8,
}

impl Sharding {
    /// Refuses shards that no payload can have, before any input is read.
    ///
    /// # Errors
    /// [`ClientError::Shape`] if the shard size or a number of shards is out of its range.
    pub fn check(&self) -> Result<(), ClientError> {
        let mut nothing = io::empty();
        let coded = encode(&mut nothing, 0, self.shard_bytes, (self.data, self.parity), io::sink());
        coded.map(drop).map_err(ClientError::Shape)
    }
}

/// A payload that has been read to its end.
struct Hashed {
    token: Token,
    outboard: Outboard,
    coded: Option<(Option<Stored>, Descriptor)>,
}

/// The outcome of reading a file in place.
enum InPlace {
    Hashed(Box<Hashed>),
    /// The file has fewer bytes than the system says.
    Shorter,
    /// The file has more bytes than the system says. These were read past that length.
    Longer(Vec<u8>),
}

impl Input {
    /// Reads the input to its end, hashes it, and cuts it into shards if `options` say so. Blocks on the disk, or on the writer of a pipe.
    ///
    /// # Errors
    /// [`ClientError::File`] if the input cannot be read; [`ClientError::Changed`] if it is written to meanwhile;
    /// [`ClientError::Spool`] if a temporary file cannot be written; [`ClientError::Shape`] for shards that no payload can have.
    pub fn prepare(self, options: &PrepareOptions) -> Result<Prepared, ClientError> {
        self.read(options, true)
    }

    /// The descriptor of the input's set. No temporary file for parity is made.
    ///
    /// # Errors
    /// As for [`Input::prepare`], with [`ClientError::ChangedHashing`] in place of [`ClientError::Changed`]; and
    /// [`ClientError::Record`] for a payload longer than the protocol allows.
    pub fn describe(self, options: &PrepareOptions) -> Result<Descriptor, ClientError> {
        match self.read(options, false) {
            Err(ClientError::Changed { path }) => Err(ClientError::ChangedHashing { path }),
            other => other?.descriptor(),
        }
    }

    fn read(self, options: &PrepareOptions, keeps_parity: bool) -> Result<Prepared, ClientError> {
        let preparing = Preparing { name: &self.name.clone(), options, keeps_parity };
        options.sharding.as_ref().map_or(Ok(()), Sharding::check)?;
        match self.from {
            From::File { file, length, watch } => preparing.file(file, length, watch),
            other => {
                let mut reader = other.reader().map_err(|source| preparing.failed(source))?;
                preparing.stream(&mut reader)
            }
        }
    }
}

struct Preparing<'a> {
    name: &'a str,
    options: &'a PrepareOptions,
    keeps_parity: bool,
}

impl Preparing<'_> {
    fn failed(&self, source: io::Error) -> ClientError {
        ClientError::File { path: self.name.into(), source }
    }

    fn file(&self, mut file: File, length: u64, watch: FileStamp) -> Result<Prepared, ClientError> {
        if let Some(prepared) = self.in_memory(&mut file, length, &watch)? {
            return Ok(prepared);
        }
        let found = self.in_place(&mut file, length)?;
        if watch.has_changed(&file).map_err(|source| self.failed(source))? {
            return Err(ClientError::Changed { path: self.name.into() });
        }
        let prepared = match found {
            InPlace::Hashed(hashed) => {
                let data = Data::File { file, path: self.name.into(), watch: Some(watch) };
                return Ok(hashed.with(data, length));
            }
            // The claimed length was 0: all bytes read are in `read`. A file that cannot be read from its start again loses none.
            InPlace::Longer(read) if length == 0 => self.stream(&mut (&read[..]).chain(&file))?,
            InPlace::Longer(_) | InPlace::Shorter => {
                file.seek(SeekFrom::Start(0)).map_err(|source| self.failed(source))?;
                self.stream(&mut &file)?
            }
        };
        match watch.has_changed(&file).map_err(|source| self.failed(source))? {
            true => Err(ClientError::Changed { path: self.name.into() }),
            false => Ok(prepared),
        }
    }

    /// Reads a short file into memory; `None` if it is long, or has another length than the system says.
    fn in_memory(
        &self,
        file: &mut File,
        length: u64,
        watch: &FileStamp,
    ) -> Result<Option<Prepared>, ClientError> {
        // A file of the length 0 may have bytes nevertheless, and be such that it can be read once.
        if length == 0 || length > self.options.memory_bytes || self.options.sharding.is_some() {
            return Ok(None);
        }
        let mut read = || {
            let mut bytes = vec![0; length as usize + 1];
            let len = read_full(file, &mut bytes)?;
            bytes.truncate(len);
            file.rewind()?;
            Ok(bytes)
        };
        let mut bytes = read().map_err(|source| self.failed(source))?;
        // Where the time may not tell that the file was written to while it was read, its bytes do.
        let is_same = !watch.is_blind() || read().map_err(|source| self.failed(source))? == bytes;
        if !is_same || watch.has_changed(file).map_err(|source| self.failed(source))? {
            return Err(ClientError::Changed { path: self.name.into() });
        }
        bytes.shrink_to_fit();
        Ok((bytes.len() as u64 == length).then(|| Prepared::bytes(bytes)))
    }

    fn in_place(&self, file: &mut File, length: u64) -> Result<InPlace, ClientError> {
        let Some(hashed) = self.hash(&mut *file, length)? else { return Ok(InPlace::Shorter) };
        let mut past_end = vec![0; WINDOW_BYTES];
        let read = read_full(file, &mut past_end).map_err(|source| self.failed(source))?;
        past_end.truncate(read);
        Ok(if read == 0 { InPlace::Hashed(Box::new(hashed)) } else { InPlace::Longer(past_end) })
    }

    /// Copies the input, up to its end, into a temporary file, and hashes that.
    fn stream(&self, reader: &mut dyn Read) -> Result<Prepared, ClientError> {
        let mut spool = self.temporary(self.name)?;
        let (mut reader, mut window, mut length) = (reader, vec![0; WINDOW_BYTES], 0);
        loop {
            let read = read_full(&mut reader, &mut window).map_err(|source| self.failed(source))?;
            spool.write_all(&window[..read]).map_err(|error| self.not_spooled(length, error))?;
            length += read as u64;
            if length > PAYLOAD_BYTES_MAX {
                return Err(self.failed(io::Error::other(OutboardError::TooLong(length))));
            }
            if read < window.len() {
                break;
            }
        }
        spool.rewind().map_err(|error| self.not_spooled(length, error))?;
        let hashed = self.hash(&mut spool, length)?;
        // The file has no name: no other program can shorten it.
        let hashed = hashed.ok_or_else(|| self.not_spooled(length, io::ErrorKind::UnexpectedEof.into()))?;
        let path = format!("the temporary file with {}", self.name);
        Ok(hashed.with(Data::File { file: spool, path, watch: None }, length))
    }

    /// Hashes `length` bytes and computes their parity; `None` if there are fewer bytes.
    fn hash(&self, reader: &mut File, length: u64) -> Result<Option<Hashed>, ClientError> {
        let ended = |error: &OutboardError| matches!(error, OutboardError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
        let unread = |error| match error {
            OutboardError::Io(error) => self.failed(error),
            other => self.failed(io::Error::other(other)),
        };
        let Some(Sharding { shard_bytes, data, parity }) = self.options.sharding else {
            return match Outboard::build(reader, length) {
                Ok((token, outboard)) => Ok(Some(Hashed { token, outboard, coded: None })),
                Err(error) if ended(&error) => Ok(None),
                Err(error) => Err(unread(error)),
            };
        };
        let kept = if self.keeps_parity && parity > 0 { Some(self.temporary("the parity")?) } else { None };
        let mut out: Box<dyn Write> = match &kept {
            Some(file) => Box::new(BufWriter::with_capacity(1 << 20, file)),
            None => Box::new(io::sink()),
        };
        let coded = encode(reader, length, shard_bytes, (data, parity), &mut out);
        let Coded { descriptor, content, parity } = match coded {
            Ok(coded) => coded,
            Err(CoderError::Payload(error)) if ended(&error) => return Ok(None),
            Err(CoderError::Payload(error)) => return Err(unread(error)),
            Err(CoderError::Write(error)) => return Err(self.no_parity(error)),
            Err(other) => return Err(ClientError::Shape(other)),
        };
        out.flush().map_err(|error| self.no_parity(error))?;
        drop(out);
        let parity = kept.zip(parity).map(|(file, outboard)| {
            let path = "the temporary file with the parity".into();
            Stored { data: Data::File { file, path, watch: None }, outboard }
        });
        let token = descriptor.content();
        Ok(Some(Hashed { token, outboard: content, coded: Some((parity, descriptor)) }))
    }

    fn directory(&self) -> PathBuf {
        self.options.spool.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Makes a file without a name. `what` names its contents in an error.
    fn temporary(&self, what: &str) -> Result<File, ClientError> {
        let directory = self.directory();
        tempfile::tempfile_in(&directory).map_err(|error| ClientError::Spool {
            what: what.into(),
            directory,
            error,
        })
    }

    fn not_spooled(&self, length: u64, error: io::Error) -> ClientError {
        let what = format!("more than {length} bytes of {}", self.name);
        ClientError::Spool { what, directory: self.directory(), error }
    }

    fn no_parity(&self, error: io::Error) -> ClientError {
        ClientError::Spool { what: "the parity".into(), directory: self.directory(), error }
    }
}

impl Hashed {
    fn with(self, data: Data, length: u64) -> Prepared {
        let Self { token, outboard, coded } = self;
        Prepared { content: Stored { data, outboard }, coded, token, length }
    }
}

impl Prepared {
    /// Hashes the input that `path` names, as one lane: [`Input::open`] and [`Input::prepare`]. Blocks on the disk, or on the writer of a pipe.
    ///
    /// # Errors
    /// Those of [`Input::open`] and [`Input::prepare`].
    pub fn file(path: &Path) -> Result<Self, ClientError> {
        Input::open(path)?.prepare(&PrepareOptions::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_stream_is_prepared_as_a_file_of_its_bytes_is() {
        let sharding = Some(Sharding { shard_bytes: 16_384, data: 3, parity: 2 });
        for len in [0, 1, WINDOW_BYTES, WINDOW_BYTES + 1, 2_000_000] {
            let mut bytes = vec![0; len];
            blake3::Hasher::new().update(b"stream").finalize_xof().fill(&mut bytes);
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            for sharding in [None, sharding] {
                let options = PrepareOptions { sharding, ..PrepareOptions::default() };
                let stream = || Input::reader("a stream", io::Cursor::new(bytes.clone()));
                let (streamed, filed) =
                    (stream().prepare(&options), Input::open(file.path()).unwrap().prepare(&options));
                let (streamed, filed) = (streamed.unwrap(), filed.unwrap());
                assert_eq!((streamed.token, streamed.length), (filed.token, len as u64));
                assert_eq!(streamed.descriptor().unwrap(), filed.descriptor().unwrap());
                assert_eq!(stream().describe(&options).unwrap(), filed.descriptor().unwrap());
                assert!(streamed.is_still_true().unwrap() && filed.is_still_true().unwrap());
            }
            let token = Input::reader("a stream", io::Cursor::new(bytes)).token().unwrap();
            assert_eq!(token, Input::open(file.path()).unwrap().token().unwrap());
        }
    }

    #[test]
    fn a_short_file_is_in_memory_and_a_longer_one_is_read_in_place() {
        let options = PrepareOptions { memory_bytes: 100, ..PrepareOptions::default() };
        for (len, in_memory) in [(0, false), (1, true), (100, true), (101, false)] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![7; len]).unwrap();
            let prepared = Input::open(file.path()).unwrap().prepare(&options).unwrap();
            assert_eq!((prepared.token, prepared.length), (Token::of(&vec![7; len]), len as u64));
            assert_eq!(matches!(prepared.content.data, Data::Memory(_)), in_memory, "{len}");
        }
        // The system says 0 for it, and it has bytes.
        let read = Input::open(Path::new("/proc/version")).unwrap().prepare(&options).unwrap();
        assert_eq!(read.token, Token::of(&std::fs::read("/proc/version").unwrap()));
        // Longer than the system said when it was opened.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 50]).unwrap();
        let input = Input::open(file.path()).unwrap();
        file.write_all(&[8; 10]).unwrap();
        assert!(matches!(input.prepare(&options), Err(ClientError::Changed { .. })));
    }

    #[test]
    fn a_stream_that_fails_is_reported_by_its_name() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the line went dead"))
            }
        }
        let input = || Input::reader("the line", (&[7; 100][..]).chain(Fails));
        let errors = [input().prepare(&PrepareOptions::default()).map(drop), input().token().map(drop)];
        for error in errors {
            assert!(matches!(error, Err(ClientError::File { path, .. }) if path == "the line"));
        }
    }

    #[test]
    fn shards_that_cannot_be_are_refused_before_anything_is_read() {
        struct Unread;
        impl Read for Unread {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("read")
            }
        }
        let sharding = Some(Sharding { shard_bytes: 16_384, data: 65, parity: 2 });
        let refused = Input::reader("unread", Unread)
            .prepare(&PrepareOptions { sharding, ..PrepareOptions::default() });
        assert!(matches!(refused, Err(ClientError::Shape(_))));
    }
}
