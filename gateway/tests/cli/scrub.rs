//! The scrub of a real gateway's store, as its operator has it done.

use crate::admin::{get, start, value};
use crate::damage::{flip, kept};
use crate::support::{Site, run, stoq_gateway};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::parse;

fn verify(config: &Path, more: &[&str], code: i32) -> (String, String) {
    run(stoq_gateway().args(["store", "verify", "--config"]).arg(config).args(more), code)
}

#[test]
fn an_operator_verifies_the_store_of_a_gateway_that_is_stopped() {
    let mut site = Site::new();
    let config = site.configure();
    let (_, error) = verify(&config, &[], 1);
    assert!(error.contains("there is no store; has this gateway ever run"), "{error}");
    let mut gateway = site.start();
    let tokens = [100_000, 3_000_000].map(|len| {
        let (file, token) = site.file(&len.to_string(), len);
        run(site.client("put").arg(&file), 0);
        token
    });
    let (_, error) = verify(&config, &[], 1);
    assert!(error.contains("a gateway runs on the store") && error.contains("--now"), "{error}");
    let (_, error) = verify(&config, &["--now"], 1);
    assert!(error.contains("has no [admin] section"), "{error}");
    gateway.process.signal(Signal::TERM);
    gateway.process.end();
    let (out, _) = verify(&config, &[], 0);
    assert!(out.starts_with("2 payloads and sets checked, ") && out.contains(" 0 damaged"), "{out}");
    let larger = kept(&site, "blob").into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len());
    flip(&larger.unwrap(), 2_000_000);
    let (out, error) = verify(&config, &["--json"], 1);
    assert!(
        error.contains("of 2 payloads and sets 1 are damaged and 0 unreadable: put what is lost again"),
        "{error}"
    );
    let told: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&told["event"], &told["damaged"], &told["unreadable"]),
        (&"verified".into(), &1.into(), &0.into())
    );
    assert_eq!(told["damage"][0]["name"], tokens[1].as_str());
    assert_eq!(told["damage"][0]["outcome"], "set_aside");
    assert_eq!(std::fs::read_dir(site.store.join("damaged")).unwrap().count(), 2);
    let (out, _) = verify(&config, &["--now"], 0);
    assert!(out.starts_with("1 payloads and sets checked"), "{out}");
    // The gateway that is started then knows what it has lost.
    let _gateway = site.start();
    let (_, error) = run(site.client("get").arg(&tokens[1]).arg("-o").arg(site.path("copy")), 1);
    assert!(error.contains("set aside; put it again, or ask another holder"), "{error}");
}

#[test]
fn an_operator_has_the_database_of_a_gateway_that_is_stopped_salvaged() {
    let mut site = Site::new();
    let config = site.configure();
    let salvage = |more: &[&str], code| {
        run(stoq_gateway().args(["store", "salvage", "--config"]).arg(&config).args(more), code)
    };
    let (_, error) = salvage(&[], 1);
    assert!(error.contains("there is no store; has this gateway ever run"), "{error}");
    let mut gateway = site.start();
    let (file, token) = site.file("file", 3_000_000);
    run(site.client("put").arg(&file), 0);
    let (_, error) = salvage(&[], 1);
    assert!(error.contains("is open: stop its gateway, then salvage"), "{error}");
    gateway.process.signal(Signal::TERM);
    gateway.process.end();
    let (out, _) = salvage(&[], 0);
    assert!(
        out.contains("; 0 were damaged, and 0 could not be found") && out.contains("start the gateway"),
        "{out}"
    );
    let (out, _) = salvage(&["--json"], 0);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert!(told["copied"].as_u64() > Some(0) && told["missing"] == 0, "{told}");
    let damaged = site.store.join("damaged/store.redb.2");
    assert_eq!(told["damaged_file"], damaged.to_str().unwrap());
    assert!(damaged.is_file());
    let _gateway = site.start();
    run(site.client("get").arg(&token).arg("-o").arg(site.path("copy")), 0);
    assert!(std::fs::read(site.path("copy")).unwrap() == std::fs::read(&file).unwrap());
}

#[test]
fn an_operator_has_a_running_gateway_read_its_store_now() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let (file, token) = site.file("file", 3_000_000);
    run(site.client("put").arg(&file), 0);
    let config = site.configure();
    let (out, _) = verify(&config, &["--now"], 0);
    assert!(out.starts_with("1 payloads and sets checked, ") && out.contains(" 0 damaged"), "{out}");
    flip(&kept(&site, "blob")[0], 1_000_000);
    let (out, _) = verify(&config, &["--now"], 1);
    assert!(out.starts_with(&format!("set aside: {token}: ")) && out.contains("1 damaged"), "{out}");
    let status: Value = serde_json::from_str(&get(&remote, "/status")).unwrap();
    let (scrub, damage) = (&status["store"]["scrub"], &status["store"]["damage"]);
    assert!(scrub["passes"].as_u64().unwrap() >= 2 && scrub["every_s"] == 30 * 86_400, "{status}");
    assert_eq!((&scrub["last"]["damaged"], &damage["lost"]), (&1.into(), &1.into()), "{status}");
    let all = parse(&get(&remote, "/metrics"));
    assert_eq!(value(&all, "stoq_store_lost", &[]), 1.0);
    assert_eq!(value(&all, "stoq_store_scrub_damaged", &[]), 1.0);
    assert!(value(&all, "stoq_store_scrubbed_bytes_total", &[]) >= 3_000_000.0);
    run(site.client("put").arg(&file), 0);
    assert_eq!(value(&parse(&get(&remote, "/metrics")), "stoq_store_lost", &[]), 0.0);
}

#[test]
fn a_web_page_cannot_have_the_store_read() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "");
    let posted = |head: &str| {
        let mut stream = TcpStream::connect(&at).unwrap();
        write!(
            stream,
            "POST /store/scrub HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n{head}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = posted(&format!("Host: {at}\r\nOrigin: http://attacker.example"));
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("no web page"), "{answer}");
    assert!(posted(&format!("Host: {at}\r\nOrigin: null")).starts_with("HTTP/1.1 403"));
    assert!(posted("Host: attacker.example").starts_with("HTTP/1.1 421"));
    assert!(posted(&format!("Host: {at}")).starts_with("HTTP/1.1 200"));
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    assert_eq!(remote.get("/store/scrub").unwrap().0, 405);
    let recent: Value = serde_json::from_str(&get(&remote, "/recent")).unwrap();
    assert_eq!(recent["interval_s"], 2);
}
