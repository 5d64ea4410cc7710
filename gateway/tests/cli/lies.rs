//! The tools against a gateway that lies: in its reasons, about lengths, in its bytes, in its confirmations, and by silence in each place. Every
//! run ends with one clear error, shows nothing raw, and leaves nothing that a get from an honest gateway stumbles over.

use crate::support::{Site, identities, run, wait_until};
use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, DatagramEvent, Endpoint, Event, ServerConfig, VarInt};
use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::datagram::kernel::{KernelUdp, KernelUdpConfig};
use stoq::node::{ApplicationHost, Hosted, Node, NodeConfig};
use stoq::queue::{Answer, AppPort, Command as Order, Credit, Delivery, Ending, RequestId};
use stoq::quic::transport::QuicConfig;
use stoq::record::{Coverage, Done, ErrorCode, ErrorRecord, Holder, Holders, OkRecord, Request};
use stoq::tls::{ClientAuth, Identity, NodeId, ServerTls, Trust, server_config};
use stoq::token::{EncodedPiece, Outboard, Ranges, Token, VerifiedEncoder};
use stoq::wire::IpFamily;

/// A title, a clipboard, a success line, a turned direction of writing, hidden letters.
const TEXT: &str = "\u{1b}]0;owned\u{7}\u{1b}]52;c;cm0=\u{1b}\\\r\ngot it, all kept\n\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}\u{200b}\u{7f}";

/// How a gateway lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It refuses everything, by [`TEXT`].
    Text,
    /// It claims another length and gives the bytes that match the token.
    Length(u64),
    /// One bit of the last group is inverted.
    Proof,
    /// The answer ends in its middle.
    CutShort,
    /// It answers nothing.
    Silent,
    /// It begins each answer and does not go on.
    Stops,
    /// It confirms another token.
    Receipt,
    /// It names a holder that keeps everything for ever.
    Holder,
}

/// An application that takes all requests.
struct Liar {
    lie: Lie,
    payload: Bytes,
    answers: HashMap<RequestId, (Credit, VecDeque<Bytes>)>,
    orders: VecDeque<Order>,
}

fn encoding(payload: &[u8], ranges: Ranges) -> VecDeque<Bytes> {
    let (_, outboard) = Outboard::build(payload, payload.len() as u64).unwrap();
    let mut encoder = VerifiedEncoder::new(outboard, ranges).unwrap();
    let (mut pieces, mut encoded) = (Vec::new(), VecDeque::new());
    while !encoder.is_complete() {
        encoder.next_batch(1 << 20, &mut pieces).unwrap();
        encoded.extend(pieces.drain(..).map(|piece| match piece {
            EncodedPiece::Proof(hashes) => hashes,
            EncodedPiece::Data { offset, len } => Bytes::copy_from_slice(&payload[offset as usize..][..len]),
        }));
    }
    encoded
}

impl Liar {
    fn asked(&mut self, request: RequestId, what: Request, credit: Credit) {
        let other = Token::of(b"another payload").into();
        let answer = match (self.lie, what) {
            (Lie::Text, _) => {
                let failure = ErrorRecord::new(ErrorCode::Busy, 0, TEXT);
                return self.orders.push_back(Order::refuse(request, failure));
            }
            (Lie::Silent, _) => return,
            (Lie::Receipt, Request::Put(_) | Request::Mirror(_)) => {
                Answer::Done(Done { bytes: u64::MAX >> 2, token: other })
            }
            (Lie::Stops, Request::Put(_)) => return self.orders.push_back(Order::accept(request)),
            (Lie::Holder, Request::Locate(_)) => {
                let (coverage, expires_s) = (Coverage::All, u64::MAX >> 2);
                Answer::Holders(Holders {
                    holders: vec![Holder { node: NodeId([7; 32]), coverage, expires_s }],
                })
            }
            (_, Request::Fetch(fetch)) => return self.fetch(request, fetch.ranges, fetch.describe, credit),
            _ => return,
        };
        self.orders.push_back(Order::answer(request, answer));
    }

