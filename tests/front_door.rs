//! The client as a program uses it: made by its builder, with payloads that are readers.

mod loopback;

use bytes::Bytes;
use loopback::Gateway;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;
use stoq::application::{Application, Placement};
use stoq::client::{
    Client, ClientError, CloseReason, FetchOptions, GatherOptions, Gathered, Kept, Peer, PieceOptions,
    Prepared, PutOptions, Want,
};
use stoq::datagram::NetworkKind;
use stoq::download::Download;
use stoq::node::{ApplicationHost, Hosted};
use stoq::queue::{Answer, AppPort, Command, Credit, Delivery, Ending, RequestId};
use stoq::record::{ErrorCode, OkRecord, Request};
use stoq::token::{EncodedPiece, Outboard, Ranges, Token, VerifiedEncoder};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"front door").finalize_xof().fill(&mut bytes);
    bytes
}

async fn connected(gateway: &Gateway) -> Peer {
    gateway.client_builder().start().unwrap().connect(gateway.address()).await.unwrap()
}

async fn put(peer: &Peer, bytes: &[u8]) -> Token {
    let payload = Prepared::bytes(bytes.to_vec());
    peer.put(&payload).await.unwrap();
    payload.token
}

#[tokio::test]
async fn an_identity_is_read_from_files_or_memory_and_the_network_is_found_by_default() {
    let gateway = Gateway::start();
    let ((certificate, key), (certificate_pem, key_pem)) = (gateway.client_files(), gateway.client_pem());
    let builders = [
        Client::builder().identity_files(certificate, key),
        Client::builder().identity_pem(certificate_pem, key_pem),
    ];
    for builder in builders {
        let client = builder.trust_node(gateway.id).start().unwrap();
        assert_eq!(client.network().kind, NetworkKind::KernelUdp);
        assert!(client.network().local.iter().any(|local| local.is_ipv4()), "{:?}", client.network());
        let peer = client.connect(gateway.address().to_string()).await.unwrap();
        assert_eq!(peer.node(), Some(gateway.id));
        // Handles keep the client: it ends with the last one.
        drop(client);
        peer.put(&Prepared::bytes("kept")).await.unwrap();
    }
}

#[tokio::test]
async fn a_put_goes_to_the_queue_of_the_client_unless_it_names_another() {
    let gateway = Gateway::start();
    let client = gateway.client_builder().put_queue(77).start().unwrap();
    let peer = client.connect(gateway.address()).await.unwrap();
    let payload = Prepared::bytes("queued");
    let refused = peer.put(&payload).await;
    assert!(matches!(&refused, Err(ClientError::Refused(failure)) if failure.code == ErrorCode::NotFound));
    let to_the_store = PutOptions { queue: Some(0), ..PutOptions::default() };
    assert_eq!(peer.put_with(&payload, to_the_store, |_| {}).await.unwrap(), Kept::Now);
}

#[tokio::test]
async fn a_payload_is_read_in_order_by_every_kind_of_reader() {
    let gateway = Gateway::start();
    let peer = connected(&gateway).await;
    for len in [0, 1, 16_384, 3_000_001] {
        let bytes = noise(len);
        let token = put(&peer, &bytes).await;
        let mut whole = Vec::new();
        assert_eq!(peer.fetch(token).await.unwrap().read_to_end(&mut whole).await.unwrap(), len);
        assert!(whole == bytes);
        let mut buffered = peer.fetch(token).await.unwrap();
        let mut copied = Vec::new();
        assert_eq!(tokio::io::copy_buf(&mut buffered, &mut copied).await.unwrap(), buffered.length());
        assert!(copied == bytes);
        // Chunks continue where a reader has stopped, and a reader where chunks have stopped.
        let mut mixed = peer.fetch(token).await.unwrap();
        let mut got = Vec::new();
        let mut some = [0; 1_000];
        loop {
            let read = mixed.read(&mut some).await.unwrap();
            got.extend_from_slice(&some[..read]);
            match mixed.chunk().await {
                Some(chunk) => got.extend_from_slice(&chunk.unwrap()),
                None => break,
            }
        }
        assert!(got == bytes, "{len}");
        assert_eq!(mixed.read(&mut some).await.unwrap(), 0, "the end stays the end");
    }
}

