//! Payloads and sets of the store, open for reading.

use super::database::RowBytes;
use super::disk::StoreDisk;
use super::error::StoreError;
use super::open_files::{OpenFor, ReadFile};
use super::reader::BlockSource;
use crate::limits::{PAYLOAD_BYTES_MAX, ROW_PAIRS_BYTES_MAX};
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{Outboard, OutboardError, Token, outboard_bytes};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Outboards up to this size are read whole when a payload is opened, bytes; larger ones are read from their files.
const OUTBOARD_IN_MEMORY_BYTES_MAX: u64 = 4096;

/// A payload, or a blob of a set, open for reading. It is cheap to clone, and stays readable after the store has removed it, unless its files
/// were closed for those of other readers.
///
/// If a set's blob is not held whole, it has only the shards of the lanes held, and the hash pairs above them. An encoder may ask
/// for those alone.
#[derive(Clone, Debug)]
pub struct OpenPayload {
    token: Token,
    length: u64,
    /// For a set's files, which grow, their generation; otherwise the inode of the payload's file, which another file may replace, or the
    /// number of its row.
    generation: u64,
    whole: bool,
    disk: StoreDisk,
    blob: BlobBytes,
    /// The blob, past the page cache; `None` once it cannot be read so.
    direct: Arc<OnceLock<Option<ReadFile>>>,
    outboard: Outboard,
    /// The file of an outboard that is not in memory.
    pairs: Option<Arc<ReadFile>>,
}

/// Where the hash pairs of a payload are.
#[derive(Clone, Copy)]
pub(super) enum PairsAt<'a> {
    File(&'a Path),
    Row(&'a RowBytes),
}

impl<'a> PairsAt<'a> {
    fn path(self, blob: &'a Path) -> &'a Path {
        match self {
            Self::File(path) => path,
            Self::Row(_) => blob,
        }
    }
}

#[derive(Clone, Debug)]
enum BlobBytes {
    File(Arc<ReadFile>),
    Row(RowBytes),
}

impl BlobBytes {
    fn read(&self, disk: &StoreDisk, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.with(|file| disk.0.read(file, out, offset)),
            Self::Row(row) => row.read(offset, out),
        }
    }
}

/// What is read of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PayloadPart {
    /// Its bytes.
    Blob,
    /// Its hash pairs, if they are not in memory.
    Pairs,
}

impl OpenPayload {
    /// Opens a blob, a file, and its outboard; `None` if one is missing or has the wrong size. The `generation` of a whole
    /// payload is 0.
    pub(super) fn open(
        disk: &StoreDisk,
        token: Token,
        generation: u64,
        (blob_path, pairs): (&Path, PairsAt<'_>),
        by: OpenFor<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let (blob, metadata) = match ReadFile::open(&*disk.0, blob_path, by) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", blob_path, error)),
        };
        if !metadata.is_file() {
            return Ok(None);
        }
        let (length, whole) = (metadata.len(), generation == 0);
        let generation = if whole { metadata.ino() } else { generation };
        let (outboard, pairs) = match open_outboard(disk, pairs, length, by) {
            Ok(opened) => opened,
            // A crash between two renames: the payload is not held.
            Err(OutboardError::Size { .. } | OutboardError::TooLong(_)) => return Ok(None),
            Err(OutboardError::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("read", pairs.path(blob_path), io::Error::other(error))),
        };
        let (disk, blob, direct) = (disk.clone(), BlobBytes::File(blob.into()), Arc::default());
        Ok(Some(Self { token, length, generation, whole, disk, blob, direct, outboard, pairs }))
    }

    /// A payload of at most one group, in a row with this number.
    pub(super) fn of_row(
        disk: &StoreDisk,
        (token, length): (Token, u64),
        number: u64,
        row: RowBytes,
    ) -> Result<Self, StoreError> {
        let outboard = Outboard::from_bytes(length, bytes::Bytes::new());
        let outboard = outboard
            .map_err(|error| StoreError::io("read", Path::new(&token.hex()), io::Error::other(error)))?;
        let (disk, blob, direct) = (disk.clone(), BlobBytes::Row(row), Arc::default());
        Ok(Self { token, length, generation: number, whole: true, disk, blob, direct, outboard, pairs: None })
    }

