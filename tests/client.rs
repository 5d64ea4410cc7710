//! The client against a gateway in the same process, over the kernel's sockets on the loopback interface.

mod loopback;

use bytes::Bytes;
use loopback::Gateway;
use std::fs::File;
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};
use stoq::application::{Application, Placement};
use stoq::client::{
    Client, ClientError, ConnectOptions, FetchOptions, Kept, Peer, PieceOptions, Prepared, PutOptions, Route,
};
use stoq::node::{ApplicationHost, Hosted};
use stoq::queue::{Answer, AppPort, Command, Delivery, PeerSilence, PeerWait};
use stoq::record::{Coverage, Done, ErrorCode, ErrorRecord, Holder, Holders, Mirror, Request};
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::{Ranges, Token};

const ECHO: u64 = 1;
/// The longest wait of a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway and a client connected to it.
struct Site {
    gateway: Gateway,
    client: Client,
}

impl Site {
    fn new() -> Self {
        Self::of(Gateway::start())
    }

    fn of(gateway: Gateway) -> Self {
        let client = gateway.client_builder().start().unwrap();
        Self { gateway, client }
    }

    async fn peer(&self) -> Peer {
        self.client.connect(self.gateway.address()).await.unwrap()
    }

    fn counted(&self, name: &str) -> u64 {
        let counters = self.client.statuses().iter().flat_map(|status| status.counters.snapshot());
        counters.filter(|(counter, _)| *counter == name).map(|(_, value)| value).sum()
    }
}

fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

async fn put(peer: &Peer, bytes: &[u8]) -> Token {
    let payload = Prepared::bytes(bytes.to_vec());
    peer.put(&payload).await.unwrap();
    payload.token
}

async fn get(peer: &Peer, token: Token) -> Result<Bytes, ClientError> {
    peer.fetch(token).await?.bytes(u64::MAX).await
}

/// Checks, at every turn of the runtime's clock, until the condition holds.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused(failure)) => failure.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_payload_that_is_put_is_fetched_whole_and_in_ranges() {
    let site = Site::new();
    let peer = site.peer().await;
    assert_eq!((peer.node(), peer.remote()), (Some(site.gateway.id), site.gateway.address()));
    for len in [0, 1, 16_384, 3_000_001] {
        let bytes = noise("whole", len);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let payload = Prepared::file(file.path()).unwrap();
        let mut heard = Vec::new();
        let kept = peer.put_with(&payload, PutOptions::default(), |given| heard.push(given)).await.unwrap();
        assert_eq!((kept, heard.last()), (Kept::Now, Some(&(len as u64))));
        assert!(heard.is_sorted());
        let again =
            peer.put_with(&payload, PutOptions::default(), |_| panic!("nothing crosses")).await.unwrap();
        assert_eq!(again, Kept::Already);
        let description = peer.describe(payload.token).await.unwrap();
        assert_eq!((description.length, description.descriptor), (len as u64, None));
        let fetch = peer.fetch(payload.token).await.unwrap();
        assert_eq!((fetch.length(), fetch.descriptor()), (len as u64, None));
        assert!(fetch.bytes(len as u64).await.unwrap() == bytes);
    }
    let bytes = noise("whole", 3_000_001);
    let token = Token::of(&bytes);
    let mut ranges = Ranges::covering(20_000..40_000).unwrap();
    ranges.push_run(100, 1).unwrap();
    let mut pieces = peer.pieces(token, PieceOptions { ranges, ..Default::default() }).await.unwrap();
    let (mut got, mut last_end) = (0, 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        let (start, end) = (piece.offset as usize, piece.offset as usize + piece.data.len());
        assert!(start >= last_end && bytes[start..end] == piece.data);
        (last_end, got) = (end, got + piece.data.len());
    }
    assert!(pieces.next().await.is_none());
    assert_eq!(got, 3 * 16_384);
}

