//! A disk that fails, and that forgets: a model of what a file system keeps after a crash, beside the real files that the store sees.
//!
//! Bytes that were written to a file and not synced survive a crash wholly, in parts of sectors, or not at all. A change of a name survives if
//! its directory was synced after it; of the others, those before an instant do. On an ordered disk (ext4, XFS) each sync takes all earlier
//! changes of names along; on another it takes those of its own directory alone. A rename is one change.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use stoq::seed::{Disk, MachineDisk};

/// The smallest part of a write that a crash keeps or loses, bytes.
const SECTOR_BYTES: u64 = 512;
/// What a mutant adds to each file, bytes.
const BEHIND_END_BYTES: u64 = 64 * 1024;
/// A block of zeros is a hole.
const BLOCK_BYTES: usize = 4096;
/// `errno` of a full disk, of one that fails, and of one that may not be written.
pub(crate) const NO_SPACE: i32 = 28;
pub(crate) const FAILURE: i32 = 5;
pub(crate) const READ_ONLY: i32 = 30;

/// What befalls the disk, counted in its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Nothing more is changed from this one on.
    Crash(u64),
    /// From this one on, this number of changes fails with this `errno`.
    Fails(u64, u64, i32),
}

/// A fault of the disk itself, by which the checks show that they can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskMutant {
    /// Syncs of files make nothing durable.
    DroppedSync,
    /// Syncs of directories make nothing durable.
    DroppedDirectorySync,
    /// Files take blocks behind their ends, which no account is charged for.
    BlocksBehindEnds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Debug)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
}

/// A file's bytes on the disk, and its changes since.
#[derive(Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug)]
struct NameChange {
    names: Vec<(PathBuf, Option<Node>)>,
    durable: bool,
}

#[derive(Debug)]
struct Model {
    random: StdRng,
    steps: u64,
    fault: Fault,
    /// Whether a sync takes all earlier changes of names along.
    ordered: bool,
    mutant: Option<DiskMutant>,
    /// The bytes of a journal after which the database takes it over.
    journal_bytes_max: u64,
    takes_over_beside: bool,
    files: Vec<Contents>,
    inodes: HashMap<u64, usize>,
    /// The names when the disk was made, those of now, and the changes between.
    first: BTreeMap<PathBuf, Node>,
    now: BTreeMap<PathBuf, Node>,
    changes: Vec<NameChange>,
}

/// The disk of one store.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    root: PathBuf,
    model: Mutex<Model>,
}

impl FaultyDisk {
    /// A disk with the files that are below `root`, all of them durable.
    pub(crate) fn new(root: &Path, seed: u64, fault: Fault, mutant: Option<DiskMutant>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model {
            ordered: random.random(),
            journal_bytes_max: [0, 8192, 40_000, u64::MAX][random.random_range(0..4)],
            takes_over_beside: false,
            random,
            steps: 0,
            fault,
            mutant,
            files: Vec::new(),
            inodes: HashMap::new(),
            first: BTreeMap::new(),
            now: BTreeMap::new(),
            changes: Vec::new(),
        };
        model.find(root, root);
        model.first = model.now.clone();
        Self { root: root.to_owned(), model: Mutex::new(model) }
    }

    /// The same, with a journal of no more than this many bytes.
    pub(crate) fn with_journal_up_to(self, bytes_max: u64) -> Self {
        let mut model = self.model();
        model.journal_bytes_max = model.journal_bytes_max.min(bytes_max);
        drop(model);
        self
    }

    /// The same, with a journal of this many bytes that is taken over on another thread: the order of changes is not drawn.
    pub(crate) fn with_take_overs_beside(self, journal_bytes_max: u64) -> Self {
        let mut model = self.model();
        model.journal_bytes_max = journal_bytes_max;
        model.takes_over_beside = true;
        drop(model);
        self
    }

    /// Changes so far.
    pub(crate) fn steps(&self) -> u64 {
        self.model().steps
    }

    /// What the model of the disk keeps, bytes.
    pub(crate) fn model_bytes(&self) -> usize {
        let change = |change: &Change| match change {
            Change::Length(_) => size_of::<Change>(),
            Change::Write(_, bytes) => size_of::<Change>() + bytes.capacity(),
        };
        let file = |file: &Contents| file.durable.capacity() + file.pending.iter().map(change).sum::<usize>();
        self.model().files.iter().map(file).sum()
    }

