//! Helpers of the tests over real DPDK ports.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    env, fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use dpdk::{Eal, EalConfig, Port, PortConfig, QueuePair, TxOffload};

const CHILD: &str = "DPDK_TEST_CHILD";
const NOBODY: u32 = 65534;

/// Runs a scenario in a process of its own, because EAL starts once a process. `name` is the calling test's name.
pub(crate) fn in_own_process(name: &str, scenario: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return scenario();
    }
    let program = env::current_exe().unwrap();
    run(Command::new(program).args([name, "--exact", "--nocapture"]));
}

/// Like [`in_own_process`], as a user without privileges. If the test does not run as root, there is no difference.
pub(crate) fn as_ordinary_user(name: &str, scenario: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return scenario();
    }
    // The build folder may not be readable by others.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("scenario");
    // Copied by another process: a fork of a parallel test would keep the new file open for writing, and a
    // program that is open for writing cannot be run.
    assert!(Command::new("cp").arg(env::current_exe().unwrap()).arg(&program).status().unwrap().success());
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args([name, "--exact", "--nocapture"]).current_dir("/").env_remove("XDG_RUNTIME_DIR");
    command.env("TMPDIR", "/tmp");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    run(&mut command);
}

fn run(command: &mut Command) {
    let output = command.env(CHILD, "1").output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An environment in huge pages if there are any.
pub(crate) fn eal() -> Arc<Eal> {
    let config = EalConfig { memory_mib: 128, ..EalConfig::default() };
    Arc::new(Eal::init(&config).expect("DPDK starts"))
}

/// One side of a memif over a socket in `folder`.
pub(crate) fn memif(folder: &Path, role: &str, options: &str) -> String {
    let name = if role == "server" { "net_memif0" } else { "net_memif1" };
    let socket = folder.join("memif.sock");
    format!("{name},role={role},id=0,socket={},socket-abstract=no{options}", socket.display())
}

/// Both ends of a memif in this process, with the link up.
pub(crate) struct Link {
    pub(crate) server: (Port, Vec<QueuePair>),
    pub(crate) client: (Port, Vec<QueuePair>),
}

impl Link {
    pub(crate) fn open(eal: &Arc<Eal>, folder: &Path, options: &str, config: &PortConfig) -> Self {
        let open = |role| {
            let device = memif(folder, role, options);
            Port::open(eal, &PortConfig { device, ..config.clone() })
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let link = Self { server: open("server"), client: open("client") };
        wait_for("the link", || link.server.0.link_up() && link.client.0.link_up());
        link
    }

    /// Runs `check` on the first queues, with each end as the sender once.
    pub(crate) fn both_ways(&mut self, mut check: impl FnMut(&mut QueuePair, &mut QueuePair)) {
        check(&mut self.server.1[0], &mut self.client.1[0]);
        check(&mut self.client.1[0], &mut self.server.1[0]);
    }
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// Bytes that differ from every other frame's.
pub(crate) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn send(pair: &mut QueuePair, frame: &[u8]) -> bool {
    pair.tx.frame(TxOffload::None, frame.len(), |to| to.copy_from_slice(frame))
}

/// Flushes one end and receives at the other until `frames` have arrived. A memif client lends its server the buffers
/// to send into when it first polls, so both must be driven at once.
pub(crate) fn cross(from: &mut QueuePair, to: &mut QueuePair, frames: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    wait_for("frames", || {
        from.tx.flush();
        to.rx.rx_burst(64).for_each(|frame| got.push(frame.data.to_vec()));
        got.len() >= frames
    });
    assert_eq!(from.tx.pending(), 0);
    got
}

/// The next `frames` frames.
pub(crate) fn receive(pair: &mut QueuePair, frames: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    wait_for("frames", || {
        pair.rx.rx_burst(64).for_each(|frame| got.push(frame.data.to_vec()));
        got.len() >= frames
    });
    got
}
