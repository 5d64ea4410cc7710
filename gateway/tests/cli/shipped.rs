//! Every shipped configuration, started by the commands of the documentation. The tests change node IDs, which are each machine's own;
//! ports, so that tests may run beside each other; the store's directory; and for DPDK the device and its memory.

use crate::support::{Process, Site, identities, make_identity, run, stoq, stoq_gateway};
use std::path::{Path, PathBuf};

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(name)).unwrap()
}

/// The directory of a machine: the configuration, and a new identity beside it.
struct Machine {
    site: Site,
    config: PathBuf,
    node_id: String,
}

impl Machine {
    fn new(text: &str, replaced: &[(&str, &str)]) -> Self {
        let site = Site::new();
        let directory = site.directory.path();
        let (_, path) = text.split_once("certificate = \"").unwrap();
        let certificate = Path::new(path.split_once('"').unwrap().0);
        let node_id = make_identity(directory, certificate.file_stem().unwrap().to_str().unwrap());
        let (port, store) = (format!(":{}", site.port), directory.join("store"));
        let unknown = "a".repeat(52);
        let mut text = text.replace(":4433", &port).replace(&unknown, &identities().client);
        text = text.replace("/var/lib/stoq\"", &format!("{}\"", store.display()));
        text = text.replace("/etc/stoq-identity", &directory.display().to_string());
        for (from, to) in replaced {
            assert!(text.contains(from), "{from} stands in the file");
            text = text.replace(from, to);
        }
        let config = directory.join("gateway.toml");
        std::fs::write(&config, text).unwrap();
        Self { site, config, node_id }
    }

    /// Checks and starts, as the documentation says.
    fn start(&self) -> Process {
        let (stdout, _) = run(stoq_gateway().args(["check", "--config"]).arg(&self.config), 0);
        assert!(stdout.trim_end().ends_with("ready"), "{stdout}");
        Process::serve(&self.config).unwrap()
    }
}

#[test]
fn the_kernels_gateways_start_and_serve_both_families() {
    for name in ["configs/gateway-kernel.toml", "packaging/gateway.toml"] {
        let machine = Machine::new(&shipped(name), &[]);
        let mut process = machine.start();
        let ids = identities();
        for gateway in [machine.site.v4(), machine.site.v6()] {
            let client = |tool: &str| {
                let mut command = stoq();
                command.args([tool, "--gateway", &gateway.to_string(), "--node-id", &machine.node_id]);
                command.arg("--cert").arg(ids.file("client.pem")).arg("--key").arg(ids.file("client.key"));
                command
            };
            run(client("ping").args(["--count", "1"]), 0);
            let (path, token) = machine.site.file("payload", 100_000);
            run(client("put").arg(&path), 0);
            let copy = machine.site.path(if gateway.is_ipv4() { "copy4" } else { "copy6" });
            run(client("get").arg(&token).arg("-o").arg(&copy), 0);
            assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&path).unwrap());
        }
        process.signal(rustix::process::Signal::TERM);
        assert!(process.end().success(), "{name}");
    }
}

#[test]
fn the_clients_file_reaches_a_gateway() {
    let machine = Machine::new(&shipped("configs/gateway-kernel.toml"), &[]);
    let _process = machine.start();
    let directory = machine.site.directory.path();
    for name in ["client.pem", "client.key"] {
        std::fs::copy(identities().file(name), directory.join(name)).unwrap();
    }
    let text = shipped("configs/client.toml").replace("192.0.2.1:4433", &machine.site.v4().to_string());
    std::fs::write(directory.join("client.toml"), text.replace(&"a".repeat(52), &machine.node_id)).unwrap();
    run(stoq().args(["ping", "--count", "1", "--config"]).arg(directory.join("client.toml")), 0);
}

/// A test has no NIC and no memif peer: the device is a memif socket of the test's own, on normal pages.
#[cfg(feature = "dpdk")]
#[test]
fn the_gateways_on_dpdk_start_on_another_device() {
    let manifest = |name: &str| {
        let text = shipped(name);
        let (_, block) = text.split_once("-0.toml: |\n").unwrap();
        let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
        lines.map(|line| format!("{}\n", line.trim_start())).collect::<String>()
    };
    let sockets = tempfile::tempdir().unwrap();
    let directory = sockets.path().display().to_string();
    let device = format!("net_memif0,role=server,id=0,socket={directory}/memif.sock,socket-abstract=no");
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (text, replaced) in [
        (shipped("configs/gateway.toml"), [("/run/stoq", &*directory), ("\"preferred\"", "\"none\"")]),
        (
            manifest("configs/kubernetes/gateway.yaml"),
            [("env:PCIDEVICE_EXAMPLE_COM_STOQ_VF", &*device), ("\"required\"", "\"none\"")],
        ),
        (
            manifest("configs/kubernetes/memif-sidecar.yaml"),
            [("/run/stoq", &*directory), ("\"required\"", "\"none\"")],
        ),
    ] {
        let machine = Machine::new(&text, &[replaced[0], replaced[1], ("127.0.0.1:9464", &admin)]);
        let mut process = machine.start();
        process.signal(rustix::process::Signal::TERM);
        assert!(process.end().success());
    }
}

/// The words of `[a, "b"]`.
fn words(list: &str) -> Vec<String> {
    let inner = list.trim().strip_prefix('[').unwrap().split(']').next().unwrap();
    inner.split(',').map(|word| word.trim().trim_matches('"').to_owned()).collect()
}

#[test]
fn the_gateway_accepts_every_command_of_the_image_and_of_the_manifests() {
    let image = shipped("Dockerfile");
    let of = |key: &str| words(image.lines().find_map(|line| line.strip_prefix(key)).unwrap());
    let entry = of("ENTRYPOINT ");
    let (_, health) = image.split_once("HEALTHCHECK").unwrap().1.split_once(" CMD ").unwrap();
    let mut commands = vec![[entry.clone(), of("CMD ")].concat(), words(health)];
    for name in [
        "configs/compose.yaml",
        "configs/kubernetes/gateway.yaml",
        "configs/kubernetes/memif-sidecar.yaml",
        "configs/kubernetes/fleet.yaml",
    ] {
        let text = shipped(name);
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some((_, list)) = line.split_once("command: ") {
                commands.push(words(list));
            } else if let Some((_, list)) = line.split_once("args: ") {
                commands.push([entry.clone(), words(list)].concat());
            }
        }
    }
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        assert_eq!(command[0], "stoq-gateway");
        // The parser reads all words before it prints the help, and refuses an unknown one.
        let (help, _) = run(stoq_gateway().args(&command[1..]).arg("--help"), 0);
        assert!(help.contains(&format!("Usage: stoq-gateway {}", command[1])), "{command:?}: {help}");
    }
    run(stoq_gateway().args(["health", "--nothing", "x", "--help"]), 2);
}
