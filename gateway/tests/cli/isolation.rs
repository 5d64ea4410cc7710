//! A gateway in which a worker panics. No request brings that about, so this test is the gateway: it runs itself again, with one more application.

use crate::admin::get;
use crate::support::{PATIENCE, Process, Site, identities, wait_until};
use bytes::Bytes;
use rustix::process::Signal;
use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use stoq::application::{Application, Outbox, Placement, Received};
use stoq::client::{Client, ClientError, CloseReason, ConnectOptions, Kept, Peer, Prepared, PutOptions};
use stoq::limits::LOG_FLUSH_MS_MAX;
use stoq::node::{ApplicationHost, Hosted};
use stoq::queue::{Command as Answer, ConnectionEvent, ConnectionId, Credit, Delivery, RequestId};
use stoq::record::{ErrorCode, ErrorRecord};
use stoq_gateway::admin::client::Remote;
use stoq_gateway::output;

const CHILD: &str = "STOQ_TEST_FRAGILE_GATEWAY";
/// The queue of [`Fragile`].
const FRAGILE: u64 = 9;

/// Answers each message with its worker's number. Holds requests until the message "answer", and panics at "fall".
#[derive(Default)]
struct Fragile {
    worker: u8,
    credits: HashMap<ConnectionId, Credit>,
    held: Vec<RequestId>,
    outbox: Outbox,
}

impl Application for Fragile {
    fn poll(&mut self, _: Instant, port: &mut stoq::queue::AppPort) -> bool {
        let Some(Received::Other(delivery)) = self.outbox.receive(port) else { return false };
        match delivery {
            Delivery::Asked(request, _) => self.held.push(request),
            Delivery::Connection(id, ConnectionEvent::Connected { credit, .. }) => {
                self.credits.insert(id, credit);
            }
            Delivery::Connection(id, ConnectionEvent::Message { payload, .. }) => {
                match &*payload.to_bytes() {
                    b"fall" => panic!("a fault of an application"),
                    b"answer" => {
                        for request in self.held.drain(..) {
                            let held = ErrorRecord::new(ErrorCode::NotFound, 0, "held");
                            self.outbox.send(port, Answer::refuse(request, held));
                        }
                    }
                    _ => {}
                }
                let answer = Bytes::copy_from_slice(&[self.worker]);
                self.outbox.answer_message(port, id, &self.credits[&id], FRAGILE, answer);
            }
            _ => {}
        }
        true
    }
}

/// The gateway, where this is its process.
#[test]
fn fragile_gateway() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let make =
        |worker| -> Box<dyn Application> { Box::new(Fragile { worker: worker as u8, ..Fragile::default() }) };
    let host = ApplicationHost::Node(Placement::Worker, Box::new(make));
    let more = vec![Hosted::new("fragile", vec![FRAGILE], host)];
    let code = match stoq_gateway::run::serve(Path::new(&file), true, more) {
        Ok(()) => 0,
        Err(error) => {
            let limit = std::time::Duration::from_millis(LOG_FLUSH_MS_MAX);
            output::failed_within("stoq-gateway", "", &error, limit)
        }
    };
    std::process::exit(code.into());
}

/// A fragile gateway of two workers, and its admin endpoint.
fn start(site: &mut Site, on_panic: &str) -> (Process, Remote) {
    site.more = format!(
        "[workers]\ncount = 2\n[shutdown]\ndrain_ms = 60000\non_panic = \"{on_panic}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    );
    // The shell takes the option that a gateway is given.
    let line = "exec \"$0\" --exact isolation::fragile_gateway --nocapture";
    let mut command = Command::new("sh");
    command.args(["-c", line]).arg(std::env::current_exe().unwrap()).env(CHILD, site.configure());
    let process = Process::serve_by(&mut command).unwrap_or_else(|log| panic!("{log}"));
    let at = process.up["admin"].as_str().unwrap().to_owned();
    (process, Remote::new(&format!("http://{at}"), None, None).unwrap())
}

async fn with_patience<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("the step takes too long")
}

async fn answer(peer: &Peer, text: &'static [u8]) -> usize {
    peer.send_message(FRAGILE, Bytes::from_static(text)).await.unwrap();
    with_patience(peer.message()).await.unwrap().payload[0].into()
}