    /// From now on the disk makes no change.
    pub(crate) fn crash(&self) {
        let mut model = self.model();
        model.fault = Fault::Crash(model.steps);
    }

    /// After this number of changes more the disk makes none.
    pub(crate) fn crash_in(&self, steps: u64) {
        let mut model = self.model();
        if model.fault == Fault::None {
            model.fault = Fault::Crash(model.steps + steps);
        }
    }

    /// Whether it makes no change, now or soon.
    pub(crate) fn is_dead(&self) -> bool {
        self.model().fault != Fault::None
    }

    /// Writes what a crash at this moment leaves below another directory, which must be empty.
    pub(crate) fn survivors(&self, into: &Path, seed: u64) {
        let model = self.model();
        let mut random = StdRng::seed_from_u64(seed);
        let changes = model.changes.len();
        // Often none that was not synced, or all.
        let kept = [0, changes, random.random_range(0..=changes)][random.random_range(0..3)];
        let mut names = model.first.clone();
        for (number, change) in model.changes.iter().enumerate() {
            if number < kept || change.durable {
                for (path, node) in &change.names {
                    set(&mut names, path, *node);
                }
            }
        }
        let contents: Vec<_> = model.files.iter().map(|file| file.after_crash(&mut random)).collect();
        let mut made = HashMap::new();
        for (path, node) in &names {
            let to = into.join(path);
            // A name in a directory that was lost is lost with it.
            if !to.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match node {
                Node::Directory => fs::create_dir(&to).unwrap(),
                Node::File(file) => match made.get(file) {
                    Some(first) => fs::hard_link(first, &to).unwrap(),
                    None => {
                        write_sparsely(&to, &contents[*file]);
                        made.insert(*file, to);
                    }
                },
            }
        }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).expect("the store stays in its directory").to_owned()
    }

    /// Makes one change, unless a fault stops it.
    fn change<T>(
        &self,
        make: impl FnOnce() -> io::Result<T>,
        note: impl FnOnce(&mut Model, &T),
    ) -> io::Result<T> {
        let mut model = self.model();
        model.step()?;
        let made = make()?;
        note(&mut model, &made);
        Ok(made)
    }
}

impl Model {
    /// Finds files on the real disk.
    fn find(&mut self, root: &Path, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                self.now.insert(name, Node::Directory);
                self.find(root, &path);
            } else {
                let file = self.file(&File::open(&path).unwrap());
                self.files[file].durable = fs::read(&path).unwrap();
                self.now.insert(name, Node::File(file));
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let step = self.steps;
        let errno = match self.fault {
            Fault::Crash(at) if step >= at => return Err(io::Error::from_raw_os_error(FAILURE)),
            Fault::Fails(at, count, errno) if (at..at + count).contains(&step) => Some(errno),
            _ => None,
        };
        self.steps += 1;
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// The number of an open file.
    fn file(&mut self, file: &File) -> usize {
        let inode = file.metadata().unwrap().ino();
        *self.inodes.entry(inode).or_insert_with(|| {
            self.files.push(Contents::default());
            self.files.len() - 1
        })
    }

    fn rename(&mut self, names: Vec<(PathBuf, Option<Node>)>) {
        names.iter().for_each(|(path, node)| set(&mut self.now, path, *node));
        self.changes.push(NameChange { names, durable: false });
    }

    /// Makes the names in one directory durable; on an ordered disk, all names.
    fn sync_names(&mut self, directory: Option<&Path>) {
        for change in &mut self.changes {
            let is_in = |(path, _): &(PathBuf, _)| path.parent() == directory;
            change.durable |= self.ordered || directory.is_some() && change.names.iter().any(is_in);
        }
    }
}

/// Writes a file with its holes.
fn write_sparsely(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in
        bytes.chunks(BLOCK_BYTES).enumerate().filter(|(_, block)| block.iter().any(|&b| b != 0))
    {
        file.write_all_at(block, (number * BLOCK_BYTES) as u64).unwrap();
    }
}

fn set(names: &mut BTreeMap<PathBuf, Node>, path: &Path, node: Option<Node>) {
    match node {
        Some(node) => drop(names.insert(path.to_owned(), node)),
        None => drop(names.remove(path)),
    }
}

impl Change {
    /// Makes the change, as far as `keeps` keeps each of its sectors.
    fn apply(&self, bytes: &mut Vec<u8>, mut keeps: impl FnMut() -> bool) {
        match self {
            Self::Length(length) => {
                if keeps() {
                    bytes.resize(*length as usize, 0);
                }
            }
            Self::Write(offset, written) => {
                let (mut at, end) = (*offset, *offset + written.len() as u64);
                while at < end {
                    let to = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
                    if keeps() {
                        bytes.resize(bytes.len().max(to as usize), 0);
                        let part = (at - offset) as usize..(to - offset) as usize;
                        bytes[at as usize..to as usize].copy_from_slice(&written[part]);
                    }
                    at = to;
                }
            }
        }
    }
}

impl Contents {
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable, || true);
        }
    }

    /// A failed sync: the bytes that have not arrived are not written again by a later one.
    fn lose(&mut self, random: &mut StdRng) {
        self.durable = self.after_crash(random);
        self.pending.clear();
    }

    fn after_crash(&self, random: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        // Most files keep all or nothing of it; others keep parts.
        let share = [0.0, 1.0, 0.5, 0.9][random.random_range(0..4)];
        for change in &self.pending {
            change.apply(&mut bytes, || random.random_bool(share));
        }
        bytes
    }
}

