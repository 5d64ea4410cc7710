//! The border values of every number, on the executables: values beyond them are refused by name, and with the border values put, get,
//! ping and messages work.

use crate::support::{Site, json, run, stoq, stoq_gateway, wait_until};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use stoq_gateway::ranges::{Bounds, KEYS, OPTIONS, Range, key};

/// The ranges of `[quic]` and their keys.
fn quic_keys() -> impl Iterator<Item = (&'static str, &'static Range)> {
    KEYS.iter().filter_map(|range| range.name.strip_prefix("quic.").map(|key| (key, range)))
}

fn whole(range: &Range) -> (u64, u64) {
    match range.bounds {
        Bounds::Whole(min, max) => (min, max),
        Bounds::Real(..) => panic!("{range:?}: no key has fractions"),
    }
}

/// `[quic]` with every key at the value that `pick` chooses, except where another key forbids the value.
fn quic(pick: impl Fn(&Range) -> u64) -> String {
    let mut text = "[quic]\n".to_owned();
    for (key, range) in quic_keys() {
        let value = match key {
            // Keep-alive must be below the idle timeout.
            "keep_alive_ms" if pick(range) == whole(range).1 => 1000,
            _ => pick(range),
        };
        writeln!(text, "{key} = {value}").unwrap();
    }
    text
}

/// Runs every kind of request against a gateway with these values on both sides.
fn works(quic: &str, seed: &str, more: &str) {
    let mut site = Site::new();
    site.seed = seed.to_owned();
    site.more = format!("{quic}{more}");
    let _gateway = site.start();
    let config = site.client_file(quic);
    let tool = |name: &str| {
        let mut command = stoq();
        command.arg(name).arg("--config").arg(&config).current_dir(site.directory.path());
        command
    };
    // More than the smallest windows hold.
    let (file, token) = site.file("border", 300_000);
    let put = json(tool("put").arg(&file));
    assert_eq!(put["bytes"], 300_000, "{quic}");
    run(tool("get").arg(&token).args(["-o", "back"]), 0);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(site.path("back")).unwrap());
    for size in ["0", "65536"] {
        run(tool("ping").args(["--count", "2", "--interval", "0", "--size", size]), 0);
    }
    run(tool("bench").args(["--bytes", "1000000"]), 0);
}

#[test]
fn everything_works_with_every_key_at_its_lower_border() {
    let least = |name: &str| whole(key(name).unwrap()).0;
    // The store's capacity stays above the payload: another test tries its borders.
    let seed = format!("lease_default_s = {0}\nlease_max_s = {0}\n", least("application.lease_max_s"));
    let more = format!(
        "[hops]\nconnections_max = 1\nbudget_max_bytes = {}\n[shutdown]\ndrain_ms = 0\n[log]\nlines_per_s = 1\n\
         [qlog]\ndirectory = \"qlog\"\ncapacity_bytes = {}\n",
        least("hops.budget_max_bytes"),
        least("qlog.capacity_bytes")
    );
    works(&quic(|range| whole(range).0), &seed, &more);
}

#[test]
fn everything_works_with_every_key_at_its_upper_border() {
    let most = |name: &str| whole(key(name).unwrap()).1;
    let seed = format!(
        "lease_default_s = {0}\nlease_max_s = {0}\ncapacity_bytes = {1}\nquota_bytes = {1}\n",
        most("application.lease_max_s"),
        most("application.capacity_bytes")
    );
    let more = format!(
        "[hops]\nconnections_max = {}\nbudget_max_bytes = {}\n[shutdown]\ndrain_ms = {}\n[log]\nlines_per_s = {}\n\
         [qlog]\ndirectory = \"qlog\"\nsample = {}\ncapacity_bytes = {}\n[[application]]\nkind = \"echo\"\nqueues = [{}]\n",
        most("hops.connections_max"),
        most("hops.budget_max_bytes"),
        most("shutdown.drain_ms"),
        most("log.lines_per_s"),
        most("qlog.sample"),
        most("qlog.capacity_bytes"),
        most("application.queues"),
    );
    works(&quic(|range| whole(range).1), &seed, &more);
}

#[test]
fn everything_works_with_0_where_0_has_a_meaning() {
    let zero = |range: &Range| if range.zero.is_some() { 0 } else { whole(range).0 };
    works(&quic(zero), "lease_default_s = 0\nlease_max_s = 0\n", "[log]\nlines_per_s = 0\n");
}

