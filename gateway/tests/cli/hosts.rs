//! Hosts without an address family or a route. Each is a network namespace of an ordinary user.

use crate::support::{Site, identities, run};
use std::path::Path;
use std::process::Command;

/// Runs a shell script in a network namespace with a loopback interface alone, with the executables as `$stoq` and
/// `$gateway`, and with `$trusted` as the options of a client.
#[track_caller]
fn in_namespace(directory: &Path, script: &str, code: i32) -> String {
    let ids = identities();
    let trusted = format!(
        "--timeout 600 --node-id {} --cert {} --key {}",
        ids.gateway,
        ids.file("client.pem").display(),
        ids.file("client.key").display()
    );
    let mut shell = Command::new("unshare");
    shell
        .args(["--map-root-user", "--net", "sh", "-c"])
        .arg(format!("ip link set lo up || exit 99\n{script}"));
    shell.env("stoq", env!("CARGO_BIN_EXE_stoq")).env("gateway", env!("CARGO_BIN_EXE_stoq-gateway"));
    let (stdout, stderr) = run(shell.env("trusted", trusted).current_dir(directory), code);
    stdout + &stderr
}

/// Starts the gateway of `gateway.toml`, runs `work`, ends it; the code is that of the work.
fn while_serving(work: &str) -> String {
    format!(
        "rm -f told; mkfifo told; $gateway run --json --config gateway.toml > told 2> gateway.log & pid=$!\n\
         read -r up < told || {{ cat gateway.log; exit 98; }}\n\
         ( {work} ); code=$?\ncat gateway.log; kill $pid; wait $pid; exit $code"
    )
}

const NO_IPV6: &str =
    "for at in all default lo; do echo 1 > /proc/sys/net/ipv6/conf/$at/disable_ipv6 || exit 97; done\n";

fn listen(site: &Site, addresses: &str) {
    let text = std::fs::read_to_string(site.configure()).unwrap();
    let line = text.lines().find(|line| line.starts_with("listen")).unwrap().to_owned();
    std::fs::write(site.path("gateway.toml"), text.replace(&line, &format!("listen = {addresses}"))).unwrap();
}

#[test]
fn a_host_without_ipv6_serves_and_connects_by_ipv4() {
    let site = Site::new();
    for addresses in ["[\"0.0.0.0:4433\", \"[::]:4433\"]", "[\"[::]:4433\"]"] {
        listen(&site, addresses);
        let work = "$gateway check --config gateway.toml; $stoq ping --count 1 -g 127.0.0.1 $trusted && ! $stoq ping -g [::1] $trusted";
        let said = in_namespace(site.directory.path(), &format!("{NO_IPV6}{}", while_serving(work)), 0);
        assert!(said.contains("[::1]:4433: "), "{said}");
    }
}

#[test]
fn a_host_without_ipv4_serves_and_connects_by_ipv6() {
    let site = Site::new();
    listen(&site, "[\"0.0.0.0:4433\", \"[::]:4433\"]");
    let no_ipv4 = "ip -4 address flush dev lo || exit 97\n";
    let work = "$stoq ping --count 1 -g [::1] $trusted";
    in_namespace(site.directory.path(), &format!("{no_ipv4}{}", while_serving(work)), 0);
}

#[test]
fn a_missing_route_is_reported_at_once() {
    let site = Site::new();
    for (address, family) in [("192.0.2.1", "192.0.2.1:4433"), ("[2001:db8::1]", "[2001:db8::1]:4433")] {
        let said = in_namespace(site.directory.path(), &format!("$stoq ping -g {address} $trusted"), 1);
        assert!(said.contains(family) && said.contains("no route leads there"), "{said}");
    }
}

#[test]
fn a_prohibiting_route_is_reported_as_a_firewall() {
    let site = Site::new();
    let script = "ip link add near type veth peer name far && ip link set near up && ip link set far up && ip address add 192.0.2.2/24 dev near || exit 97\n\
                  ip route add prohibit 198.51.100.1 || exit 97\n$stoq ping -g 198.51.100.1 $trusted";
    let said = in_namespace(site.directory.path(), script, 1);
    assert!(said.contains("firewall") && said.contains("198.51.100.1:4433"), "{said}");
}

#[test]
fn a_link_local_address_is_reached_through_its_interface() {
    let site = Site::new();
    listen(&site, "[\"[::]:4433\"]");
    let link = "ip link add near type veth peer name far && ip link set near up && ip link set far up || exit 97\n\
                ip -6 address add fe80::77/64 dev near nodad || exit 97\n";
    let work = "$stoq ping --count 1 -g [fe80::77%near] $trusted && ! $stoq ping -g [fe80::77] $trusted";
    let said = in_namespace(site.directory.path(), &format!("{link}{}", while_serving(work)), 0);
    assert!(said.contains("needs the interface"), "{said}");
}