#[tokio::test]
async fn a_refusal_of_the_peer_has_its_code() {
    let site = Site::new();
    let peer = site.peer().await;
    assert_eq!(refused(get(&peer, Token::of(b"held by no node")).await), ErrorCode::NotFound);
    let token = put(&peer, &noise("bounded", 100_000)).await;
    let bounded = FetchOptions { bytes_max: 99_999, ..Default::default() };
    assert_eq!(refused(peer.fetch_with(token, bounded).await), ErrorCode::Limit);
    let ranges = Ranges::covering(0..1_000_000).unwrap();
    assert_eq!(
        refused(peer.fetch_with(token, FetchOptions { ranges, ..Default::default() }).await),
        ErrorCode::BadRange
    );
    let route = Route::new([NodeId([9; 32])]).ok();
    assert_eq!(
        refused(peer.fetch_with(token, FetchOptions { route, ..Default::default() }).await),
        ErrorCode::NotAuthorized,
        "this gateway forwards no requests"
    );
    let queue = PutOptions { queue: Some(77), ..Default::default() };
    assert_eq!(refused(peer.put_with(&Prepared::bytes("x"), queue, |_| {}).await), ErrorCode::NotFound);
    let fetch = peer.fetch(token).await.unwrap();
    assert!(matches!(fetch.bytes(99_999).await, Err(ClientError::TooLong(99_999))));
    assert_eq!(get(&peer, token).await.unwrap().len(), 100_000);
}