#[tokio::test]
async fn ranges_are_read_one_after_the_other() {
    let gateway = Gateway::start();
    let peer = connected(&gateway).await;
    let bytes = noise(1_000_000);
    let token = put(&peer, &bytes).await;
    let mut ranges = Ranges::covering(20_000..20_001).unwrap();
    // Two groups, fifty after the end of the first.
    ranges.push_run(50, 2).unwrap();
    let options = FetchOptions { ranges, ..FetchOptions::default() };
    let got = peer.fetch_with(token, options).await.unwrap().bytes(u64::MAX).await.unwrap();
    assert!(got == [&bytes[16_384..32_768], &bytes[52 * 16_384..54 * 16_384]].concat());
}

#[tokio::test]
async fn lines_are_read_from_a_payload() {
    let gateway = Gateway::start();
    let peer = connected(&gateway).await;
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let token = put(&peer, text.as_bytes()).await;
    let mut lines = peer.fetch(token).await.unwrap().lines();
    let mut count = 0;
    while let Some(line) = lines.next_line().await.unwrap() {
        assert_eq!(line, format!("line {count}"));
        count += 1;
    }
    assert_eq!(count, 20_000);
}

#[tokio::test]
async fn a_reader_that_waits_stops_the_peer_and_loses_nothing_when_a_read_is_dropped() {
    let gateway = Gateway::start();
    let client = gateway.client_builder().start().unwrap();
    let peer = client.connect(gateway.address()).await.unwrap();
    let bytes = noise(48 << 20);
    let token = put(&peer, &bytes).await;
    let mut slow = peer.fetch(token).await.unwrap();
    let mut first = [0; 7];
    slow.read_exact(&mut first).await.unwrap();
    // While it waits, other requests are served, and the bytes that arrive for it are bounded.
    let other = put(&peer, b"another").await;
    for _ in 0..50 {
        peer.fetch(other).await.unwrap().bytes(7).await.unwrap();
    }
    let counters = client.statuses()[0].counters.snapshot();
    let come: u64 = counters.filter(|(name, _)| *name == "verified_bytes").map(|(_, value)| value).sum();
    assert!((1..24 << 20).contains(&come), "{come} bytes have arrived");
    let mut got = first.to_vec();
    let mut some = vec![0; 100_000];
    loop {
        // A read that is dropped before it is ready takes no byte.
        poll_fn(|cx| {
            if let Poll::Ready(Some(chunk)) = pin!(slow.chunk()).poll(cx) {
                got.extend_from_slice(&chunk.unwrap());
            }
            Poll::Ready(())
        })
        .await;
        match slow.read(&mut some).await.unwrap() {
            0 => break,
            read => got.extend_from_slice(&some[..read]),
        }
    }
    assert!(got == bytes);
}

#[tokio::test]
async fn a_payload_that_ends_early_is_an_error_and_stays_one() {
    let gateway = Gateway::start();
    let peer = connected(&gateway).await;
    let token = put(&peer, &noise(48 << 20)).await;
    let mut fetch = peer.fetch(token).await.unwrap();
    fetch.read_exact(&mut [0; 1_000]).await.unwrap();
    peer.close();
    let error = fetch.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    let lost = error.downcast::<ClientError>();
    assert!(matches!(lost, Ok(ClientError::Lost { reason: CloseReason::Local, .. })), "{lost:?}");
    let again = fetch.read(&mut [0; 10]).await.unwrap_err().downcast::<ClientError>();
    assert!(matches!(again, Ok(ClientError::Failed)), "an end would mean the whole payload");
}

/// Answers every FETCH with this payload, with its last group altered.
struct Liar {
    payload: Vec<u8>,
    /// The lengths that it describes and that it answers with.
    lengths: [u64; 2],
    answers: Vec<(RequestId, Credit, VecDeque<Bytes>)>,
}

