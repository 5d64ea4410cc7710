//! Panics in a gateway of several workers: each takes down the connections of its own worker, and no others.

mod loopback;

use bytes::Bytes;
use loopback::Gateway;
use quinn_proto::TransportErrorCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::client::{Client, ClientError, CloseReason, ConnectOptions, Peer, Prepared, PutOptions};
use stoq::counters::Counter;
use stoq::node::{ApplicationHost, Hosted};
use stoq::queue::{AppPort, Command, ConnectionEvent, Delivery, End};
use stoq::record::{ErrorCode, Request};

const ECHO: u64 = 1;
/// The queue of [`Fragile`].
const FRAGILE: u64 = 9;
/// The longest wait of a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Panics at each message and at each request. Its channel ends with it.
struct Fragile(#[expect(dead_code, reason = "it is dropped")] Sender<()>);

impl Application for Fragile {
    fn poll(&mut self, _: Instant, port: &mut AppPort) -> bool {
        match port.receive() {
            Some(Delivery::Connection(_, ConnectionEvent::Message { .. }) | Delivery::Asked(..)) => {
                panic!("a fault of an application")
            }
            delivery => delivery.is_some(),
        }
    }
}

fn fragile(placement: Placement) -> (Hosted, Receiver<()>) {
    let (alive, ends) = channel();
    let make = move |_| -> Box<dyn Application> { Box::new(Fragile(alive.clone())) };
    (Hosted::new("fragile", vec![FRAGILE], ApplicationHost::Node(placement, Box::new(make))), ends)
}

async fn with_patience<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("the step takes too long")
}

async fn peer_of(client: &Client, gateway: &Gateway, worker: usize) -> Result<Peer, ClientError> {
    let options = ConnectOptions { timeout: PATIENCE, ..ConnectOptions::default() };
    with_patience(client.connect_with(gateway.node.networks()[worker].local[0], options)).await
}

