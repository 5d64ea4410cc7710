//! The ends of connections and failed connects, each with its type: a client on the loopback interface against peers that refuse, close
//! or fall silent, and against ports without a peer.

mod loopback;

use loopback::Gateway;
use quinn_proto::TransportErrorCode;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use stoq::Client;
use stoq::client::{ClientBuilder, ClientError, CloseReason, ConnectOptions};
use stoq::datagram::Obstacle;
use stoq::names::ResolveError;
use stoq::record::ErrorCode;
use stoq::tls::{NodeId, RefusalReason, RefusedBy, TlsRefusal};

/// The most time that any step of these tests may take.
const PATIENCE: Duration = Duration::from_secs(60);

async fn with_patience<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("the step takes too long")
}

/// The reason why the connection ends, before it is up or right after: a client's handshake is over before its certificate is judged.
async fn end_of(builder: ClientBuilder, address: SocketAddr) -> CloseReason {
    let client = builder.start().unwrap();
    let options = ConnectOptions { timeout: PATIENCE, ..ConnectOptions::default() };
    match with_patience(client.connect_with(address, options)).await {
        Ok(peer) => with_patience(peer.closed()).await,
        Err(error) => {
            let reasons: Vec<_> = error.close_reasons().cloned().collect();
            assert_eq!(reasons.len(), 1, "{error}");
            assert_eq!(error.to_string(), format!("cannot connect to {address}: {}", reasons[0]));
            reasons.into_iter().next().unwrap()
        }
    }
}

fn local() -> ClientBuilder {
    Client::builder().listen(["127.0.0.1:0".parse().unwrap()])
}

fn tls(by: RefusedBy, reason: RefusalReason) -> CloseReason {
    CloseReason::Tls(TlsRefusal { by, reason })
}

#[tokio::test]
async fn each_refusal_has_its_type() {
    let (gateway, draining) = (Gateway::start(), Gateway::start());
    draining.node.shared().drain();
    let other = NodeId([9; 32]);
    let (another_version, answering) = speaks_another_version();
    let refused = TransportErrorCode::CONNECTION_REFUSED;
    let rows = [
        (
            "the gateway is another",
            local().trust_node(other),
            gateway.address(),
            tls(RefusedBy::Us, RefusalReason::NotPinned(Some(gateway.id))),
        ),
        (
            "the gateway wants a certificate",
            local().trust_node(gateway.id),
            gateway.address(),
            tls(RefusedBy::Peer, RefusalReason::NoClientCertificate),
        ),
        (
            "the gateway is leaving",
            draining.client_builder(),
            draining.address(),
            CloseReason::PeerQuic { code: refused, text: "".into() },
        ),
        (
            "there is no IPv6 here",
            gateway.client_builder(),
            "[::1]:4433".parse().unwrap(),
            CloseReason::Unreachable(Obstacle::NoFamily { v6: true }),
        ),
        (
            "nothing listens there",
            gateway.client_builder(),
            "127.0.0.1:1".parse().unwrap(),
            CloseReason::Unreachable(Obstacle::PortClosed),
        ),
        (
            "no port",
            gateway.client_builder(),
            "127.0.0.1:0".parse().unwrap(),
            CloseReason::Address("127.0.0.1:0".parse().unwrap()),
        ),
        ("another version of QUIC", gateway.client_builder(), another_version, CloseReason::Version),
    ];
    for (what, builder, address, reason) in rows {
        assert_eq!(end_of(builder, address).await, reason, "{what}");
    }
    answering.join().unwrap();
}

