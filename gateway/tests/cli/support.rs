//! Gateways and clients as processes, in directories that are removed at the end of a test.

use crate::data::files;
use crate::wording::assert_well_said;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a test waits for a process.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Identities for all tests: to make them takes longer than a test.
pub(crate) struct Identities {
    directory: TempDir,
    pub(crate) gateway: String,
    pub(crate) client: String,
    pub(crate) stranger: String,
}

pub(crate) fn identities() -> &'static Identities {
    static MADE: OnceLock<Identities> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let make = |name: &str| make_identity(directory.path(), name);
        let (gateway, client, stranger) = (make("gateway"), make("client"), make("stranger"));
        Identities { directory, gateway, client, stranger }
    })
}

/// Makes `NAME.pem` and `NAME.key`. Returns the node ID.
pub(crate) fn make_identity(directory: &Path, name: &str) -> String {
    let (cert, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    run(stoq().args(["identity", "new", "--cert"]).arg(cert).arg("--key").arg(key), 0).0.trim().to_owned()
}

impl Identities {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub(crate) fn stoq() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stoq"))
}

pub(crate) fn stoq_gateway() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stoq-gateway"))
}

/// The configuration of a gateway. A test may replace every part.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
    pub(crate) port: u16,
    pub(crate) trust: String,
    pub(crate) identity: String,
    /// Additional lines of the seed's section.
    pub(crate) seed: String,
    /// Additional lines at the end.
    pub(crate) more: String,
    pub(crate) store: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let ids = identities();
        Self {
            store: directory.path().join("store"),
            port: free_port(),
            trust: format!("node_ids = [\"{}\"]", ids.client),
            identity: format!(
                "certificate = {:?}\nkey = {:?}",
                ids.file("gateway.pem"),
                ids.file("gateway.key")
            ),
            more: "[quic]\nidle_timeout_ms = 3000\nkeep_alive_ms = 1000\n".into(),
            seed: String::new(),
            directory,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn v4(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port)
    }

    pub(crate) fn v6(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), self.port)
    }

    /// Writes the configuration. Returns its path.
    pub(crate) fn configure(&self) -> PathBuf {
        let Self { port, trust, identity, seed, more, store, .. } = self;
        let mut text =
            format!("[network]\nkind = \"kernel-udp\"\nlisten = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\n");
        write!(text, "buffer_bytes = 1048576\n[identity]\n{identity}\n[trust]\n{trust}\n").unwrap();
        write!(
            text,
            "[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = {store:?}\nmemory_bytes = 4194304\n{seed}"
        )
        .unwrap();
        text += "[[application]]\nkind = \"echo\"\nqueues = [1]\n[[application]]\nkind = \"discard\"\nqueues = [2, 3]\n";
        text += more;
        let path = self.path("gateway.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts the gateway and waits until it serves.
    pub(crate) fn start(&mut self) -> Gateway {
        loop {
            match Gateway::start(&self.configure()) {
                Ok(gateway) => return gateway,
                // Another program has taken the port meanwhile.
                Err(log) if log.contains("another program") => self.port = free_port(),
                Err(log) => panic!("the gateway does not start:\n{log}"),
            }
        }
    }

    /// A client of this gateway, with its identity and trust.
    pub(crate) fn client(&self, tool: &str) -> Command {
        self.client_of(self.v4(), tool)
    }

    /// Like [`Self::client`], by this address of the gateway.
    pub(crate) fn client_of(&self, gateway: SocketAddr, tool: &str) -> Command {
        let ids = identities();
        let mut command = self.anonymous_of(gateway, tool);
        command.arg("--cert").arg(ids.file("client.pem")).arg("--key").arg(ids.file("client.key"));
        command.args(["--node-id", &ids.gateway]);
        command
    }

    /// A client without identity or trust.
    pub(crate) fn anonymous(&self, tool: &str) -> Command {
        self.anonymous_of(self.v4(), tool)
    }

    fn anonymous_of(&self, gateway: SocketAddr, tool: &str) -> Command {
        let mut command = stoq();
        command.arg(tool).args(["--gateway", &gateway.to_string()]).current_dir(self.directory.path());
        command
    }

    /// Writes a client's file that leads to this gateway, with more sections; gives its path.
    pub(crate) fn client_file(&self, more: &str) -> PathBuf {
        let ids = identities();
        let text = format!(
            "connect = \"{}\"\n[network]\nkind = \"kernel-udp\"\nlisten = [\"127.0.0.1:0\"]\nbuffer_bytes = 1048576\n\
             [identity]\ncertificate = {:?}\nkey = {:?}\n[trust]\nnode_ids = [\"{}\"]\n[log]\nlevel = \"warn\"\n{more}",
            self.v4(),
            ids.file("client.pem"),
            ids.file("client.key"),
            ids.gateway
        );
        let path = self.path("client.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Files that the store keeps, and files that it is writing.
    pub(crate) fn kept(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        (files(&self.store.join("data")), files(&self.store.join("tmp")))
    }

    /// Writes a file of this length. Returns its path and its token.
    pub(crate) fn file(&self, name: &str, len: usize) -> (PathBuf, String) {
        let (path, mut bytes) = (self.path(name), vec![0; len]);
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        (path, format!("b3:{}", blake3::hash(&bytes).to_hex()))
    }
}

/// Writes a file of mode 0600.
pub(crate) fn write_secret(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A port that is free on both families, and that no earlier call returned.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if !given.contains(&port) && UdpSocket::bind(("::1", port)).is_ok() {
            given.push(port);
            return port;
        }
    }
}

/// A running gateway. Killed when dropped.
pub(crate) struct Gateway {
    pub(crate) process: Process,
}

impl Gateway {
    fn start(config: &Path) -> Result<Self, String> {
        let process = Process::serve(config)?;
        assert_eq!(process.up["certificate_valid"], true);
        Ok(Self { process })
    }
}

/// A process whose standard error is read while it runs. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: String,
    /// The event `up` of a gateway, and the receiver of later ones.
    pub(crate) up: serde_json::Value,
    events: Receiver<String>,
}

/// Receives the lines of a stream as they arrive.
fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        Self { child, lines, log: String::new(), up: serde_json::Value::Null, events: channel().1 }
    }

    /// Starts a gateway and waits until it serves. If it ends instead, its log is the error.
    pub(crate) fn serve(config: &Path) -> Result<Self, String> {
        Self::serve_by(stoq_gateway().args(["run", "--config"]).arg(config))
    }

    /// Like [`Self::serve`], by this command.
    pub(crate) fn serve_by(command: &mut Command) -> Result<Self, String> {
        command.arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let events = lines_of(child.stdout.take().unwrap());
        let lines = lines_of(child.stderr.take().unwrap());
        let mut process = Self { child, lines, log: String::new(), up: serde_json::Value::Null, events };
        match process.event() {
            Some(up) => process.up = up,
            None => {
                process.end();
                return Err(process.log());
            }
        }
        assert_eq!(process.up["event"], "up");
        Ok(process)
    }

    /// The next event of a gateway; none if it ends without one.
    pub(crate) fn event(&mut self) -> Option<serde_json::Value> {
        match self.events.recv_timeout(PATIENCE) {
            // Where a test is the gateway, its harness prints lines of its own.
            Ok(line) if !line.starts_with('{') => self.event(),
            Ok(line) => Some(serde_json::from_str(&line).unwrap()),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no event within {PATIENCE:?}:\n{}", self.log()),
        }
    }

    /// Makes a gateway reload its files. Returns the event, which must be of this kind.
    #[track_caller]
    pub(crate) fn reload(&mut self, kind: &str) -> serde_json::Value {
        self.signal(rustix::process::Signal::HUP);
        let event = self.event().expect("the gateway runs");
        assert_eq!(event["event"], kind, "{event}");
        event
    }

    /// Ends a gateway in order. Returns the counters of its first worker, by name.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> serde_json::Value {
        self.signal(rustix::process::Signal::TERM);
        let mut event = self.event().expect("the gateway ends in order");
        assert_eq!(event["event"], "ended", "{event}");
        assert!(self.end().success());
        event["workers"][0]["counters"].take()
    }

    /// Starts a process with this standard error.
    pub(crate) fn with_log(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        // The command keeps its copy of the descriptor until it is given another one.
        command.stderr(Stdio::null());
        let (lines, events) = (channel().1, channel().1);
        Self { child, lines, log: String::new(), up: serde_json::Value::Null, events }
    }

    /// Closes the reading end of its standard error.
    pub(crate) fn stop_listening(&mut self) {
        self.lines = channel().1;
    }

    /// Its standard error so far: all of it once the process has ended.
    pub(crate) fn log(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.log += &line;
            self.log.push('\n');
        }
        self.log.clone()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has a handler of its own for this signal, and the thread that the handler tells.
    pub(crate) fn handles(&self, signal: rustix::process::Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten();
        let mut names =
            threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        caught & 1 << (signal.as_raw() - 1) != 0 && names.any(|name| name.trim() == "stoq-signals")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and for the last line that it logged.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        wait_until("a process ends", || !self.is_running());
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log += &line;
            self.log.push('\n');
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the condition is true, and looks again and again.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Runs a command to its end. Checks its exit code, and the form of its error if it fails. Returns its standard output and standard error.
#[track_caller]
pub(crate) fn run(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{command:?}\nout: {stdout}\nerr: {stderr}");
    assert_well_said(command, code, &stderr);
    (stdout, stderr)
}

/// Runs a tool with `--json` and returns its object.
#[track_caller]
pub(crate) fn json(command: &mut Command) -> serde_json::Value {
    let (stdout, _) = run(command.arg("--json"), 0);
    assert_eq!(stdout.lines().count(), 1, "one object on one line: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}