#[tokio::test]
async fn fetches_dropped_half_way_leave_their_streams_to_others() {
    let site = Site::new();
    let peer = site.peer().await;
    let bytes = noise("dropped", 4 << 20);
    let token = put(&peer, &bytes).await;
    // More than a connection may have in flight.
    for _ in 0..300 {
        let mut fetch = peer.fetch(token).await.unwrap();
        assert!(!fetch.chunk().await.unwrap().unwrap().is_empty());
    }
    assert!(get(&peer, token).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_put_that_is_dropped_is_given_up_by_the_gateway() {
    let site = Site::new();
    let peer = site.peer().await;
    let bytes = noise("given up", 64 << 20);
    let payload = Prepared::bytes(bytes);
    let (some, is_some) = tokio::sync::oneshot::channel();
    let mut some = Some(some);
    let putting = peer.put_with(&payload, PutOptions::default(), |given| {
        if given > 1 << 20
            && let Some(some) = some.take()
        {
            let _ = some.send(());
        }
    });
    tokio::select! {
        kept = putting => panic!("it was over too early for this test: {kept:?}"),
        _ = is_some => {}
    }
    let temporary = site.gateway.store.path().join("tmp");
    until("the part is removed", || std::fs::read_dir(&temporary).unwrap().next().is_none()).await;
    assert_eq!(refused(get(&peer, payload.token).await), ErrorCode::NotFound);
    let token = put(&peer, b"small").await;
    assert_eq!(get(&peer, token).await.unwrap(), "small");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_one_connection() {
    let site = Site::new();
    let peer = site.peer().await;
    let mut tasks = tokio::task::JoinSet::new();
    // Twice as many at once as a connection may have in flight.
    for n in 0..512 {
        let peer = peer.clone();
        tasks.spawn(async move {
            let bytes = noise(&format!("task {}", n % 300), 1_000 + 300 * (n % 300));
            let token = put(&peer, &bytes).await;
            assert!(get(&peer, token).await.unwrap() == bytes);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_consumer_that_does_not_read_holds_up_no_other() {
    let site = Site::new();
    let peer = site.peer().await;
    let large = noise("large", 64 << 20);
    let token = put(&peer, &large).await;
    let small = noise("small", 1 << 20);
    let other = put(&peer, &small).await;
    let mut slow = peer.fetch(token).await.unwrap();
    let mut got = slow.chunk().await.unwrap().unwrap().to_vec();
    // The bytes that wait for it are bounded, however long the others take.
    for _ in 0..50 {
        assert!(get(&peer, other).await.unwrap() == small);
    }
    let waiting = site.counted("verified_bytes") - 50 * small.len() as u64;
    assert!((1 << 20..24 << 20).contains(&waiting), "{waiting} bytes of the slow one have arrived");
    while let Some(chunk) = slow.chunk().await {
        got.extend_from_slice(&chunk.unwrap());
    }
    assert!(got == large);
}

#[tokio::test]
async fn messages_and_datagrams_come_back_from_an_echo() {
    let site = Site::new();
    let peer = site.peer().await;
    let sender = peer.clone();
    let sending = tokio::spawn(async move {
        for n in 0..3_000u32 {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(4 + (n as usize * 37) % 20_000, 5);
            sender.send_message(ECHO, payload.into()).await.unwrap();
        }
    });
    for n in 0..3_000u32 {
        let message = peer.message().await.unwrap();
        assert_eq!((message.queue, &message.payload[..4]), (ECHO, &n.to_be_bytes()[..]));
        assert_eq!(message.payload.len(), 4 + (n as usize * 37) % 20_000);
    }
    sending.await.unwrap();
    // The echo answers a datagram with a message. Datagrams may be lost: they are sent until an answer arrives.
    let answer = async {
        loop {
            peer.send_datagram(ECHO, "datagram".into()).await.unwrap();
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(200), peer.message()).await {
                return message.unwrap();
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    assert_eq!(answer.payload, "datagram");
    let long = Bytes::from(vec![0; 65_537]);
    assert!(matches!(peer.send_message(ECHO, long.clone()).await, Err(ClientError::MessageTooLong(65_537))));
    assert!(matches!(peer.send_datagram(ECHO, long).await, Err(ClientError::MessageTooLong(65_537))));
}

#[tokio::test]
async fn messages_past_the_inbox_bound_arrive_once_earlier_ones_are_taken() {
    let site = Site::new();
    let peer = site.peer().await;
    for n in 0..2_500u32 {
        peer.send_message(ECHO, n.to_be_bytes().to_vec().into()).await.unwrap();
    }
    for n in 0..2_500u32 {
        assert_eq!(peer.message().await.unwrap().payload, n.to_be_bytes()[..]);
    }
}

#[tokio::test]
async fn a_lost_connection_ends_its_requests_with_a_reason() {
    let site = Site::new();
    let peer = site.peer().await;
    let token = put(&peer, &noise("lost", 32 << 20)).await;
    let mut fetch = peer.fetch(token).await.unwrap();
    fetch.chunk().await.unwrap().unwrap();
    let Site { gateway, client } = site;
    let (closed, stopping) = (peer.closed(), tokio::task::spawn_blocking(move || drop(gateway)));
    let reason = tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(reason.code(), Some(ErrorCode::GoingAway), "{reason}");
    stopping.await.unwrap();
    let end = loop {
        match fetch.chunk().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(ClientError::Lost { .. }))), "{end:?}");
    assert!(
        matches!(fetch.chunk().await, Some(Err(ClientError::Failed))),
        "an end would mean the whole payload"
    );
    assert!(matches!(get(&peer, token).await, Err(ClientError::Lost { .. })));
    assert!(matches!(peer.send_message(ECHO, "x".into()).await, Err(ClientError::Lost { .. })));
    assert!(matches!(peer.message().await, Err(ClientError::Lost { .. })));
    client.stop();
    let connected = client.connect(peer.remote()).await;
    assert!(matches!(connected, Err(ClientError::Stopped)));
}

#[tokio::test]
async fn a_silent_peer_and_a_peer_with_another_identity_are_errors() {
    let site = Site::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = ConnectOptions { timeout: Duration::from_millis(100), ..Default::default() };
    let timeout = site.client.connect_with(silent.local_addr().unwrap(), options).await;
    assert!(matches!(timeout, Err(ClientError::Timeout { .. })), "{timeout:?}");
    let other = Gateway::start();
    let refused = site.client.connect(other.address()).await;
    let Err(ClientError::Connect { remote, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(*remote, other.address().to_string());
    assert!(refused.unwrap_err().to_string().contains(&other.id.to_string()));
}

#[tokio::test]
async fn a_connection_ends_with_its_last_handle() {
    let site = Site::new();
    let connections = || site.gateway.node.statuses()[0].connections.load(Ordering::Relaxed);
    let peer = site.peer().await;
    let token = put(&peer, &noise("handle", 100_000)).await;
    let fetch = peer.fetch(token).await.unwrap();
    drop(peer);
    // The request keeps the connection open as well.
    assert_eq!(fetch.bytes(u64::MAX).await.unwrap().len(), 100_000);
    let closed = || connections() == 0 && site.client.statuses()[0].connections.load(Ordering::Relaxed) == 0;
    until("the connection is closed", closed).await;
    // The connection is asked for, and the call is dropped: if the connection comes up, it is closed.
    let mut connecting = Box::pin(site.client.connect(site.gateway.address()));
    assert!(poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx).is_pending())).await);
    drop(connecting);
    site.peer().await;
    until("no connection stays", closed).await;
}

#[tokio::test]
async fn workers_take_connections_in_turn() {
    let gateway = Gateway::start();
    let client = gateway.client_builder().workers(2).start().unwrap();
    let site = Site { gateway, client };
    let (first, second) = (site.peer().await, site.peer().await);
    for status in site.client.statuses() {
        assert_eq!(status.connections.load(Ordering::Relaxed), 1);
    }
    let bytes = noise("two workers", 1 << 20);
    let token = put(&first, &bytes).await;
    assert!(get(&second, token).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_request_refused_as_too_early_is_sent_again() {
    let site = Site::new();
    let token = put(&site.peer().await, b"early").await;
    let early = ConnectOptions { early: true, ..Default::default() };
    let peer = site.client.connect_with(site.gateway.address(), early).await.unwrap();
    assert_eq!(peer.node(), None, "the handshake, which proves it, is not over");
    // A PUT could be replayed: the gateway refuses it in early data.
    let payload = Prepared::bytes("put in early data");
    assert_eq!(peer.put(&payload).await.unwrap(), Kept::Now);
    assert_eq!(get(&peer, token).await.unwrap(), "early");
    assert_eq!(site.counted("quic_early_data_accepted"), 1);
}

/// Answers LOCATE and MIRROR, and leaves a PUT without an answer.
struct Placer;

const HOLDER: NodeId = NodeId([3; 32]);

impl Application for Placer {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            let command = match delivery {
                Delivery::Asked(request, asked) => match asked.request {
                    Request::Locate(_) => {
                        let holder = Holder { node: HOLDER, coverage: Coverage::All, expires_s: 60 };
                        Command::answer(request, Answer::Holders(Holders { holders: vec![holder] }))
                    }
                    Request::Mirror(mirror) => {
                        assert_eq!((mirror.lease_s, &mirror.sources[..]), (5, &[HOLDER][..]));
                        Command::answer(request, Answer::Done(Done { bytes: 7, token: mirror.token }))
                    }
                    _ => continue,
                },
                _ => continue,
            };
            port.send(command).unwrap();
        }
        worked
    }
}

/// The reasons of a gateway that lies: a title, a clipboard, a success line, a turned direction of writing.
const LIES: &str = "\u{1b}]0;owned\u{7}\u{1b}]52;c;cm0=\u{1b}\\\r\ndone, it is kept\n\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}\u{200b}\u{7f}";

/// Refuses every request with [`LIES`].
struct Liar;

impl Application for Liar {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            if let Delivery::Asked(request, _) = delivery {
                let failure = ErrorRecord::new(ErrorCode::Busy, 0, LIES);
                port.send(Command::refuse(request, failure)).unwrap();
            }
        }
        worked
    }
}

#[tokio::test]
async fn a_lying_gateways_reasons_are_fit_to_be_printed() {
    let host = ApplicationHost::Node(Placement::Worker, Box::new(|_| Box::new(Liar)));
    let liar = Hosted { store: true, ..Hosted::new("liar", vec![9], host) };
    let site = Site::of(Gateway::start_with(1, vec![liar]));
    let peer = site.peer().await;
    let payload = Prepared::bytes("refused");
    let to_liar = PutOptions { queue: Some(9), ..Default::default() };
    let mirror =
        Mirror { token: payload.token.into(), lanes: Lanes::NONE, lease_s: 5, sources: vec![HOLDER] };
    let errors = [
        ("put", peer.put_with(&payload, to_liar, |_| {}).await.map(drop).unwrap_err()),
        ("get", get(&peer, payload.token).await.map(drop).unwrap_err()),
        ("describe", peer.describe(payload.token).await.map(drop).unwrap_err()),
        ("locate", peer.locate(payload.token).await.map(drop).unwrap_err()),
        ("mirror", peer.mirror(mirror).await.map(drop).unwrap_err()),
    ];
    for (call, error) in errors {
        let ClientError::Refused(failure) = &error else { panic!("{call}: {error:?}") };
        let shown = r"\u{1b}]0;owned\u{7}\u{1b}]52;c;cm0=\u{1b}\\u{d}\u{a}done, it is kept\u{a}\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}\u{200b}\u{7f}";
        assert_eq!(failure.reason(), shown, "{call}");
        let hidden = |letter: char| letter.is_control() || !letter.is_ascii();
        assert!(!format!("{error} {error:?}").contains(hidden), "{call}: {error}");
    }
}

fn placer() -> Hosted {
    let host = ApplicationHost::Node(Placement::Worker, Box::new(|_| Box::new(Placer)));
    Hosted { store: true, ..Hosted::new("placer", vec![9], host) }
}

#[tokio::test]
async fn locate_returns_the_holders_and_mirror_its_result() {
    let site = Site::of(Gateway::start_with(1, vec![placer()]));
    let peer = site.peer().await;
    let token = Token::of(b"somewhere");
    let holders = peer.locate(token).await.unwrap();
    assert_eq!((holders.len(), holders[0].node, holders[0].expires_s), (1, HOLDER, 60));
    let mirror = Mirror { token: token.into(), lanes: Lanes::NONE, lease_s: 5, sources: vec![HOLDER] };
    let done = peer.mirror(mirror).await.unwrap();
    assert_eq!((done.bytes, done.token), (7, token.into()));
}

#[tokio::test]
async fn a_request_that_a_gateway_never_answers_ends_with_an_error_of_its_own() {
    let gateway = Gateway::start_with(1, vec![placer()]);
    let limit = Duration::from_secs(1);
    let client = gateway.client_builder().silence_timeout(limit).start().unwrap();
    let peer = client.connect(gateway.address()).await.unwrap();
    let payload = Prepared::bytes("never answered");
    let to_placer = PutOptions { queue: Some(9), ..Default::default() };
    let error = peer.put_with(&payload, to_placer, |_| {}).await.unwrap_err();
    let silence = PeerSilence { remote: gateway.address(), wait: PeerWait::Answer, limit };
    assert!(matches!(&error, ClientError::Silent(found) if *found == silence), "{error:?}");
    assert!(
        error.to_string().contains("has not answered: no byte of the request has moved for 1 s"),
        "{error}"
    );
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
    // The connection goes on.
    assert_eq!(peer.locate(payload.token).await.unwrap().len(), 1);
}

#[tokio::test]
async fn requests_past_the_bound_wait_their_turn_and_may_be_dropped() {
    let site = Site::of(Gateway::start_with(1, vec![placer()]));
    let peer = site.peer().await;
    let payload = Arc::new(Prepared::bytes("never answered"));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (peer, payload) = (peer.clone(), payload.clone());
        let options = PutOptions { queue: Some(9), ..Default::default() };
        waiting.spawn(async move { peer.put_with(&payload, options, |_| {}).await });
    }
    // SETTINGS and as many PUTs as may be in flight.
    until("all places are taken", || site.counted("records_out") == 129).await;
    let locating = peer.locate(payload.token);
    assert!(tokio::time::timeout(Duration::from_millis(200), locating).await.is_err());
    waiting.shutdown().await;
    assert_eq!(peer.locate(payload.token).await.unwrap().len(), 1);
}

/// A file of these bytes whose time of modification is long past: its time then shows every write.
fn old_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file.as_file().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    file
}

/// Writes into the file's last group, and restores its time of modification, as a write through a shared mapping may leave it.
fn write_unseen(file: &File) {
    let known = file.metadata().unwrap();
    file.write_all_at(b"another", known.len() - 7).unwrap();
    file.set_modified(known.modified().unwrap()).unwrap();
}

fn is_changed(result: Result<Kept, ClientError>) -> bool {
    match result {
        Err(ClientError::Changed { path }) => path.contains("tmp"),
        other => panic!("not changed: {other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_is_written_to_is_never_sent_as_something_else() {
    let site = Site::new();
    let peer = site.peer().await;
    let bad_proofs = || {
        let counters = site.gateway.node.statuses().iter().flat_map(|status| status.counters.snapshot());
        counters.filter(|(name, _)| *name == "bad_proofs").map(|(_, value)| value).sum::<u64>()
    };
    let bytes = noise("changing", 3_000_001);
    let put = async |payload: &Prepared| peer.put(payload).await;

    // Overwritten, made shorter, made longer, all after it was hashed.
    let file = old_file(&bytes);
    let changes: [&dyn Fn(&File); 3] = [
        &|file| file.write_all_at(b"another", 2_999_000).unwrap(),
        &|file| file.set_len(2_000_000).unwrap(),
        &|file| file.set_len(4_000_000).unwrap(),
    ];
    for change in changes {
        let payload = Prepared::file(file.path()).unwrap();
        change(file.as_file());
        assert!(is_changed(put(&payload).await));
    }
    // A fresh file, whose time may not show the write: its bytes are checked before they are sent.
    let file = old_file(&bytes);
    file.as_file().set_modified(SystemTime::now()).unwrap();
    let payload = Prepared::file(file.path()).unwrap();
    write_unseen(file.as_file());
    assert!(is_changed(put(&payload).await));
    assert_eq!(bad_proofs(), 0, "no wrong byte was sent");

    // A write that is not seen: the gateway finds it, and the client finds that the file was at fault.
    let file = old_file(&bytes);
    let payload = Prepared::file(file.path()).unwrap();
    write_unseen(file.as_file());
    assert!(is_changed(put(&payload).await));
    assert_eq!(bad_proofs(), 1);
    assert_eq!(refused(get(&peer, payload.token).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_file_that_grows_after_it_was_sent_is_an_error_that_names_the_kept_payload() {
    let site = Site::new();
    let peer = site.peer().await;
    let bytes = noise("growing", 300_000);
    let file = old_file(&bytes);
    let payload = Prepared::file(file.path()).unwrap();
    let grow = |given| {
        if given == payload.length {
            file.as_file().set_len(300_001).unwrap();
        }
    };
    let result = peer.put_with(&payload, PutOptions::default(), grow).await;
    assert!(
        matches!(result, Err(ClientError::ChangedSince { kept, .. }) if kept == payload.token.into()),
        "{result:?}"
    );
    assert!(get(&peer, payload.token).await.unwrap() == bytes);
    // The same if the gateway has the payload already.
    let result = peer.put_with(&payload, PutOptions::default(), |_| panic!("nothing crosses")).await;
    assert!(matches!(result, Err(ClientError::ChangedSince { .. })), "{result:?}");
}

#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_is_put_as_it_was_opened() {
    let site = Site::new();
    let peer = site.peer().await;
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("file"), directory.path().join("other"));
    for replaced in [false, true] {
        let bytes = noise(if replaced { "replaced" } else { "deleted" }, 200_000);
        std::fs::write(&path, &bytes).unwrap();
        let payload = Prepared::file(&path).unwrap();
        if replaced {
            std::fs::write(&other, "another").unwrap();
            std::fs::rename(&other, &path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(peer.put(&payload).await.unwrap(), Kept::Now);
        assert!(get(&peer, payload.token).await.unwrap() == bytes);
    }
}