/// Answers one Initial with a Version Negotiation packet (RFC 9000 §17.2.1) that names no version of ours.
fn speaks_another_version() -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let mut packet = [0; 2048];
        let (len, client) = socket.recv_from(&mut packet).unwrap();
        let (destination, rest) = connection_id(&packet[5..len]);
        let (source, _) = connection_id(rest);
        let mut answer = vec![0x80, 0, 0, 0, 0];
        for id in [source, destination] {
            answer.push(id.len() as u8);
            answer.extend_from_slice(id);
        }
        answer.extend_from_slice(&[0x6b, 0x33, 0x43, 0xcf, 0xff, 0, 0, 0x1d]);
        socket.send_to(&answer, client).unwrap();
    });
    (address, answering)
}

fn connection_id(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[1..].split_at(bytes[0].into())
}

#[tokio::test]
async fn each_end_of_an_open_connection_has_its_type() {
    let gateway = Gateway::start();
    let client = gateway.client_builder().start().unwrap();

    let peer = client.connect(gateway.address()).await.unwrap();
    peer.close();
    assert_eq!(with_patience(peer.closed()).await, CloseReason::Local);

    let wire = Wire::to(gateway.address());
    let peer = client.connect(wire.address).await.unwrap();
    wire.cut();
    assert_eq!(with_patience(peer.closed()).await, CloseReason::TimedOut);

    let peer = client.connect(gateway.address()).await.unwrap();
    // An answer shows that the gateway has completed the handshake as well: before it, QUIC hides the reason (RFC 9000 §10.2.3).
    with_patience(peer.describe(stoq::token::Token::of(b"x"))).await.unwrap_err();
    let stopping = tokio::task::spawn_blocking(move || drop(gateway));
    let reason = with_patience(peer.closed()).await;
    assert_eq!(reason, CloseReason::Peer { number: 0x0d, text: "shutting down".into() });
    assert_eq!(reason.code(), Some(ErrorCode::GoingAway));
    stopping.await.unwrap();
    let lost = peer.describe(stoq::token::Token::of(b"x")).await.unwrap_err();
    assert_eq!(lost.close_reasons().collect::<Vec<_>>(), [&reason]);
}

/// A wire to a gateway: passes datagrams of one client both ways until it is cut.
struct Wire {
    address: SocketAddr,
    whole: Arc<AtomicBool>,
    passing: JoinHandle<()>,
}

impl Wire {
    fn to(gateway: SocketAddr) -> Self {
        let (outer, inner) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        inner.connect(gateway).unwrap();
        for socket in [&outer, &inner] {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        }
        let (address, whole) = (outer.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let goes_on = whole.clone();
        let passing = std::thread::spawn(move || {
            let (mut packet, mut client) = ([0; 65_536], None);
            while goes_on.load(Ordering::Acquire) {
                if let Ok((len, from)) = outer.recv_from(&mut packet) {
                    client = Some(from);
                    let _ = inner.send(&packet[..len]);
                }
                if let (Ok(len), Some(client)) = (inner.recv(&mut packet), client) {
                    let _ = outer.send_to(&packet[..len], client);
                }
            }
            // The port stays taken, and silent.
            std::mem::forget(outer);
        });
        Self { address, whole, passing }
    }

    fn cut(self) {
        self.whole.store(false, Ordering::Release);
        self.passing.join().unwrap();
    }
}

#[tokio::test]
async fn a_text_that_is_no_address_and_a_name_without_one_are_different_errors() {
    let gateway = Gateway::start();
    let client = gateway.client_builder().start().unwrap();
    let no_address = client.connect("two words").await.unwrap_err();
    assert!(matches!(no_address, ClientError::Address(_)), "{no_address}");
    let unknown = with_patience(client.connect("nowhere.invalid:4433")).await.unwrap_err();
    assert!(matches!(unknown, ClientError::Resolve(ResolveError::Resolver { .. })), "{unknown}");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let soon = ConnectOptions { timeout: Duration::from_millis(50), ..ConnectOptions::default() };
    let late = client.connect_with(silent.local_addr().unwrap(), soon).await.unwrap_err();
    assert!(matches!(late, ClientError::Timeout { .. }) && late.close_reasons().next().is_none(), "{late}");
}