#[test]
fn everything_works_with_each_key_of_quic_alone_at_its_borders() {
    for (key, range) in quic_keys() {
        let (min, max) = whole(range);
        for value in [min, max] {
            // Keys that are checked against this one must not forbid its borders.
            let beside = match key {
                "idle_timeout_ms" => "keep_alive_ms = 200\n",
                "keep_alive_ms" => "idle_timeout_ms = 0\n",
                "receive_window_bytes" => "stream_receive_window_bytes = 131072\n",
                "stream_receive_window_bytes" => "receive_window_bytes = 1073741824\n",
                _ => "",
            };
            works(&format!("[quic]\n{beside}{key} = {value}\n"), "", "");
        }
    }
}

#[test]
fn a_store_at_its_smallest_bounds_takes_what_fits_and_refuses_more() {
    let least = whole(key("application.capacity_bytes").unwrap()).0;
    let mut site = Site::new();
    site.seed = format!("capacity_bytes = {least}\nquota_bytes = {least}\n");
    let _gateway = site.start();
    // Rows of the database are charged at up to twice their length.
    let (fits, _) = site.file("fits", least as usize / 4);
    run(site.client("put").arg(fits), 0);
    let (more, _) = site.file("more", least as usize);
    let (_, stderr) = run(site.client("put").arg(more), 1);
    assert!(!stderr.is_empty());
}

#[test]
fn windows_of_0_and_1_are_refused_by_check_and_run_and_the_client() {
    let mut site = Site::new();
    for key in ["stream_receive_window_bytes", "receive_window_bytes", "send_window_bytes"] {
        for value in [0, 1] {
            let quic = format!("[quic]\n{key} = {value}\n");
            site.more.clone_from(&quic);
            let config = site.configure();
            let client = site.client_file(&quic);
            let refused = |command: &mut Command, config: &PathBuf| {
                let (_, stderr) = run(command.arg("--config").arg(config), 2);
                assert!(stderr.contains(&format!("key `quic.{key}`: {value} is too small")), "{stderr}");
            };
            refused(stoq_gateway().arg("check"), &config);
            refused(stoq_gateway().arg("run"), &config);
            refused(stoq().args(["ping"]), &client);
        }
    }
}

#[test]
fn more_memory_than_the_machine_has_is_refused_by_check_and_run() {
    let mut site = Site::new();
    site.more = String::new();
    let text = std::fs::read_to_string(site.configure()).unwrap();
    let most = whole(key("application.memory_bytes").unwrap()).1;
    let config = site.path("memory.toml");
    std::fs::write(&config, text.replace("memory_bytes = 4194304", &format!("memory_bytes = {most}")))
        .unwrap();
    let (stdout, _) = run(stoq_gateway().arg("check").arg("--config").arg(&config), 1);
    assert!(stdout.contains(&format!("FAILED  memory: application.memory_bytes = {most}")), "{stdout}");
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(&config), 1);
    assert!(stderr.contains(&format!("application.memory_bytes = {most} asks for")), "{stderr}");
    assert!(stderr.contains("MiB of memory; give less"), "{stderr}");
}

#[test]
fn beyond_its_borders_every_option_is_refused_with_its_range() {
    let program = |name: &str| {
        Command::new(match name {
            "stoq" => env!("CARGO_BIN_EXE_stoq"),
            "stoq-gateway" => env!("CARGO_BIN_EXE_stoq-gateway"),
            "stoq-pktgen" => env!("CARGO_BIN_EXE_stoq-pktgen"),
            _ => panic!("no program is called {name}"),
        })
    };
    for range in OPTIONS {
        let (path, option) = range.name.split_once(" --").unwrap();
        let words = path.split(' ');
        let refused = |value: &str, what: &str| {
            let mut words = words.clone();
            let mut command = program(words.next().unwrap());
            // An option of all commands is tried with one command.
            let first: Vec<_> = match words.clone().next() {
                None if path == "stoq-pktgen" => vec!["replay"],
                None => vec!["ping"],
                Some(_) => words.collect(),
            };
            command.args(first).arg(format!("--{option}")).arg(value);
            let (_, stderr) = run(&mut command, 2);
            let named = stderr.contains(&format!("--{option}")) && stderr.contains(what);
            assert!(named && stderr.contains(&format!("give {range}")), "{} {value}: {stderr}", range.name);
        };
        let (least, most) = match range.bounds {
            Bounds::Whole(min, max) => (i128::from(min) - 1, i128::from(max) + 1),
            Bounds::Real(_, max) => (-1, max as i128 + 1),
        };
        if least != 0 || range.zero.is_none() {
            refused(&least.to_string(), "is too small");
        }
        refused(&most.to_string(), "is too large");
        refused(&format!("{most}000000000000000000000000000000000000000000000"), "");
        refused("-1", "");
        refused("nan", "");
        refused("ten", "");
    }
}

