//! Long payloads that are written past the page cache.

use super::*;
use crate::limits::{DIRECT_WRITE_BYTES_MIN, PAGE_BYTES};
use crate::record::Mirror;
use crate::seed::direct_writer::{DirectEnd, DirectWrite, DirectWriter};
use crate::seed::writer::{MirrorBegun, NewBytes, WriteStep, Writer};
use crate::seed::written::WriteOutcome;
use bytes::Bytes;
use std::fs::OpenOptions;
use std::sync::mpsc::channel;

/// A directory on a disk, and not in memory as a rule.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

fn store(directory: &Path) -> Arc<Store> {
    Arc::new(Store::open(directory, StoreConfig::default()).unwrap())
}

/// A writer, and what it tells.
struct PutsUnderTest {
    writer: Writer,
    sleeper: Sleeper,
}

impl PutsUnderTest {
    fn of(store: &Arc<Store>) -> Self {
        let sleeper = Sleeper::default();
        Self { writer: Writer::start(store.clone(), sleeper.waker()).unwrap(), sleeper }
    }

    fn next(&self) -> (RequestId, WriteOutcome) {
        let begun = Instant::now();
        loop {
            if let Some(told) = self.writer.poll() {
                return told;
            }
            assert!(begun.elapsed() < PATIENCE);
            self.sleeper.sleep(Duration::from_millis(10), || false);
        }
    }

    /// Begins a payload.
    fn begin(&self, request: RequestId, token: Token, length: u64) {
        let mirror =
            Mirror { token: token.into(), lanes: crate::shard::Lanes::NONE, lease_s: 0, sources: Vec::new() };
        let begun = MirrorBegun { mirror, lease: Lease::default(), length, descriptor: None, over_s: 0 };
        assert!(self.writer.take(request, WriteStep::Mirror(Box::new(begun))));
        assert!(matches!(self.next(), (of, WriteOutcome::Begun) if of == request));
    }

    fn bytes(&self, request: RequestId, piece: VerifiedPiece) {
        assert!(self.writer.take(request, WriteStep::Bytes(NewBytes::Piece(piece), Charge::default())));
    }
}

fn request(number: u64) -> RequestId {
    RequestId::peer(ConnectionId { worker: 0, slot: 1, generation: 1 }, 4 * number)
}

/// A payload that is so long, and ends within a page.
fn long() -> Vec<u8> {
    payload(DIRECT_WRITE_BYTES_MIN as usize + 70_001, 3)
}

#[test]
fn a_long_payload_is_written_past_the_page_cache_and_each_of_its_pieces_is_told_of() {
    let directory = directory();
    let store = store(directory.path());
    let data = long();
    let (token, mut pieces) = pieces(&data);
    let writing = PutsUnderTest::of(&store);
    writing.begin(request(0), token, data.len() as u64);
    let count = pieces.len();
    // Pieces of two parts of the payload, one after the other: as of two connections.
    let second = pieces.split_off(count / 2);
    let mut second = second.into_iter();
    for piece in pieces {
        writing.bytes(request(0), piece);
        second.next().into_iter().for_each(|piece| writing.bytes(request(0), piece));
    }
    second.for_each(|piece| writing.bytes(request(0), piece));
    assert!(writing.writer.take(request(0), WriteStep::Commit(0)));
    let mut told = 0;
    loop {
        match writing.next() {
            (of, WriteOutcome::Bytes(_)) if of == request(0) => told += 1,
            (of, WriteOutcome::Ended(Ok((of_token, len)))) if of == request(0) => {
                assert_eq!((of_token, len), (token.into(), data.len() as u64));
                break;
            }
            _ => panic!("another result"),
        }
    }
    assert_eq!(told, count, "before its end");
    let (writes, is_there) = (store.writes(), store.inner.disk.direct_writer().is_there());
    assert_eq!((writes.in_flight, writes.failed), (0, 0));
    // Kernels and containers without io_uring, and file systems without such writes, get all through the page cache.
    assert_eq!(writes.written > 0, is_there, "{writes:?}");
    let mut back = vec![0; data.len()];
    let held = store.get(&token).unwrap().unwrap();
    held.read(0, &mut back).unwrap();
    assert!(back == data);
    assert!(writes.written <= count as u64);
    drop((held, writing));
    assert_eq!(store.requests_waiting(), 0);
}