    /// The blob's token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The blob's length, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The blob's hash pairs.
    pub fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// Whether it is a whole payload.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// A number that changes if another file replaces this one, or lanes are added to it.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Fills `out` with the payload bytes from `offset` on.
    ///
    /// # Errors
    /// An error of the disk; [`io::ErrorKind::UnexpectedEof`] past the payload's end.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.blob.read(&self.disk, offset, out)
    }

    /// Has the kernel forget these bytes of the payload, if it has read them.
    pub(super) fn forget_cached(&self, offset: u64, len: usize) {
        let BlobBytes::File(file) = &self.blob else { return };
        let len = std::num::NonZeroU64::new(len as u64);
        // What it does not forget takes memory until the kernel needs it.
        let _ = file.with(|file| Ok(rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::DontNeed)?));
    }

    /// The length of a part, bytes.
    pub(super) fn part_len(&self, part: PayloadPart) -> u64 {
        match part {
            PayloadPart::Blob => self.length,
            PayloadPart::Pairs => outboard_bytes(self.length),
        }
    }

    /// The disk with its files.
    pub(super) fn disk(&self) -> &StoreDisk {
        &self.disk
    }
}

/// A payload's part as blocks are read from it.
pub(super) struct PartSource(pub(super) OpenPayload, pub(super) PayloadPart);

impl PartSource {
    fn part(&self) -> Option<&ReadFile> {
        match (self.1, &self.0.blob) {
            (PayloadPart::Blob, BlobBytes::File(file)) => Some(file),
            (PayloadPart::Blob, BlobBytes::Row(_)) => None,
            (PayloadPart::Pairs, _) => self.0.pairs.as_deref(),
        }
    }
}

impl BlockSource for PartSource {
    fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        match self.part() {
            Some(part) => part.with(|file| self.0.disk.0.read(file, out, start)),
            None => self.0.read(start, out),
        }
    }

    fn is_file(&self) -> bool {
        self.part().is_some()
    }

    fn file(&self) -> io::Result<Arc<File>> {
        self.part().ok_or(io::ErrorKind::NotFound)?.file()
    }

    fn direct(&self) -> Option<Arc<File>> {
        let blob = self.part().filter(|_| self.1 == PayloadPart::Blob)?;
        self.0.direct.get_or_init(|| blob.direct()).as_ref()?.file().ok()
    }
}

/// Lanes of a set, open for reading.
#[derive(Clone, Debug)]
pub struct OpenSet {
    /// The set's descriptor.
    pub descriptor: Descriptor,
    /// The lanes held.
    pub lanes: Lanes,
    /// The payload's blob, as far as `lanes` cover it; `None` if none of its bytes are held.
    pub content: Option<OpenPayload>,
    /// The parity blob, as far as `lanes` cover it; `None` if none of its bytes are held.
    pub parity: Option<OpenPayload>,
}

impl OpenSet {
    /// One of the two blobs.
    pub fn blob(&self, blob: Blob) -> Option<&OpenPayload> {
        match blob {
            Blob::Content => self.content.as_ref(),
            Blob::Parity => self.parity.as_ref(),
        }
    }
}

fn open_outboard(
    disk: &StoreDisk,
    at: PairsAt<'_>,
    length: u64,
    by: OpenFor<'_>,
) -> Result<(Outboard, Option<Arc<ReadFile>>), OutboardError> {
    let path = match at {
        PairsAt::File(path) => path,
        PairsAt::Row(row) => {
            let mut pairs = vec![0; outboard_bytes(length).min(ROW_PAIRS_BYTES_MAX) as usize];
            row.read(0, &mut pairs)?;
            return Ok((Outboard::from_bytes(length, pairs.into())?, None));
        }
    };
    match outboard_bytes(length.min(PAYLOAD_BYTES_MAX)) {
        0 => Ok((Outboard::from_bytes(length, bytes::Bytes::new())?, None)),
        1..=OUTBOARD_IN_MEMORY_BYTES_MAX => {
            let file = by.open(&*disk.0, path)?;
            // One that is longer has the wrong size.
            let len = file.metadata()?.len().min(OUTBOARD_IN_MEMORY_BYTES_MAX + 1);
            let mut pairs = vec![0; len as usize];
            by.read(&file, &mut pairs)?;
            Ok((Outboard::from_bytes(length, pairs.into())?, None))
        }
        _ => {
            let (file, metadata) = ReadFile::open(&*disk.0, path, by)?;
            let file = Arc::new(file);
            Ok((Outboard::from_reader(length, file.clone(), metadata.len())?, Some(file)))
        }
    }
}