async fn echo(peer: &Peer, text: &'static [u8]) -> Bytes {
    peer.send_message(ECHO, Bytes::from_static(text)).await.unwrap();
    with_patience(peer.message()).await.unwrap().payload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_panics_takes_down_its_own_connections_and_no_others() {
    for workers in [1, 2, 4, 8] {
        with_one_that_panics(workers).await;
    }
}

/// The last of these workers panics.
async fn with_one_that_panics(workers: usize) {
    let gateway = Gateway::start_with(workers, vec![fragile(Placement::Worker).0]);
    let client = gateway.client_builder().start().unwrap();
    let mut peers = Vec::new();
    for worker in 0..workers {
        let peer = peer_of(&client, &gateway, worker).await.unwrap();
        assert_eq!(echo(&peer, b"before").await, "before");
        peers.push(peer);
    }
    let last = peers.pop().unwrap();
    last.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
    assert_eq!(
        with_patience(last.closed()).await,
        CloseReason::Reset,
        "the peer is told by a stateless reset"
    );
    let payload = Prepared::bytes(vec![7; 3 << 20]);
    for peer in &peers {
        assert_eq!(echo(peer, b"after").await, "after");
    }
    if let Some(first) = peers.first() {
        with_patience(first.put(&payload)).await.unwrap();
    }
    // The queue of the worker that failed takes no connection, and says so at once.
    let refused = peer_of(&client, &gateway, workers - 1).await.expect_err("refused");
    let reasons: Vec<_> = refused.close_reasons().cloned().collect();
    let code = TransportErrorCode::CONNECTION_REFUSED;
    assert_eq!(reasons, [CloseReason::PeerQuic { code, text: "".into() }]);
    // Nor is any placed there by another worker, though that is busier. Of more than two workers it might place them at a third, whose socket
    // has another port here, which the client does not expect an answer from.
    for _ in 0..if workers == 2 { 8 } else { 0 } {
        let other = peer_of(&client, &gateway, 0).await.unwrap();
        assert_eq!(echo(&other, b"new").await, "new");
        peers.push(other);
    }
    let statuses = gateway.node.statuses();
    let failed: Vec<_> = statuses.iter().map(|status| status.counters.get(Counter::WorkersFailed)).collect();
    assert_eq!(failed.iter().sum::<u64>(), 1);
    assert_eq!((failed[workers - 1], statuses[workers - 1].connections.load(Ordering::Relaxed)), (1, 0));
    let seats = gateway.node.shared().node_seats.taken(&gateway.client_id());
    assert_eq!(seats, peers.len(), "its seat is free");
    // A drain does not wait for the worker that failed.
    drop((last, peers));
    client.stop();
    gateway.node.drain(PATIENCE);
    assert_eq!(statuses.iter().map(|status| status.requests()).sum::<usize>(), 0);
}

#[tokio::test]
async fn an_application_that_panics_on_its_thread_takes_down_no_connection() {
    let (fragile, ends) = fragile(Placement::Thread);
    let gateway = Gateway::start_with(1, vec![fragile]);
    let client = gateway.client_builder().start().unwrap();
    let peer = peer_of(&client, &gateway, 0).await.unwrap();
    let payload = Prepared::bytes(vec![7; 3 << 20]);
    let put = PutOptions { queue: Some(FRAGILE), ..PutOptions::default() };
    peer.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
    assert_eq!(ends.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "it is dropped");
    for _ in 0..2 {
        // Messages are dropped, more than its ring holds, and requests are refused.
        for _ in 0..10_000 {
            peer.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
        }
        let Err(ClientError::Refused(refused)) =
            with_patience(peer.put_with(&payload, put.clone(), |_| {})).await
        else {
            panic!("not refused")
        };
        assert_eq!((refused.code, refused.reason()), (ErrorCode::Internal, "the application failed"));
        assert_eq!(echo(&peer, b"after").await, "after");
    }
    assert_eq!(gateway.node.statuses()[0].counters.get(Counter::WorkersFailed), 0);
    gateway.node.drain(PATIENCE);
}

/// Takes requests, accepts those of the queue [`ACCEPTED`], and panics at a message. Tells each request and the first piece of a payload.
struct Holder(Sender<&'static str>);

/// The queues whose requests [`Holder`] leaves without an answer, and accepts.
const HELD: u64 = 10;
const ACCEPTED: u64 = 11;

impl Application for Holder {
    fn poll(&mut self, _: Instant, port: &mut AppPort) -> bool {
        let Some(delivery) = port.receive() else { return false };
        match delivery {
            Delivery::Connection(_, ConnectionEvent::Message { .. }) => panic!("a fault of an application"),
            Delivery::Asked(request, asked) => {
                if matches!(asked.request, Request::Put(put) if put.queue == ACCEPTED) {
                    port.send(Command::accept(request)).unwrap();
                }
                self.0.send("asked").unwrap();
            }
            Delivery::Ended(_, End::Checked) => self.0.send("has it all").unwrap(),
            _ => {}
        }
        true
    }
}

#[tokio::test]
async fn requests_that_a_failed_application_had_taken_are_refused() {
    let (tell, told) = channel();
    let make = move |_| -> Box<dyn Application> { Box::new(Holder(tell.clone())) };
    let host = ApplicationHost::Node(Placement::Thread, Box::new(make));
    let gateway = Gateway::start_with(1, vec![Hosted::new("holder", vec![HELD, ACCEPTED], host)]);
    let client = gateway.client_builder().start().unwrap();
    let peer = peer_of(&client, &gateway, 0).await.unwrap();
    let payload = Prepared::bytes(vec![7; 3 << 20]);
    let put =
        |queue| peer.put_with(&payload, PutOptions { queue: Some(queue), ..PutOptions::default() }, |_| {});
    let falls = async {
        let mut seen = Vec::new();
        while seen.len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            seen.extend(told.try_iter());
        }
        peer.send_message(HELD, Bytes::from_static(b"fall")).await.unwrap();
        seen.sort_unstable();
        assert_eq!(seen, ["asked", "asked", "has it all"]);
    };
    let (held, accepted, ()) = with_patience(async { tokio::join!(put(HELD), put(ACCEPTED), falls) }).await;
    for put in [held, accepted] {
        let Err(ClientError::Refused(refused)) = put else { panic!("{put:?}") };
        assert_eq!((refused.code, refused.reason()), (ErrorCode::Internal, "the application failed"));
    }
    assert_eq!(echo(&peer, b"after").await, "after", "the connection is there");
    assert_eq!(gateway.node.statuses()[0].counters.get(Counter::RequestsPutRefused), 2);
    gateway.node.drain(PATIENCE);
    assert_eq!(gateway.node.statuses()[0].requests(), 0);
}

#[tokio::test]
async fn an_application_on_a_thread_learns_that_its_worker_failed() {
    let (tell, told) = channel();
    let make = move |_| -> Box<dyn Application> { Box::new(Listener(tell.clone())) };
    let listener = Hosted::new("listener", vec![8], ApplicationHost::Node(Placement::Thread, Box::new(make)));
    let gateway = Gateway::start_with(1, vec![fragile(Placement::Worker).0, listener]);
    let client = gateway.client_builder().start().unwrap();
    let peer = peer_of(&client, &gateway, 0).await.unwrap();
    peer.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), CloseReason::WorkerFailed);
    assert!(CloseReason::WorkerFailed.to_string().contains("worker failed here; please report"));
}

/// Tells how connections end.
struct Listener(Sender<CloseReason>);

impl Application for Listener {
    fn poll(&mut self, _: Instant, port: &mut AppPort) -> bool {
        let Some(delivery) = port.receive() else { return false };
        if let Delivery::Connection(_, ConnectionEvent::Closed { reason }) = delivery {
            self.0.send(reason).unwrap();
        }
        true
    }
}