impl Disk for FaultyDisk {
    fn journal_bytes_max(&self) -> u64 {
        self.model().journal_bytes_max
    }

    fn takes_over_beside(&self) -> bool {
        self.model().takes_over_beside
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let name = self.relative(path);
        self.change(
            || MachineDisk.create(path),
            |model, file| {
                model.inodes.remove(&file.metadata().unwrap().ino());
                let file = model.file(file);
                model.rename(vec![(name, Some(Node::File(file)))]);
            },
        )
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        self.change(
            || MachineDisk.set_length(file, length),
            |model, ()| {
                if model.mutant == Some(DiskMutant::BlocksBehindEnds) {
                    fallocate(file, FallocateFlags::KEEP_SIZE, length, BEHIND_END_BYTES).unwrap();
                }
                let file = model.file(file);
                model.files[file].pending.push(Change::Length(length));
            },
        )
    }

    fn allocate(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.change(|| MachineDisk.allocate(file, offset, len), |_, ()| {})
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(
            || MachineDisk.write(file, bytes, offset),
            |model, ()| {
                let file = model.file(file);
                model.files[file].pending.push(Change::Write(offset, bytes.to_vec()));
            },
        )
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut model = self.model();
        let stepped = model.step();
        let file = model.file(file);
        if stepped.is_err() {
            let Model { files, random, .. } = &mut *model;
            files[file].lose(random);
        } else if model.mutant != Some(DiskMutant::DroppedSync) {
            model.files[file].sync();
            model.sync_names(None);
        }
        stepped
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let names = [from, to].map(|path| self.relative(path));
        self.change(
            || MachineDisk.rename(from, to),
            |model, ()| {
                let [from, to] = names;
                let node = model.now.get(&from).copied();
                model.rename(vec![(from, None), (to, node)]);
            },
        )
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let names = [from, to].map(|path| self.relative(path));
        self.change(
            || MachineDisk.link(from, to),
            |model, ()| {
                let [from, to] = names;
                let node = model.now.get(&from).copied();
                model.rename(vec![(to, node)]);
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = self.relative(path);
        self.change(|| MachineDisk.remove(path), |model, ()| model.rename(vec![(name, None)]))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let name = self.relative(path);
        let made = |model: &mut Model, (): &()| model.rename(vec![(name, Some(Node::Directory))]);
        self.change(|| MachineDisk.create_directory(path), made)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let name = self.relative(path);
        self.change(
            || Ok(()),
            |model, ()| {
                if model.mutant != Some(DiskMutant::DroppedDirectorySync) {
                    model.sync_names(Some(&name));
                }
            },
        )
    }
}