    fn fetch(&mut self, request: RequestId, ranges: Ranges, describe: bool, credit: Credit) {
        let real = self.payload.len() as u64;
        let length_bytes = if let Lie::Length(claimed) = self.lie { claimed } else { real };
        let ok = OkRecord { length_bytes, descriptor: None };
        self.orders.push_back(Order::answer(request, Answer::Ok(ok)));
        if describe {
            return self.orders.push_back(Order::End(request, Ending::Finish));
        }
        let ranges = if ranges.selected_bytes(real).is_ok() { ranges } else { Ranges::all() };
        let mut encoded = encoding(&self.payload, ranges);
        match self.lie {
            Lie::Proof => {
                let mut last = encoded.pop_back().unwrap().to_vec();
                *last.last_mut().unwrap() ^= 1;
                encoded.push_back(last.into());
            }
            Lie::CutShort | Lie::Stops => encoded.truncate(encoded.len() / 2),
            _ => {}
        }
        self.answers.insert(request, (credit, encoded));
    }
}

impl Application for Liar {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            match delivery {
                Delivery::Asked(request, asked) => self.asked(request, asked.request, asked.credit),
                Delivery::Ended(request, _) => drop(self.answers.remove(&request)),
                _ => {}
            }
        }
        while let Some(order) = self.orders.pop_front() {
            port.send(order).unwrap();
            worked = true;
        }
        let stops = self.lie == Lie::Stops;
        self.answers.retain(|&request, (credit, encoded)| {
            while let Some(bytes) = encoded.pop_front() {
                if let Err(bytes) = port.send_data(request, credit, bytes) {
                    encoded.push_front(bytes);
                    return true;
                }
                worked = true;
            }
            if !stops {
                port.send(Order::End(request, Ending::Finish)).unwrap();
            }
            stops
        });
        worked
    }
}

fn server_tls(name: &str) -> ServerTls {
    let ids = identities();
    let identity =
        Identity::load(&ids.file(&format!("{name}.pem")), &ids.file(&format!("{name}.key"))).unwrap();
    let trust = Trust::pinned([&ids.client, &ids.gateway].map(|id| id.parse().unwrap())).unwrap();
    ServerTls::new(identity, ClientAuth::Required(trust))
}

/// A gateway of the site's identity that lies about this payload; the site's clients lead to it.
fn liar(site: &mut Site, lie: Lie, payload: &[u8]) -> Node {
    let payload = Bytes::copy_from_slice(payload);
    let make = move |_: usize| -> Box<dyn Application> {
        let (answers, orders) = (HashMap::new(), VecDeque::new());
        Box::new(Liar { lie, payload: payload.clone(), answers, orders })
    };
    let host = ApplicationHost::Node(Placement::Worker, Box::new(make));
    let hosted = Hosted { store: true, ..Hosted::new("liar", vec![0], host) };
    let udp = KernelUdpConfig { reuse_port: false, buffer_bytes: 1 << 20, hear_errors: true };
    let network = KernelUdp::bind(&["127.0.0.1:0".parse().unwrap()], udp).unwrap();
    let config =
        NodeConfig { server: Some(server_config(&server_tls("gateway")).unwrap()), ..NodeConfig::default() };
    let node = Node::start(vec![network], &config, vec![hosted]).unwrap();
    site.port = node.networks()[0].local[0].port();
    node
}

