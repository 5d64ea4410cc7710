//! Clients of a memif server that come and go, while a worker is at work on the server's queues.

mod common;

use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use common::{eal, in_own_process, memif, pattern, send, wait_for};
use dpdk::{Port, PortConfig, QueuePair};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};

/// What a listener of packets answers to a stream socket.
const EPROTOTYPE: i32 = 91;

/// Rounds of the tests: without gates, a server crashes within a hundred. More may be asked for.
fn rounds() -> usize {
    std::env::var("STOQ_MEMIF_ROUNDS").map_or(1000, |rounds| rounds.parse().unwrap())
}

/// A thread that sends and receives without a pause, as a worker under load does, until it is ended.
struct Load {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<QueuePair>,
}

impl Load {
    fn on(mut pair: QueuePair) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = thread::spawn(move || {
            let frame = pattern(1, 1500);
            while !end.load(Relaxed) {
                while send(&mut pair, &frame) {}
                pair.tx.flush();
                pair.rx.rx_burst(64).for_each(|got| assert_eq!(got.data.len(), 1500));
            }
            pair
        });
        Self { ended, thread }
    }

    fn end(self) -> QueuePair {
        self.ended.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// A process that is killed in the end, whatever it is at.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Threads that this process starts from now on share one core: the kernel then stops a worker in the middle of a burst.
fn share_one_core() {
    let cores = core_affinity::get_core_ids().unwrap();
    assert!(core_affinity::set_for_current(cores[0]));
}

#[test]
fn clients_that_leave_under_load_crash_no_server() {
    in_own_process("clients_that_leave_under_load_crash_no_server", || {
        share_one_core();
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let open = |role| {
            // Short rings, because the time of a round goes into their buffers.
            let device = memif(folder.path(), role, ",rsize=7");
            let config =
                PortConfig { device, rx_descriptors: 128, tx_descriptors: 128, ..PortConfig::default() };
            let (port, mut pairs) = Port::open(&eal, &config).unwrap();
            (port, pairs.remove(0))
        };
        let (server, pair) = open("server");
        let load = Load::on(pair);
        let frame = pattern(1, 1500);
        for _ in 0..rounds() {
            let (client, mut pair) = open("client");
            wait_for("the link", || client.link_up() && server.link_up());
            let mut got = 0;
            wait_for("frames", || {
                while send(&mut pair, &frame) {}
                pair.tx.flush();
                got += pair.rx.rx_burst(64).len();
                got > 0
            });
            drop((client, pair));
            wait_for("the server to notice", || !server.link_up());
        }
        load.end();
    });
}

#[test]
fn clients_that_leave_before_they_are_greeted_crash_no_server() {
    in_own_process("clients_that_leave_before_they_are_greeted_crash_no_server", || {
        share_one_core();
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let device = memif(folder.path(), "server", "");
        let (server, _pairs) = Port::open(&eal, &PortConfig { device, ..PortConfig::default() }).unwrap();
        let address = SocketAddrUnix::new(folder.path().join("memif.sock")).unwrap();
        for _ in 0..rounds() {
            let client = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            connect(&client, &address).unwrap();
        }
        let device = memif(folder.path(), "client", "");
        let (client, _pairs) = Port::open(&eal, &PortConfig { device, ..PortConfig::default() }).unwrap();
        wait_for("the link", || client.link_up() && server.link_up());
    });
}

#[test]
fn a_client_connects_again_after_its_server_was_killed_and_restarted() {
    const SERVER: &str = "DPDK_TEST_SERVER";
    let name = "a_client_connects_again_after_its_server_was_killed_and_restarted";
    let open = |folder: &Path, role| {
        let device = memif(folder, role, "");
        let (port, mut pairs) = Port::open(&eal(), &PortConfig { device, ..PortConfig::default() }).unwrap();
        (port, pairs.remove(0))
    };
    // A server is a grandchild: the same test, with the folder in a variable.
    if let Some(folder) = std::env::var_os(SERVER) {
        let (_port, pair) = open(folder.as_ref(), "server");
        Load::on(pair).thread.join().unwrap();
    }
    in_own_process(name, || {
        let folder = tempfile::tempdir().unwrap();
        let serve = || {
            let mut server = Command::new(std::env::current_exe().unwrap());
            server.args([name, "--exact"]).env(SERVER, folder.path()).stdout(Stdio::null());
            Killed(server.spawn().unwrap())
        };
        let mut server = serve();
        wait_for("the server", || {
            UnixStream::connect(folder.path().join("memif.sock"))
                .is_err_and(|error| error.raw_os_error() == Some(EPROTOTYPE))
        });
        let (client, pair) = open(folder.path(), "client");
        // It sends and receives all the while, also where no process listens.
        let load = Load::on(pair);
        for _ in 0..3 {
            wait_for("the link", || client.link_up());
            let before = client.stats();
            wait_for("frames both ways", || {
                let now = client.stats();
                now.ipackets > before.ipackets + 5000 && now.opackets > before.opackets + 5000
            });
            drop(server);
            wait_for("the client to notice", || !client.link_up());
            server = serve();
        }
        wait_for("the link", || client.link_up());
        load.end();
    });
}