#[test]
fn the_smallest_counts_and_sizes_of_the_tools_work() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (file, token) = site.file("small", 100);
    run(site.client("put").arg(&file).args(["--lease", "1"]), 0);
    run(site.client("put").arg(&file).args(["--lease", "0"]), 0);
    run(site.client("put").arg(&file).args(["--lease", "36500d"]), 0);
    run(site.client("ping").args(["-c", "1", "-i", "0", "--size", "0", "--timeout", "86400"]), 0);
    run(site.client("ping").args(["-c", "1", "-i", "86400"]), 0);
    run(site.client("bench").args(["--bytes", "1", "--size", "1", "--time-limit", "86400"]), 0);
    run(site.client("bench").args(["--bytes", "1", "--connections", "3"]), 0);
    run(site.client("bench").args(["--put", "--bytes", "1"]), 0);
    run(site.client("bench").args(["--get", &token, "--round-trips", "1"]), 0);
    // No application has this queue, so there is no answer: the number itself is valid.
    let (_, stderr) =
        run(site.client("ping").args(["-c", "1", "--timeout", "1", "--queue", "4611686018427387903"]), 1);
    assert!(stderr.contains("no answer") || stderr.contains("queue"), "{stderr}");
    wait_until("a handshake within the shortest timeout, or the refusal that says it", || {
        let output = site.client("ping").args(["-c", "1", "--timeout", "0.01"]).output().unwrap();
        output.status.success() || String::from_utf8_lossy(&output.stderr).contains("within")
    });
}

/// A gateway and a client, each on a DPDK port, joined by memif. Both have these lines in `[network]` and `[quic]`.
#[cfg(feature = "dpdk")]
fn works_on_dpdk(network: &str, quic: &str) {
    use crate::support::Process;
    let (site, ids) = (Site::new(), crate::support::identities());
    let file = |name: &str, role: &str, address: &str, peer: &str, more: &str| {
        let socket = site.path("memif.sock");
        let text = format!(
            "[network]\nkind = \"dpdk\"\ndevice = \"net_memif0,id=0,socket={},socket-abstract=no,rsize=10,role={role}\"\n\
             addresses = [\"{address}/24\"]\nhuge_pages = \"none\"\n{network}\n[identity]\ncertificate = {:?}\nkey = {:?}\n\
             [trust]\nnode_ids = [\"{peer}\"]\n[quic]\n{quic}\n{more}",
            socket.display(),
            ids.file(&format!("{name}.pem")),
            ids.file(&format!("{name}.key")),
        );
        let path = site.path(&format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let more = "[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"store\"\nmemory_bytes = 2097152\n\
                [[application]]\nkind = \"echo\"\nqueues = [1]\n";
    let gateway = file("gateway", "server", "10.77.0.1", &ids.client, more);
    let client = file("client", "client", "10.77.0.2", &ids.gateway, "[log]\nlevel = \"error\"\n");
    let _gateway = Process::serve(&gateway).unwrap_or_else(|log| panic!("{network}: {log}"));
    let tool = |name: &str| {
        let mut command = stoq();
        command.args([name, "--gateway", "10.77.0.1:4433"]).arg("--config").arg(&client);
        command.current_dir(site.directory.path());
        command
    };
    let (file, token) = site.file("border", 300_000);
    run(tool("put").arg(&file), 0);
    run(tool("get").arg(&token).args(["-o", "back"]), 0);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(site.path("back")).unwrap());
    run(tool("ping").args(["--count", "2", "--interval", "0", "--size", "65536"]), 0);
}

#[cfg(feature = "dpdk")]
#[test]
fn a_dpdk_port_works_with_each_of_its_keys_at_its_borders() {
    let borders = |name: &str| whole(key(&format!("network.{name}")).unwrap());
    for name in ["rx_descriptors", "tx_descriptors"] {
        works_on_dpdk(&format!("{name} = {}", borders(name).0), "");
        works_on_dpdk(&format!("{name} = {}", borders(name).1), "");
    }
    works_on_dpdk(&format!("memory_mib = {}", borders("memory_mib").0), "");
    works_on_dpdk("mbufs = 1536", "");
    works_on_dpdk(&format!("mtu = {}", borders("mtu").0), "initial_udp_payload_bytes = 0");
    let largest = format!("mtu = {}\nrx_descriptors = 64\ntx_descriptors = 64", borders("mtu").1);
    works_on_dpdk(&largest, "");
    // Packets larger than the congestion window that quinn-proto begins with.
    works_on_dpdk(&largest, "initial_udp_payload_bytes = 0");
    works_on_dpdk(&format!("vlan = {}", borders("vlan").0), "");
    works_on_dpdk(&format!("vlan = {}", borders("vlan").1), "");
}