/// The results of reads and checks on a disk that is slow or cannot read.
#[cfg(test)]
mod tests {
    use crate::seed::tests::put;
    use crate::seed::{
        CheckResult, DamageOutcome, Disk, MemoryPages, MemoryTier, Store, StoreConfig, Urgency,
    };
    use crate::token::Token;
    use rustix::io::Errno;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Barrier, Mutex};
    use std::time::{Duration, Instant};

    #[derive(Debug, Default)]
    struct BrokenDisk {
        error: Mutex<Option<Errno>>,
        /// The next read meets a test twice, before it goes on.
        slow: Mutex<Option<Arc<Barrier>>>,
    }

    impl Disk for BrokenDisk {
        fn read(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
            let slow = self.slow.lock().unwrap().take();
            if let Some(meet) = slow {
                meet.wait();
                meet.wait();
            }
            let error = *self.error.lock().unwrap();
            error.map_or_else(|| file.read_exact_at(out, offset), |error| Err(error.into()))
        }
    }

    fn open() -> (tempfile::TempDir, Arc<BrokenDisk>, Store) {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::<BrokenDisk>::default());
        let store = Store::open_on(dir.path(), StoreConfig::default(), disk.clone()).unwrap();
        (dir, disk, store)
    }

    fn check(store: &Store, token: Token) -> CheckResult {
        let (send, receive) = channel();
        assert!(
            store.check(token, Instant::now(), Urgency::RequestWaits, move |_, found| send
                .send(found)
                .unwrap())
        );
        receive.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    /// A store that holds a payload whose reads fail from now on.
    fn broken(seed: u8, error: Errno) -> (tempfile::TempDir, Arc<BrokenDisk>, Store, Vec<u8>, Token) {
        let (dir, disk, store) = open();
        let data = vec![seed; 100_000];
        put(&store, &data);
        let token = Token::of(&data);
        assert_eq!(check(&store, token), CheckResult::Whole);
        *disk.error.lock().unwrap() = Some(error);
        (dir, disk, store, data, token)
    }

    #[test]
    fn the_memory_tier_is_open_to_others_while_the_disk_reads_for_one() {
        let (_dir, disk, store) = open();
        let (slow, quick) = (vec![7; 100_000], vec![8; 100_000]);
        put(&store, &slow);
        put(&store, &quick);
        let [slow_held, quick_held] =
            [&slow, &quick].map(|data| store.get(&Token::of(data)).unwrap().unwrap());
        let tier = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
        let meet = Arc::new(Barrier::new(2));
        *disk.slow.lock().unwrap() = Some(meet.clone());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| tier.read(&slow_held, 0, 10).unwrap());
            meet.wait();
            // The disk is at work now.
            assert!(tier.try_stats().is_some(), "no lock is held meanwhile");
            assert_eq!(tier.read(&quick_held, 5, 10).unwrap(), quick[5..15]);
            meet.wait();
            assert_eq!(reader.join().unwrap(), slow[..10]);
        });
        let stats = tier.stats();
        assert_eq!((stats.misses, stats.blocks, stats.held_bytes), (2, 2, 200_000));
    }

    #[test]
    fn a_payload_on_a_failing_disk_is_set_aside_and_reported_and_may_be_put_again() {
        let (dir, disk, store, data, token) = broken(1, Errno::IO);
        assert_eq!(check(&store, token), CheckResult::Damaged);
        let damage = store.damage();
        assert_eq!((damage.set_aside, damage.left, damage.latest.len()), (1, 0, 1));
        assert!(damage.latest[0].reason.contains("cannot be read: Input/output error"), "{damage:?}");
        assert!(store.get(&token).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path().join("damaged")).unwrap().count(), 1);
        *disk.error.lock().unwrap() = None;
        put(&store, &data);
        assert_eq!(check(&store, token), CheckResult::Whole);
    }

    #[test]
    fn a_payload_that_this_process_may_not_read_stays_and_is_reported_with_the_fix() {
        for (seed, error) in [(2, Errno::ACCESS), (3, Errno::PERM)] {
            let (dir, disk, store, _, token) = broken(seed, error);
            assert_eq!(check(&store, token), CheckResult::Unreadable);
            let damage = store.damage();
            assert_eq!((damage.set_aside, damage.left), (0, 1));
            let told = &damage.latest[0];
            assert_eq!(told.outcome, DamageOutcome::Left);
            assert!(told.reason.contains("look at the owner and the rights"), "{told:?}");
            assert!(!dir.path().join("damaged").exists());
            *disk.error.lock().unwrap() = None;
            assert_eq!(check(&store, token), CheckResult::Whole, "nothing was lost");
        }
    }
}