fn encoded(payload: &[u8]) -> VecDeque<Bytes> {
    let (_, outboard) = Outboard::build(payload, payload.len() as u64).unwrap();
    let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
    let mut pieces = Vec::new();
    while !encoder.is_complete() {
        encoder.next_batch(1 << 20, &mut pieces).unwrap();
    }
    let bytes = |piece| match piece {
        EncodedPiece::Proof(hashes) => hashes,
        EncodedPiece::Data { offset, len } => Bytes::copy_from_slice(&payload[offset as usize..][..len]),
    };
    pieces.into_iter().map(bytes).collect()
}

impl Application for Liar {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            let Delivery::Asked(request, asked) = delivery else { continue };
            let Request::Fetch(fetch) = asked.request else { continue };
            let [described, answered] = self.lengths;
            let length_bytes = if fetch.describe { described } else { answered };
            let mut encoding = VecDeque::new();
            if !fetch.describe {
                encoding = encoded(&self.payload);
                let mut last = encoding.pop_back().unwrap().to_vec();
                *last.last_mut().unwrap() ^= 1;
                encoding.push_back(last.into());
            }
            port.send(Command::answer(request, Answer::Ok(OkRecord { length_bytes, descriptor: None })))
                .unwrap();
            self.answers.push((request, asked.credit, encoding));
        }
        self.answers.retain_mut(|(request, credit, encoding)| {
            while let Some(bytes) = encoding.pop_front() {
                worked = true;
                if let Err(bytes) = port.send_data(*request, credit, bytes) {
                    encoding.push_front(bytes);
                    return true;
                }
            }
            port.send(Command::End(*request, Ending::Finish)).unwrap();
            false
        });
        worked
    }
}

fn lies(payload: &[u8], lengths: [u64; 2]) -> Gateway {
    let payload = payload.to_vec();
    let make = move |_| -> Box<dyn Application> {
        Box::new(Liar { payload: payload.clone(), lengths, answers: Vec::new() })
    };
    let host = ApplicationHost::Node(Placement::Worker, Box::new(make));
    Gateway::start_with(1, vec![Hosted { store: true, ..Hosted::new("liar", Vec::new(), host) }])
}