/// A QUIC endpoint of the identity of this name that sends no record. It closes each connection with [`TEXT`], or lets it be.
struct RawGateway {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RawGateway {
    fn start(name: &'static str, closes: bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (address, ending) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let ended = ending.clone();
        let thread = std::thread::spawn(move || serve(&socket, name, closes, &ended));
        Self { address, ending, thread: Some(thread) }
    }
}

impl Drop for RawGateway {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(socket: &UdpSocket, name: &str, closes: bool, ended: &AtomicBool) {
    let mut config = ServerConfig::with_crypto(server_config(&server_tls(name)).unwrap());
    config.transport_config(QuicConfig::default().transport(1500, IpFamily::V4, 256));
    let mut endpoint = Endpoint::new(Arc::default(), Some(Arc::new(config)), true, None);
    let mut connections: HashMap<_, Connection> = HashMap::new();
    let (mut datagram, mut out) = (vec![0; 65_536], Vec::new());
    while !ended.load(Ordering::Relaxed) {
        let received = socket.recv_from(&mut datagram);
        let now = Instant::now();
        if let Ok((len, remote)) = received {
            out.clear();
            let data = BytesMut::from(&datagram[..len]);
            match endpoint.handle(now, remote, None, None, data, &mut out) {
                Some(DatagramEvent::NewConnection(incoming)) => {
                    if let Ok((handle, quic)) = endpoint.accept(incoming, now, &mut out, None) {
                        connections.insert(handle, quic);
                    }
                }
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    connections.entry(handle).and_modify(|quic| quic.handle_event(event));
                }
                Some(DatagramEvent::Response(_)) | None => {}
            }
        }
        connections.retain(|handle, quic| {
            if quic.poll_timeout().is_some_and(|at| at <= now) {
                quic.handle_timeout(now);
            }
            while let Some(event) = quic.poll() {
                if closes && matches!(event, Event::Connected) {
                    quic.close(now, VarInt::from_u32(0x0c), Bytes::from_static(TEXT.as_bytes()));
                }
            }
            out.clear();
            while let Some(transmit) = quic.poll_transmit(now, 1, &mut out) {
                let _ = socket.send_to(&out[..transmit.size], transmit.destination);
                out.clear();
            }
            let mut drained = false;
            while let Some(event) = quic.poll_endpoint_events() {
                drained |= event.is_drained();
                if let Some(event) = endpoint.handle_event(*handle, event) {
                    quic.handle_event(event);
                }
            }
            !drained
        });
    }
}

/// Runs a tool that must fail. Its output has no letter that acts on a terminal, as text and as JSON. A busy machine may have no time for the
/// handshake within [`TIMEOUT`], or for what the tool waits for: it is then run again.
#[track_caller]
fn fails(command: &mut Command, part: &str) {
    let mut ends = (0..RUNS_MAX).map(|_| run(command, 1));
    let late = |stderr: &str| stderr.contains("no answer from") || stderr.contains("no echo from");
    let (stdout, stderr) = ends.find(|(_, stderr)| !late(stderr)).expect("a machine with time for it");
    for shown in [&stdout, &stderr] {
        let raw = |letter: char| (letter.is_control() && letter != '\n') || !letter.is_ascii();
        assert!(!shown.contains(raw), "{command:?}: {shown:?}");
    }
    // One error; a line of a gateway's text begins none.
    assert_eq!(stderr.lines().filter(|line| line.starts_with("stoq: ")).count(), 1, "{stderr}");
    assert!(!stderr.lines().any(|line| line.starts_with("got it")), "{stderr}");
    assert!(stderr.contains(part), "{command:?} does not say {part:?}: {stderr}");
}

/// How the text of a lying gateway is shown.
const SHOWN: &str = r"\u{1b}]0;owned\u{7}";
/// More than one look at silence, and less than a test's patience.
const TIMEOUT: &str = "1";
/// Runs of a tool until the machine has time for it.
const RUNS_MAX: usize = 60;

#[test]
fn a_get_from_a_lying_gateway_fails_clearly_and_an_honest_one_goes_on_after_it() {
    let mut honest = Site::new();
    let _gateway = honest.start();
    let (path, token) = honest.file("file", 80 * 16_384 + 5);
    run(honest.client("put").arg(&path), 0);
    let bytes = std::fs::read(&path).unwrap();
    let length = bytes.len() as u64;
    let rows = [
        (Lie::Text, SHOWN),
        (Lie::Length(0), "bad proof"),
        (Lie::Length(length - 1), ""),
        (Lie::Length(length + 1), ""),
        (Lie::Length(1 << 50), ""),
        (Lie::Proof, "bad proof"),
        (Lie::CutShort, ""),
        (Lie::Silent, "has not answered"),
        (Lie::Stops, "has stopped in the middle of its answer"),
    ];
    let honest = &honest;
    let (token, bytes) = (&token, &bytes);
    std::thread::scope(|scope| {
        for (lie, part) in rows {
            scope.spawn(move || {
                let mut site = Site::new();
                let _liar = liar(&mut site, lie, bytes);
                let get = |more: &[&str]| {
                    let mut get = site.client("get");
                    get.args([token, "--timeout", TIMEOUT]).args(more);
                    get
                };
                // The second attempt describes the payload first, where the first left a part.
                fails(&mut get(&["-o", "copy"]), part);
                fails(&mut get(&["-o", "copy", "--json"]), "");
                fails(&mut get(&["-o", "gathered", "--from", &site.v4().to_string()]), "");
                // Checked bytes alone reach standard output.
                let got = get(&["-o", "-"]).output().unwrap();
                assert!(got.status.code() == Some(1) && bytes.starts_with(&got.stdout), "{lie:?}");
                for output in ["copy", "gathered"] {
                    assert!(!site.path(output).exists(), "{lie:?} {output}");
                    let mut get = honest.client("get");
                    get.arg(token).arg("-o").arg(site.path(output));
                    run(&mut get, 0);
                    assert!(std::fs::read(site.path(output)).unwrap() == *bytes, "{lie:?} {output}");
                }
                let left: Vec<_> = std::fs::read_dir(site.directory.path()).unwrap().flatten().collect();
                assert_eq!(left.len(), 2, "{lie:?}: no part or note stays: {left:?}");
            });
        }
    });
}

#[test]
fn other_requests_to_a_lying_gateway_fail_clearly() {
    let rows: [(Lie, &[&str], &str); 10] = [
        (Lie::Text, &["put", "file"], SHOWN),
        (Lie::Text, &["locate", "TOKEN"], SHOWN),
        (Lie::Text, &["mirror", "TOKEN", "--on", "GATEWAY"], SHOWN),
        (Lie::Receipt, &["put", "file"], "do not rely on this copy"),
        (Lie::Receipt, &["mirror", "TOKEN", "--on", "GATEWAY"], "do not rely on this copy"),
        (Lie::Silent, &["put", "file"], "has not answered"),
        (Lie::Silent, &["locate", "TOKEN"], "has not answered"),
        (Lie::Silent, &["mirror", "TOKEN", "--on", "GATEWAY"], "has not answered"),
        (Lie::Silent, &["bench", "--get", "TOKEN"], "has not answered"),
        (Lie::Stops, &["put", "file"], "was sent the whole payload and does not confirm it"),
    ];
    std::thread::scope(|scope| {
        for (lie, args, part) in rows {
            scope.spawn(move || {
                let mut site = Site::new();
                let (path, token) = site.file("file", 100_000);
                let _liar = liar(&mut site, lie, &std::fs::read(path).unwrap());
                let mut command = site.client(args[0]);
                for arg in &args[1..] {
                    match *arg {
                        "TOKEN" => command.arg(&token),
                        "GATEWAY" => command.arg(site.v4().to_string()),
                        arg => command.arg(arg),
                    };
                }
                fails(command.args(["--timeout", TIMEOUT]), part);
            });
        }
    });
    // A holder that keeps it for the longest time there is.
    let mut site = Site::new();
    let _liar = liar(&mut site, Lie::Holder, b"");
    let (stdout, _) = run(site.client("locate").arg(format!("b3:{}", "0".repeat(64))), 0);
    assert!(stdout.lines().count() == 2 && stdout.is_ascii(), "{stdout}");
}

#[test]
fn a_gateway_without_settings_and_one_that_closes_are_told_apart() {
    for (closes, part) in [(false, "has sent no SETTINGS within 1 s of the handshake"), (true, SHOWN)] {
        let (mut site, raw) = (Site::new(), RawGateway::start("gateway", closes));
        site.port = raw.address.port();
        let (_, token) = site.file("file", 100);
        for tool in [&["put", "file"][..], &["locate", &token], &["get", &token, "-o", "copy"], &["ping"]] {
            fails(site.client(tool[0]).args(&tool[1..]).args(["--timeout", TIMEOUT]), part);
        }
        assert!(!site.path("copy").exists());
    }
}

#[test]
fn a_peer_gateways_texts_are_harmless_in_the_log() {
    for format in ["text", "json"] {
        let raw = RawGateway::start("stranger", true);
        let mut site = Site::new();
        let ids = identities();
        let node = &ids.stranger;
        site.trust = format!("node_ids = [\"{}\", \"{node}\"]", ids.client);
        site.more = format!(
            "[[gateway]]\nnode_id = \"{node}\"\nname = \"north\"\naddresses = [\"{}\"]\n[log]\nformat = \"{format}\"\n",
            raw.address
        );
        let mut gateway = site.start();
        let process = &mut gateway.process;
        wait_until("the peer gateway's text is logged", || process.log().contains("got it, all kept"));
        let log = process.log();
        let raw = |letter: char| (letter.is_control() && letter != '\n') || !letter.is_ascii();
        assert!(!log.contains(raw), "{log:?}");
        assert!(!log.lines().any(|line| line.starts_with("got it")), "{log}");
        if format == "json" {
            for line in log.lines().filter(|line| line.contains("got it")) {
                assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
            }
        }
    }
}
