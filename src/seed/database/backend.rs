//! The database's file, on the store's disk. Where it cannot be written, what is written stays in memory.

use crate::seed::disk::StoreDisk;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parts in which memory keeps what cannot be written, bytes.
const PART_BYTES: u64 = 4096;

/// The file. After `alive` was cleared every call fails.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    disk: StoreDisk,
    /// `None`: there is no file, and all of it is in memory.
    file: Option<File>,
    alive: Arc<AtomicBool>,
    /// What was written over the file; `None`: it is written into the file.
    over: Option<Mutex<Overlay>>,
}

/// The parts of a file that were written in memory, by their numbers.
#[derive(Debug, Default)]
struct Overlay {
    length: u64,
    /// Bytes of the file that still count: it may have been cut.
    file_length: u64,
    parts: HashMap<u64, Box<[u8; PART_BYTES as usize]>>,
}

impl DatabaseFile {
    /// A file that is read and written.
    pub(super) fn writable(path: &Path, disk: &StoreDisk, alive: &Arc<AtomicBool>) -> io::Result<Self> {
        let file = disk.0.open_to_change(path)?;
        Ok(Self { disk: disk.clone(), file: Some(file), alive: alive.clone(), over: None })
    }

    /// A file that is only read; a missing one is empty.
    pub(super) fn readable(path: &Path, disk: &StoreDisk, alive: &Arc<AtomicBool>) -> io::Result<Self> {
        let file = match File::open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let length = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|of| of.len()))?;
        let over = Overlay { length, file_length: length, parts: HashMap::default() };
        Ok(Self { disk: disk.clone(), file, alive: alive.clone(), over: Some(Mutex::new(over)) })
    }

    fn check(&self) -> io::Result<()> {
        if self.alive.load(Relaxed) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    fn over(over: &Mutex<Overlay>) -> MutexGuard<'_, Overlay> {
        over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of the file, with zeros behind its end.
    fn part(&self, number: u64, file_length: u64) -> io::Result<Box<[u8; PART_BYTES as usize]>> {
        let mut part = Box::new([0; PART_BYTES as usize]);
        let start = number * PART_BYTES;
        let there = file_length.saturating_sub(start).min(PART_BYTES) as usize;
        if let Some(file) = &self.file {
            file.read_exact_at(&mut part[..there], start)?;
        }
        Ok(part)
    }
}

/// The numbers of the parts that a range touches, and where each begins and ends within its part.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    (offset / PART_BYTES..end.div_ceil(PART_BYTES)).map(move |number| {
        let start = number * PART_BYTES;
        let from = offset.saturating_sub(start) as usize;
        (number, from..(end - start).min(PART_BYTES) as usize)
    })
}

impl redb::StorageBackend for DatabaseFile {
    fn len(&self) -> io::Result<u64> {
        self.check()?;
        match (&self.over, &self.file) {
            (Some(over), _) => Ok(Self::over(over).length),
            (None, Some(file)) => Ok(file.metadata()?.len()),
            (None, None) => Ok(0),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check()?;
        let Some(over) = &self.over else {
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            return file.read_exact_at(out, offset);
        };
        let over = Self::over(over);
        if offset + out.len() as u64 > over.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (number, within) in parts(offset, rest.len()) {
            let (now, later) = rest.split_at_mut(within.len());
            match over.parts.get(&number) {
                Some(part) => now.copy_from_slice(&part[within]),
                None => now.copy_from_slice(&self.part(number, over.file_length)?[within]),
            }
            rest = later;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.check()?;
        let Some(over) = &self.over else {
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            return self.disk.0.set_length(file, length);
        };
        let mut over = Self::over(over);
        over.length = length;
        over.file_length = over.file_length.min(length);
        over.parts.retain(|number, _| *number < length.div_ceil(PART_BYTES));
        let cut = (length % PART_BYTES) as usize;
        if cut > 0
            && let Some(last) = over.parts.get_mut(&(length / PART_BYTES))
        {
            last[cut..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        match (&self.over, &self.file) {
            (None, Some(file)) => self.disk.0.sync_data(file),
            _ => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let Some(over) = &self.over else {
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            return self.disk.0.write(file, data, offset);
        };
        let mut over = Self::over(over);
        let mut rest = data;
        for (number, within) in parts(offset, data.len()) {
            let (now, later) = rest.split_at(within.len());
            if !over.parts.contains_key(&number) {
                let part = self.part(number, over.file_length)?;
                over.parts.insert(number, part);
            }
            if let Some(part) = over.parts.get_mut(&number) {
                part[within].copy_from_slice(now);
            }
            rest = later;
        }
        over.length = over.length.max(offset + data.len() as u64);
        Ok(())
    }
}