/// Clients with a connection to each of the two workers. The kernel chooses a worker by the client's port.
async fn on_both(site: &Site) -> [(Client, Peer); 2] {
    let ids = identities();
    let mut found = [None, None];
    while found.iter().any(Option::is_none) {
        let builder = Client::builder()
            .identity_files(ids.file("client.pem"), ids.file("client.key"))
            .trust_node(ids.gateway.parse().unwrap())
            .listen(["127.0.0.1:0".parse().unwrap()]);
        let client = builder.start().unwrap();
        let options = ConnectOptions { timeout: PATIENCE, ..ConnectOptions::default() };
        let peer = client.connect_with(site.v4(), options).await.unwrap();
        let worker = answer(&peer, b"where").await;
        found[worker].get_or_insert((client, peer));
    }
    found.map(Option::unwrap)
}

/// A put to the application that holds it.
async fn put_held(peer: &Peer) -> Result<Kept, ClientError> {
    let options = PutOptions { queue: Some(FRAGILE), ..PutOptions::default() };
    peer.put_with(&Prepared::bytes("held"), options, |_| {}).await
}

fn wait_until_held(remote: &Remote) {
    wait_until("the request is held", || get(remote, "/debug/connections").contains("\"requests\":1"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_worker_that_panics_ends_the_gateway_once_the_others_have_finished() {
    let mut site = Site::new();
    let (mut gateway, remote) = start(&mut site, "drain");
    runtime().block_on(async {
        let [(_one, stays), (_other, falls)] = on_both(&site).await;
        let put = put_held(&stays);
        let rest = async {
            // The request is there: messages overtake it no more.
            wait_until_held(&remote);
            falls.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
            assert_eq!(with_patience(falls.closed()).await, CloseReason::Reset);
            wait_until("the drain begins", || remote.get("/readyz").unwrap().1.contains("draining"));
            let (code, ready) = remote.get("/readyz").unwrap();
            assert_eq!(code, 503);
            assert!(ready.contains("thread stoq-worker-1 panicked") && !ready.contains("fault"), "{ready}");
            let metrics = get(&remote, "/metrics");
            let counted =
                ["stoq_workers_failed_total{worker=\"1\"} 1", "stoq_workers_failed_total{worker=\"0\"} 0"];
            for line in counted.into_iter().chain(["stoq_panics_total 1"]) {
                assert!(metrics.lines().any(|shown| shown == line), "{line} in {metrics}");
            }
            assert_eq!(answer(&stays, b"answer").await, 0, "the other worker serves on");
        };
        let (put, ()) = with_patience(async { tokio::join!(put, rest) }).await;
        let Err(ClientError::Refused(refused)) = put else { panic!("{put:?}") };
        assert_eq!(refused.reason(), "held");
    });
    assert_eq!(gateway.event().unwrap()["event"], "ended", "in order");
    assert_eq!(gateway.end().code(), Some(1));
    let log = gateway.log();
    assert!(log.contains("a worker panicked: a fault of an application; its connections are gone"), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("stoq-gateway: thread stoq-worker-1 panicked at "), "{log}");
    assert!(last.ends_with(": a fault of an application; please report this, with the log"), "{log}");
}

#[test]
fn a_second_signal_ends_a_drain_at_once_with_the_fault_that_began_it() {
    for falls in [false, true] {
        let mut site = Site::new();
        let (mut gateway, remote) = start(&mut site, "drain");
        runtime().block_on(async {
            let [(_one, stays), (_other, other)] = on_both(&site).await;
            let put = put_held(&stays);
            let rest = async {
                wait_until_held(&remote);
                if falls {
                    other.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
                    assert_eq!(with_patience(other.closed()).await, CloseReason::Reset);
                } else {
                    gateway.signal(Signal::TERM);
                }
                wait_until("the drain begins", || remote.get("/readyz").unwrap().1.contains("draining"));
                gateway.signal(Signal::TERM);
                assert_eq!(gateway.end().code(), Some(if falls { 1 } else { 130 }), "{}", gateway.log());
            };
            with_patience(async {
                // The rest blocks: the put is sent before.
                tokio::select! { biased; put = put => panic!("{put:?}"), () = rest => {} }
            })
            .await;
        });
        let log = gateway.log();
        assert!(log.contains("second signal: not waiting for running requests"), "{log}");
        let says = log.lines().last().unwrap().starts_with("stoq-gateway: thread stoq-worker-1 panicked at ");
        assert_eq!(says, falls, "{log}");
    }
}

#[test]
fn a_panic_aborts_a_gateway_that_is_to_abort() {
    let mut site = Site::new();
    let (mut gateway, _) = start(&mut site, "abort");
    runtime().block_on(async {
        let [(_one, peer), _other] = on_both(&site).await;
        peer.send_message(FRAGILE, Bytes::from_static(b"fall")).await.unwrap();
        // The client sends the message while it lives.
        let ended = gateway.end();
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
    });
    assert!(gateway.log().contains("panic: a fault of an application"), "{}", gateway.log());
}
