//! Requests to a seed whose disk hangs, errs, or is slow.

mod allocation;
mod ahead;
mod direct;
mod writes;

use super::{
    Clocks, Disk, Lease, MachineDisk, MemoryPages, MemoryTier, ReadsBy, Seed, SeedParts, Store, StoreConfig,
};
use crate::application::Application;
use crate::limits::{CONNECTION_READS_LEN_MAX, MEMORY_BLOCK_BYTES};
use crate::queue::{
    Answer, AppPort, Charge, Command, ConnectionId, Credit, Delivery, End, Ending, PeerRequest, RequestId,
    Sleeper, WorkerPort, rings,
};
use crate::record::{Fetch, Locate, Put, Request};
use crate::rights::StoreTerms;
use crate::shard::Descriptor;
use crate::token::{
    AnyToken, EncodedPiece, Outboard, Ranges, Token, VerifiedDecoder, VerifiedEncoder, VerifiedPiece,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

const BLOCK: usize = MEMORY_BLOCK_BYTES;
/// A test that waits for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// No calls.
const NOTHING: [&str; 0] = [];

/// A disk whose calls are answered when the test lets them.
#[derive(Debug, Default)]
struct HeldDisk {
    state: Mutex<HeldState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct HeldState {
    /// Reads of files that are as long as this hang; 0: none.
    hangs_from_bytes: u64,
    /// Whether writes of bytes hang, and openings to read of names with this in them.
    writes_hang: bool,
    openings_hang: Option<String>,
    /// The kernel has the names of files with this in them not in memory, and all others.
    cold: Option<String>,
    /// Calls that hang now.
    hanging: usize,
    /// Reads fail with this error, and so do changes.
    error: Option<Errno>,
    change_error: Option<Errno>,
    /// The thread that serves, and its calls.
    serving: Option<ThreadId>,
    by_serving: Vec<&'static str>,
}

impl HeldDisk {
    fn change(&self, change: impl FnOnce(&mut HeldState)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn hang(&self, bytes: u64) {
        self.change(|state| state.hangs_from_bytes = bytes);
    }

    fn hanging(&self) -> usize {
        self.state.lock().unwrap().hanging
    }

    /// Notes a call, and waits while it hangs. On the thread that serves it does not hang, so that the test can say so.
    fn call(&self, name: &'static str, hangs: impl Fn(&HeldState) -> bool) {
        let mut state = self.state.lock().unwrap();
        if state.serving == Some(std::thread::current().id()) {
            return state.by_serving.push(name);
        }
        state.hanging += 1;
        while hangs(&state) {
            state = self.changed.wait_timeout(state, PATIENCE).unwrap().0;
        }
        state.hanging -= 1;
    }

    fn make_change<T>(&self, name: &'static str, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.call(name, |_| false);
        let error = self.state.lock().unwrap().change_error;
        error.map_or_else(make, |error| Err(error.into()))
    }
}

impl Disk for HeldDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.make_change("create", || MachineDisk.create(path))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<File> {
        let is_held = |name: &String| path.to_string_lossy().contains(name);
        self.call("open", |state| state.openings_hang.as_ref().is_some_and(is_held));
        MachineDisk.open_to_read(path)
    }

    fn open_to_read_now(&self, path: &Path) -> io::Result<File> {
        let name = path.to_string_lossy();
        let state = self.state.lock().unwrap();
        match [&state.openings_hang, &state.cold].into_iter().flatten().any(|cold| name.contains(cold)) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => File::open(path),
        }
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        self.make_change("set length", || MachineDisk.set_length(file, length))
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call("write", |state| state.writes_hang);
        self.make_change("write", || MachineDisk.write(file, bytes, offset))
    }

    fn read(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
        let length = file.metadata()?.len();
        if let Some(error) = self.state.lock().unwrap().error {
            return Err(error.into());
        }
        self.call("read", |state| state.hangs_from_bytes > 0 && length >= state.hangs_from_bytes);
        file.read_exact_at(out, offset)
    }

    fn allocate(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.make_change("allocate", || MachineDisk.allocate(file, offset, len))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.make_change("sync", || MachineDisk.sync(file))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.make_change("link", || MachineDisk.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call("remove", |_| false);
        MachineDisk.remove(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.make_change("create directory", || MachineDisk.create_directory(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.make_change("sync directory", || MachineDisk.sync_directory(path))
    }

    fn available_bytes(&self, directory: &Path) -> io::Result<u64> {
        self.call("look for room", |_| false);
        MachineDisk.available_bytes(directory)
    }
}

/// Bytes that differ by `seed`.
fn payload(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 251) as u8 ^ (at as u8).wrapping_mul(31) ^ seed).collect()
}

/// A payload's token, and its verified pieces.
fn pieces(data: &[u8]) -> (Token, Vec<VerifiedPiece>) {
    let length = data.len() as u64;
    let (token, outboard) = Outboard::build(data, length).unwrap();
    let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
    let mut decoder = VerifiedDecoder::new(token, length, Ranges::all()).unwrap();
    let (mut batch, mut found) = (Vec::new(), Vec::new());
    while encoder.next_batch(1 << 20, &mut batch).unwrap() > 0 {
        for piece in batch.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                EncodedPiece::Data { offset, len } => decoder.push(&data[offset as usize..][..len]).unwrap(),
            }
        }
        found.extend(std::iter::from_fn(|| decoder.poll()));
    }
    (token, found)
}

/// Puts a payload into a store.
pub(super) fn put(store: &Store, data: &[u8]) -> Token {
    let (token, pieces) = pieces(data);
    let mut writer = store.begin(token, data.len() as u64, Lease::default(), 0).unwrap();
    pieces.iter().for_each(|piece| writer.write(piece).unwrap());
    writer.commit().unwrap();
    token
}

/// A seed, and a test that plays its worker.
struct Host {
    dir: tempfile::TempDir,
    disk: Arc<HeldDisk>,
    store: Arc<Store>,
    memory: MemoryTier,
    seed: Seed,
    port: AppPort,
    worker: WorkerPort,
    requests: u64,
    credits: HashMap<RequestId, Credit>,
    sent: HashMap<RequestId, Vec<u8>>,
    answers: HashMap<RequestId, Answer>,
    ended: HashMap<RequestId, Ending>,
}

impl Host {
    fn new(memory_bytes: usize) -> Self {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::<HeldDisk>::default());
        let store = Arc::new(Store::open_on(dir.path(), StoreConfig::default(), disk.clone()).unwrap());
        let memory = MemoryTier::new(memory_bytes as u64, MemoryPages::Ordinary);
        let parts = SeedParts {
            own: Some(crate::tls::NodeId([7; 32])),
            clocks: Clocks::system(),
            ..SeedParts::alone(store.clone(), memory.clone())
        };
        let (port, worker) = rings(Sleeper::default().waker());
        Self {
            dir,
            disk,
            store,
            memory,
            seed: Seed::new(parts, 0),
            port,
            worker,
            requests: 0,
            credits: HashMap::new(),
            sent: HashMap::new(),
            answers: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    /// Delivers a request of the connection in `slot`.
    fn ask(&mut self, slot: u32, request: Request) -> RequestId {
        let connection = ConnectionId { worker: 0, slot, generation: 1 };
        let id = RequestId::peer(connection, self.requests * 4);
        self.requests += 1;
        let credit = Credit::default();
        self.credits.insert(id, credit.clone());
        let asked = PeerRequest { request, node: None, early: false, credit, terms: StoreTerms::default() };
        self.worker.deliver(Delivery::Asked(id, Box::new(asked)));
        id
    }

    fn fetch(&mut self, slot: u32, token: Token) -> RequestId {
        let (token, ranges) = (AnyToken::from(token), Ranges::all());
        self.ask(slot, Request::Fetch(Fetch { token, bytes_max: 0, lanes: None, ranges, describe: false }))
    }

    /// Polls the seed and takes its commands, until `ready`.
    fn run(&mut self, mut ready: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !ready(self) {
            assert!(begun.elapsed() < PATIENCE, "the seed goes no further");
            let seed = &mut self.seed;
            let serving = |thread| self.disk.change(|state| state.serving = thread);
            self.port.poll_and_wait(Duration::from_millis(100), |port| {
                serving(Some(std::thread::current().id()));
                let worked = seed.poll(Instant::now(), port);
                serving(None);
                worked
            });
            while let Some(command) = self.worker.command() {
                match command {
                    Command::Bytes(request, bytes) => {
                        self.credits[&request].give_back(bytes.len());
                        self.sent.entry(request).or_default().extend_from_slice(&bytes);
                    }
                    Command::Answer(request, answer) => drop(self.answers.insert(request, *answer)),
                    Command::End(request, ending) => drop(self.ended.insert(request, ending)),
                    _ => {}
                }
            }
        }
    }

    /// The bytes of the answer to a FETCH of this payload.
    fn end(&mut self, request: RequestId, data: &[u8]) {
        self.run(|host| host.ended.contains_key(&request));
        assert!(matches!(self.ended[&request], Ending::Finish), "{:?}", self.ended[&request]);
        let (token, length) = (Token::of(data), data.len() as u64);
        let mut decoder = VerifiedDecoder::new(token, length, Ranges::all()).unwrap();
        decoder.push(&self.sent[&request]).unwrap();
        let mut got = Vec::new();
        while let Some(piece) = decoder.poll() {
            got.extend_from_slice(&piece.data);
        }
        assert!(decoder.is_complete() && got == data);
    }

    fn get(&mut self, slot: u32, data: &[u8]) {
        let request = self.fetch(slot, Token::of(data));
        self.end(request, data);
    }

    /// Asks to put a payload, and delivers its bytes once it is accepted, with their credit.
    fn begin_put(&mut self, slot: u32, data: &[u8], credit: &Credit) -> RequestId {
        let (token, pieces) = pieces(data);
        let descriptor = Descriptor::plain(token, data.len() as u64).unwrap();
        let put = Put { queue: 0, lease_s: 0, descriptor, lanes: None };
        let request = self.ask(slot, Request::Put(put));
        self.run(|host| host.answers.contains_key(&request));
        assert!(matches!(self.answers[&request], Answer::Ok(_)), "{:?}", self.answers[&request]);
        for piece in pieces {
            let charge = Charge::take(credit, piece.data.len());
            self.worker.deliver(Delivery::Piece { request, shard: None, piece, charge });
        }
        self.worker.deliver(Delivery::Ended(request, End::Checked));
        request
    }

    fn put(&mut self, slot: u32, data: &[u8]) {
        let request = self.begin_put(slot, data, &Credit::default());
        self.run(|host| matches!(host.answers.get(&request), Some(Answer::Done(_))));
    }

    /// Files that are being written.
    fn temporary(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("tmp")).unwrap().count()
    }
}

#[test]
fn a_hot_get_a_small_one_locate_and_put_end_while_the_disk_hangs_for_others() {
    let mut host = Host::new(64 << 20);
    let [hot, small, cold] = [payload(3 * BLOCK / 2, 1), payload(4096, 2), payload(3 * BLOCK, 3)];
    for data in [&hot, &small, &cold] {
        put(&host.store, data);
    }
    host.get(1, &hot);
    // The time was written down, which is done once, on the thread that serves.
    host.disk.change(|state| state.by_serving.clear());
    let held = host.disk.clone();
    held.hang(cold.len() as u64);
    // Four that hang: one on the connection of the hot GETs, before them.
    let hanging = [1, 2, 3, 4].map(|slot| host.fetch(slot, Token::of(&cold)));
    host.run(|host| host.disk.hanging() > 0);
    for _ in 0..3 {
        host.get(1, &hot);
        host.get(5, &hot);
        // From the disk first, which answers for others.
        host.get(5, &small);
    }
    let locate = host.ask(5, Request::Locate(Locate { token: Token::of(&cold).into() }));
    host.run(|host| matches!(host.answers.get(&locate), Some(Answer::Holders(_))));
    host.put(5, &payload(100, 4));
    assert!(hanging.iter().all(|request| !host.ended.contains_key(request)));
    assert!(held.hanging() > 0, "it still hangs");
    held.hang(0);
    for request in hanging {
        host.end(request, &cold);
    }
    assert_eq!(held.state.lock().unwrap().by_serving, NOTHING, "the thread that serves waits for no disk");
    let stats = host.memory.stats();
    assert_eq!(stats.coming, 0);
    // Each block was read once, for the four together: the cold payload's pairs are a block, the hot one's too.
    assert_eq!(stats.blocks, 2 + 1 + 1 + 3 + 1);
}

#[test]
fn a_connection_has_a_bounded_number_of_reads_and_gives_them_up_with_its_requests() {
    let mut host = Host::new(256 << 20);
    let payloads: Vec<_> = (0..41).map(|seed| payload(100_000, seed)).collect();
    for data in &payloads {
        put(&host.store, data);
    }
    host.disk.hang(100_000);
    let requests: Vec<_> = payloads[..40].iter().map(|data| host.fetch(1, Token::of(data))).collect();
    host.run(|host| host.memory.stats().coming == CONNECTION_READS_LEN_MAX as u64);
    // Of a payload that the first connection does not ask for: that one would wait for the same read, beside its own.
    let other = host.fetch(2, Token::of(&payloads[40]));
    host.run(|host| host.memory.stats().coming == CONNECTION_READS_LEN_MAX as u64 + 1);
    host.run(|host| host.store.requests_waiting() == CONNECTION_READS_LEN_MAX + 1);
    // The first is given up while it waits: its block comes all the same, and the next ones begin.
    host.worker.deliver(Delivery::Ended(
        requests[0],
        End::Failed(crate::record::ErrorRecord::new(crate::record::ErrorCode::Internal, 0, "given up")),
    ));
    host.disk.hang(0);
    host.end(other, &payloads[40]);
    for (request, data) in requests.into_iter().zip(&payloads).skip(1) {
        host.end(request, data);
    }
    // The block of the one that was given up may come last.
    host.run(|host| host.store.requests_waiting() == 0);
}

#[test]
fn a_read_that_fails_ends_its_request_and_the_payload_is_looked_into() {
    let mut host = Host::new(64 << 20);
    let long = payload(3 * BLOCK, 1);
    let token = put(&host.store, &long);
    host.disk.state.lock().unwrap().error = Some(Errno::IO);
    let request = host.fetch(1, token);
    host.run(|host| host.ended.contains_key(&request));
    let Ending::Refuse(failure) = &host.ended[&request] else { panic!("{:?}", host.ended[&request]) };
    assert_eq!(failure.code, crate::record::ErrorCode::Internal, "{failure:?}");
    host.run(|host| host.store.damage().set_aside == 1);
    assert!(host.store.get(&token).unwrap().is_none());
    assert!(host.store.reads().failed > 0 && host.store.reads().in_flight == 0);
}

#[test]
fn blocks_have_the_same_bytes_past_the_page_cache_and_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let memory = MemoryTier::new(16 << 20, MemoryPages::Ordinary);
    let data = payload(2 * BLOCK + 12_345, 1);
    let token = put(&store, &data);
    let path = dir.path().join("data").join(&token.hex()[..2]).join(format!("{}.blob", token.hex()));
    let mut before = store.reads();
    let is_there =
        |block: usize| disk_ring::is_cached(&File::open(&path).unwrap(), (block * BLOCK) as u64, 1).unwrap();
    let is_cached = |mut blocks: std::ops::Range<usize>| blocks.any(is_there);
    for round in 1..=4 {
        if round % 2 == 1 {
            // Where the file system has another store than the page cache, its pages go.
            let file = File::open(&path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        } else {
            // All of it is in the page cache.
            assert!(std::fs::read(&path).unwrap() == data);
        }
        let was_there = is_cached(0..3);
        let held = store.get(&token).unwrap().unwrap();
        let mut got = Vec::new();
        while got.len() < data.len() {
            got.extend_from_slice(&memory.read(&held, got.len() as u64, BLOCK).unwrap());
        }
        assert!(got == data, "{round}");
        memory.forget(&token);
        let reads = store.reads();
        assert_eq!(reads.cached + reads.direct + reads.buffered, 3 * round, "{reads:?}");
        if !was_there {
            // The page cache gave none of it, and has none of what was read past it.
            assert_eq!(reads.cached, before.cached, "{reads:?}");
            assert!(reads.direct < before.direct + 3 || !is_cached(0..3), "{reads:?}");
        }
        before = reads;
        assert_eq!((reads.failed, reads.in_flight), (0, 0));
        assert!(
            round % 2 == 1 || reads.by == Some(ReadsBy::Threads) || reads.cached >= 3 * round / 2,
            "{reads:?}"
        );
    }
}