#[tokio::test]
async fn no_reader_gives_a_byte_that_does_not_match_the_token() {
    let bytes = noise(200_000);
    let gateway = lies(&bytes, [bytes.len() as u64; 2]);
    let peer = connected(&gateway).await;
    let mut got = Vec::new();
    let error = peer.fetch(Token::of(&bytes)).await.unwrap().read_to_end(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let Ok(ClientError::Refused(failure)) = error.downcast::<ClientError>() else { panic!("another error") };
    assert_eq!(failure.code, ErrorCode::BadProof);
    assert!(bytes.starts_with(&got) && got.len() < bytes.len(), "{} bytes", got.len());
}

/// The first subtree of the payload's tree has 64 groups, whatever of these lengths is claimed: they can be checked and kept.
#[tokio::test]
async fn a_lie_about_a_length_spoils_no_later_download() {
    let bytes = noise(80 * 16_384 + 5);
    let token = Token::of(&bytes);
    let honest = Gateway::start();
    let honest = connected(&honest).await;
    put(&honest, &bytes).await;
    let length = bytes.len() as u64;
    let lengths =
        [0, 1, 16_384, 64 << 14, 70 << 14, length - 1, length, length + 1, 81 << 14, 128 << 14, 1 << 50];
    let mut kept = Vec::new();
    for claimed in lengths {
        let (liar, directory) = (lies(&bytes, [claimed; 2]), tempfile::TempDir::new().unwrap());
        let (liar, output) = (connected(&liar).await, directory.path().join("copy"));
        // The second attempt continues the first one's part.
        for _ in 0..2 {
            let mut download = Download::open(&output, token).unwrap();
            let error = download.run(&liar, |_, _| {}).await.unwrap_err();
            assert!(matches!(&error, ClientError::Refused(_)), "{claimed}: {error}");
            kept.push(download.have());
        }
        let mut download = Download::open(&output, token).unwrap();
        assert_eq!(download.have(), *kept.last().unwrap(), "{claimed}");
        download.run(&honest, |_, _| {}).await.unwrap();
        assert_eq!(download.finish(|_| {}).await.unwrap(), length, "{claimed}");
        assert!(std::fs::read(&output).unwrap() == bytes, "{claimed}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no part or note stays");
    }
    assert!(kept.iter().any(|&kept| kept > 0), "{kept:?}");
}

#[tokio::test]
async fn a_gateway_that_says_two_lengths_is_told() {
    let bytes = noise(80 * 16_384 + 5);
    let length = bytes.len() as u64;
    let liar = lies(&bytes, [length, length - 1]);
    let (liar, directory) = (connected(&liar).await, tempfile::TempDir::new().unwrap());
    let mut download = Download::open(&directory.path().join("copy"), Token::of(&bytes)).unwrap();
    download.run(&liar, |_, _| {}).await.unwrap_err();
    assert!(download.have() > 0);
    let error = download.run(&liar, |_, _| {}).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("describes {length} bytes and answers with a payload of {}", length - 1)),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_payload_has_its_own_kind_of_error() {
    let gateway = Gateway::start();
    let peer = connected(&gateway).await;
    let token = Token::of(b"held by no node");
    let error = std::io::Error::from(peer.fetch(token).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let refused =
        |error| matches!(error, ClientError::Refused(failure) if failure.code == ErrorCode::NotFound);
    assert!(refused(peer.pieces(token, PieceOptions::default()).await.unwrap_err()));
    assert!(refused(peer.describe(token).await.unwrap_err()));
}

#[tokio::test]
async fn a_payload_is_gathered_from_a_holder() {
    let gateway = Gateway::start();
    let client = gateway.client_builder().start().unwrap();
    let peer = client.connect(gateway.address()).await.unwrap();
    let bytes = noise(500_000);
    let token = put(&peer, &bytes).await;
    assert!(gathered(&client, token, &[peer]).await.0 == bytes);
}

/// A payload by these connections, and the bytes that came over each.
async fn gathered(client: &Client, token: Token, peers: &[Peer]) -> (Vec<u8>, Vec<u64>) {
    let (mut gathering, holders) = client.gather(token, GatherOptions { want: Want::Payload }).unwrap();
    peers.iter().for_each(|peer| holders.add(peer).unwrap());
    drop(holders);
    let mut got = Vec::new();
    while let Some(gathered) = gathering.next().await {
        match gathered.unwrap() {
            Gathered::Described { length, .. } => got.resize(length as usize, 0),
            Gathered::Piece(piece) => {
                let at = piece.offset as usize;
                got[at..at + piece.data.len()].copy_from_slice(&piece.data);
            }
            other => panic!("{other:?}"),
        }
    }
    (got, gathering.report().iter().map(|holder| holder.bytes).collect())
}

#[tokio::test]
async fn the_workers_of_a_client_gather_one_payload_from_the_workers_of_a_gateway() {
    let gateway = Gateway::start_with(2, Vec::new());
    let client = gateway.client_builder().workers(2).start().unwrap();
    let mut peers = Vec::new();
    for network in gateway.node.networks() {
        peers.push(client.connect(network.local[0]).await.unwrap());
    }
    let bytes = noise(40 << 20);
    let token = put(&peers[0], &bytes).await;
    let (got, given) = gathered(&client, token, &peers).await;
    assert!(got == bytes);
    assert_eq!(given.len(), 2);
    assert!(given.iter().sum::<u64>() >= bytes.len() as u64, "{given:?}");
    // One of them has ended: the other one gives all.
    peers[0].close();
    let (got, given) = gathered(&client, token, &peers).await;
    assert!(got == bytes);
    assert!(given[1] >= bytes.len() as u64, "{given:?}");
}