#[test]
fn a_shorter_payload_stays_in_the_page_cache() {
    let directory = directory();
    let store = store(directory.path());
    let data = payload(DIRECT_WRITE_BYTES_MIN as usize - 1, 3);
    let (token, pieces) = pieces(&data);
    let writing = PutsUnderTest::of(&store);
    writing.begin(request(0), token, data.len() as u64);
    pieces.into_iter().for_each(|piece| writing.bytes(request(0), piece));
    assert!(writing.writer.take(request(0), WriteStep::Commit(0)));
    while !matches!(writing.next(), (_, WriteOutcome::Ended(Ok(_)))) {}
    assert_eq!(store.writes(), Default::default());
}

#[test]
fn pieces_of_a_payload_that_is_given_up_are_told_of_and_leave_no_file() {
    let directory = directory();
    let store = store(directory.path());
    let data = long();
    let (token, pieces) = pieces(&data);
    let writing = PutsUnderTest::of(&store);
    writing.begin(request(0), token, data.len() as u64);
    let count = pieces.len() / 2;
    pieces.into_iter().take(count).for_each(|piece| writing.bytes(request(0), piece));
    assert!(writing.writer.take(request(0), WriteStep::Abandon));
    for _ in 0..count {
        assert!(matches!(writing.next(), (_, WriteOutcome::Bytes(_))));
    }
    // The next one has its turn after the files went.
    writing.begin(request(1), token, data.len() as u64);
    let files = std::fs::read_dir(directory.path().join("tmp")).unwrap();
    assert_eq!(
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "blob")).count(),
        0
    );
}

/// What a write ends with.
fn ends(writer: &DirectWriter, file: &File, plain: &File, offset: u64, part: Bytes) -> io::Result<()> {
    let (told, result) = channel();
    let (file, plain) = (Arc::new(file.try_clone().unwrap()), Arc::new(plain.try_clone().unwrap()));
    let end = DirectEnd { plain, done: Box::new(move |result| told.send(result).unwrap()) };
    writer.write(DirectWrite { file, offset, parts: vec![part.slice(..100), part.slice(100..)], end });
    result.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_write_that_fails_is_told_of_and_one_that_the_file_system_refuses_goes_through_the_page_cache() {
    let directory = directory();
    let path = directory.path().join("file");
    let plain = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let writer = DirectWriter::new(true);
    if !writer.is_there() {
        return;
    }
    let data = Bytes::from(payload(3 * PAGE_BYTES, 1));
    let read_only = File::open(&path).unwrap();
    assert!(ends(&writer, &read_only, &plain, 0, data.clone()).is_err());
    assert!(writer.is_there(), "another file may be written");
    // Parts that are no pages: past the page cache there is no such write, but where the file system is memory.
    let direct = MachineDisk.open_to_write_direct(&path).unwrap_or_else(|_| plain.try_clone().unwrap());
    ends(&writer, &direct, &plain, 0, data.clone()).unwrap();
    let mut back = vec![0; data.len()];
    plain.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, data);
    writer.refuse(&io::ErrorKind::Unsupported.into());
    assert!(!writer.is_there());
    ends(&writer, &direct, &plain, 7, data.clone()).unwrap();
    plain.read_exact_at(&mut back, 7).unwrap();
    assert_eq!(back, data);
}

/// A disk whose files may not be written past the page cache after all.
#[derive(Debug)]
struct RefusingDisk;

impl Disk for RefusingDisk {
    fn open_to_write_direct(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn has_ring(&self) -> bool {
        true
    }
}

#[test]
fn a_disk_that_fails_ends_a_put_once_and_gives_every_piece_back() {
    let directory = directory();
    let store = Store::open_on(directory.path(), StoreConfig::default(), Arc::new(RefusingDisk)).unwrap();
    let store = Arc::new(store);
    if !store.inner.disk.direct_writer().is_there() {
        return;
    }
    let data = long();
    let (token, pieces) = pieces(&data);
    let writing = PutsUnderTest::of(&store);
    writing.begin(request(0), token, data.len() as u64);
    let count = pieces.len();
    pieces.into_iter().for_each(|piece| writing.bytes(request(0), piece));
    assert!(writing.writer.take(request(0), WriteStep::Commit(0)));
    let (mut told, mut ended) = (0, 0);
    while told < count || ended == 0 {
        match writing.next() {
            (_, WriteOutcome::Bytes(_)) => told += 1,
            (_, WriteOutcome::Ended(Err(error))) => {
                assert!(error.to_string().contains("write"), "{error}");
                ended += 1;
            }
            _ => panic!("another result"),
        }
    }
    assert_eq!((told, ended), (count, 1));
    assert!(store.writes().failed > 0 && store.get(&token).unwrap().is_none());
}
