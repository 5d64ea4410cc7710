//! A gateway whose fleet's directory is in Kubernetes, and the commands of the fleet, over TLS and the model of the API of `tests/fleet`.

use crate::api::Api;
use crate::support::{Site, identities, json as json_of, run, stoq_gateway, wait_until, write_secret};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use stoq_gateway::admin::client::Remote;
use stoq_gateway::fleet::kube::{KubeAnswer, KubeCall, KubeMethod};

type Stream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

/// The API behind a port.
struct Served {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    api: Api,
    token: String,
    /// It ends each connection.
    is_away: bool,
    /// Leases that were put with the token of now.
    renewals: usize,
}

impl Served {
    /// Serves, with its certificate in this file.
    fn start(ca: &Path) -> (Arc<Self>, SocketAddr) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(ca, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state = State { api: Api::new(), token: "first".into(), is_away: false, renewals: 0 };
        let served = Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() });
        let shared = served.clone();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, config) = (shared.clone(), config.clone());
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(config).unwrap();
                    served.serve(BufReader::new(Stream::new(connection, stream)));
                });
            }
        });
        (served, at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state, and wakes the watches.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    fn serve(&self, mut stream: BufReader<Stream>) {
        while let Some((call, token)) = request(&mut stream) {
            if self.state().is_away {
                return;
            }
            if token != format!("Bearer {}", self.state().token) {
                let body = br#"{"kind":"Status","message":"Unauthorized"}"#.to_vec();
                answer(&mut stream, &KubeAnswer { status: 401, retry_after_s: None, body });
                continue;
            }
            if call.path.contains("watch=true") {
                return self.watch(stream, &call);
            }
            let answered = self.change(|state| {
                state.renewals +=
                    usize::from(call.method == KubeMethod::Put && call.path.contains("/leases/"));
                state.api.call(&call)
            });
            answer(&mut stream, &answered);
        }
    }

    fn watch(&self, mut stream: BufReader<Stream>, call: &KubeCall) {
        let begun = self.state().api.watch(call);
        let mut after = match begun {
            Ok(after) => after,
            Err(refused) => return answer(&mut stream, &refused),
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut sent = stream.get_mut().write_all(head.as_bytes());
        while sent.is_ok() {
            sent = stream.get_mut().flush();
            let state = self.state();
            let waited = |state: &mut State| !state.is_away && state.api.version == after;
            let (state, _) = self.changed.wait_timeout_while(state, Duration::from_secs(60), waited).unwrap();
            if state.is_away {
                return;
            }
            let lines = state.api.lines(call, after).unwrap();
            after = state.api.version;
            drop(state);
            for line in lines {
                let chunk = [format!("{:x}\r\n", line.len()).into_bytes(), line, b"\r\n".to_vec()].concat();
                sent = sent.and_then(|()| stream.get_mut().write_all(&chunk));
            }
        }
    }
}

/// The next request and what it shows of itself.
fn request(stream: &mut BufReader<Stream>) -> Option<(KubeCall, String)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ');
    let method = match words.next()? {
        "GET" => KubeMethod::Get,
        "POST" => KubeMethod::Post,
        "PUT" => KubeMethod::Put,
        "DELETE" => KubeMethod::Delete,
        other => panic!("{other}"),
    };
    let path = words.next()?.to_owned();
    let (mut token, mut len) = (String::new(), 0);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => value.clone_into(&mut token),
            "content-length" => len = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some((KubeCall { method, path, body: serde_json::from_slice(&body).ok() }, token))
}

fn answer(stream: &mut BufReader<Stream>, answer: &KubeAnswer) {
    let head = format!("HTTP/1.1 {} Told\r\nContent-Length: {}\r\n\r\n", answer.status, answer.body.len());
    let stream = stream.get_mut();
    let _ =
        stream.write_all(&[head.into_bytes(), answer.body.clone()].concat()).and_then(|()| stream.flush());
}

/// A gateway whose directory is this API.
fn site(served: &Arc<Served>, at: SocketAddr, site: &mut Site) {
    write_secret(site.path("fleet.key"), [7; 32]);
    write_secret(site.path("token"), &served.state().token);
    site.more = format!(
        "[reload]\nwatch = false\n[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"0004d2\"\nprovider = \"kubernetes\"\nname = \"eu\"\n\
         saved = \"fleet.json\"\n[fleet.kubernetes]\nserver = \"https://{at}\"\nca = \"api.pem\"\ntoken_file = \"token\"\nnamespace = \"stoq\"\n"
    );
}

/// A command of the fleet, and what it says.
fn fleet_command(config: &Path, words: &[&str], code: i32) -> String {
    let (stdout, stderr) = run(stoq_gateway().arg("fleet").args(words).arg("--config").arg(config), code);
    stdout + &stderr
}

#[test]
fn a_fleet_in_kubernetes_is_made_and_changed_by_its_commands() {
    let mut at_site = Site::new();
    let (served, at) = Served::start(&at_site.path("api.pem"));
    site(&served, at, &mut at_site);
    let config = at_site.configure();
    let command = |words: &[&str], code| fleet_command(&config, words, code);
    let found = command(&["check"], 1);
    assert!(
        found.contains("there is no StoqFleet of this name")
            && found.contains("fleet rotate-cid`, which makes it"),
        "{found}"
    );
    assert!(command(&["rotate-cid"], 0).contains("rotation 0 issues: the first of the fleet"));
    let join = ["join", "--name", "a1", "--zone", "ams", "--address", "192.0.2.11:4433"];
    assert!(command(&join, 0).contains("a1 is in the fleet with server ID 0004d2"));
    assert!(command(&join, 0).contains("a1 is in the fleet already"));
    let ids = identities();
    let row = served.state().api.get("stoqgateways", "eu-0004d2").unwrap()["spec"].clone();
    assert_eq!(
        (&row["nodeId"], &row["serverId"], &row["state"]),
        (&json!(ids.gateway), &json!("0004d2"), &json!("active"))
    );
    assert!(command(&["drain"], 1).contains("a1 is the last active gateway"));
    let other = json!({ "metadata": { "name": "eu-000002" }, "spec": { "nodeId": ids.stranger, "name": "a2", "serverId": "000002",
        "addresses": ["192.0.2.12:4433"], "later": 7 } });
    served.change(|state| state.api.put("stoqgateways", other));
    assert!(command(&["drain", "a2"], 0).contains("a2 is drain, and was active"));
    let spec = served.state().api.get("stoqgateways", "eu-000002").unwrap()["spec"].clone();
    assert_eq!(
        (&spec["state"], &spec["later"], &spec["nodeId"]),
        (&json!("drain"), &json!(7), &json!(ids.stranger))
    );
    assert!(command(&["out", "a2"], 0).contains("a2 is out, and was drain"));
    let shown = command(&["status"], 0);
    assert!(
        shown.starts_with("directory: Kubernetes, revision ")
            && shown.contains("a1    0004d2     ams   active  no"),
        "{shown}"
    );
    let refused = command(&["status", "--user", "a", "--password-file", "x"], 2);
    assert!(refused.contains("--user is not for a directory in Kubernetes; leave it out"), "{refused}");
}

#[test]
fn the_commands_of_a_fleet_in_kubernetes_say_what_an_account_may_not_and_that_the_api_is_away() {
    let mut at_site = Site::new();
    let (served, at) = Served::start(&at_site.path("api.pem"));
    site(&served, at, &mut at_site);
    let config = at_site.configure();
    let command = |words: &[&str], code| fleet_command(&config, words, code);
    command(&["rotate-cid"], 0);
    for (name, server_id, node) in
        [("a1", "0004d2", &identities().gateway), ("a2", "000002", &identities().stranger)]
    {
        let spec = json!({ "nodeId": node, "name": name, "serverId": server_id, "addresses": ["192.0.2.12:4433"],
            "state": if name == "a1" { "active" } else { "out" } });
        let row = json!({ "metadata": { "name": format!("eu-{server_id}") }, "spec": spec });
        served.change(|state| state.api.put("stoqgateways", row));
    }
    // A gateway's account may change no rows.
    served.change(|state| state.api.denied = vec!["update", "create"]);
    let refused = command(&["active", "a2"], 1);
    assert!(
        refused.contains("stoqgateways is forbidden")
            && refused.contains("give --token-file of an account that may"),
        "{refused}"
    );
    let found = command(&["check"], 1);
    assert!(found.contains("the account may not create leases, update leases"), "{found}");
    served.change(|state| state.api.denied.clear());
    let found = command(&["check"], 0);
    assert!(
        found.contains("may change the fleet's gateways")
            && found.contains("table: 2 gateways, this one as a1"),
        "{found}"
    );
    let shown = run(stoq_gateway().args(["check", "--config"]).arg(&config), 0).0;
    assert!(shown.contains("fleet: server ID 0004d2, Kubernetes, namespace stoq"), "{shown}");
    served.change(|state| state.is_away = true);
    let lost = command(&["rotate-cid"], 1);
    assert!(
        lost.contains("the API of Kubernetes does not answer (")
            && lost.contains("`stoq-gateway fleet check` looks at it"),
        "{lost}"
    );
    assert!(command(&["check"], 1).contains("fix: look at fleet.kubernetes.server"));
}

#[test]
fn a_gateway_follows_its_directory_in_kubernetes_with_a_new_token_and_serves_on_without_it() {
    let mut at_site = Site::new();
    let (served, at) = Served::start(&at_site.path("api.pem"));
    site(&served, at, &mut at_site);
    let (mut gateway, admin) = {
        let config = at_site.configure();
        run(stoq_gateway().args(["fleet", "rotate-cid", "--config"]).arg(&config), 0);
        let join = ["fleet", "join", "--name", "a1", "--address", "192.0.2.11:4433", "--config"];
        run(stoq_gateway().args(join).arg(&config), 0);
        crate::admin::start(&mut at_site, "")
    };
    let remote = Remote::new(&format!("http://{admin}"), None, None).unwrap();
    let fleet = || serde_json::from_str::<Value>(&remote.get("/status").unwrap().1).unwrap()["fleet"].clone();
    wait_until("it says that it is alive, and hears it", || fleet()["gateways"][0]["alive"] == true);
    assert_eq!(
        (&fleet()["directory"]["up"], &fleet()["directory"]["has_lease"]),
        (&json!(true), &json!(true))
    );
    let config = at_site.configure();
    let shown = json_of(stoq_gateway().args(["fleet", "status", "--config"]).arg(&config));
    assert_eq!((&shown["provider"], &shown["gateways"][0]["alive"]), (&json!("kubernetes"), &json!(true)));

    // The token is replaced, as the kubelet does: at a moment the old one is no longer taken.
    write_secret(at_site.path("token.new"), "second");
    std::fs::rename(at_site.path("token.new"), at_site.path("token")).unwrap();
    served.change(|state| (state.token, state.renewals) = ("second".into(), 0));
    wait_until("the lease is renewed with the new token", || served.state().renewals > 1);

    let set = |to: &str| {
        served.change(|state| {
            let mut row = state.api.get("stoqgateways", "eu-0004d2").unwrap().clone();
            row["spec"]["state"] = to.into();
            state.api.put("stoqgateways", row);
        });
    };
    set("drain");
    let says_ready = || {
        let shown = json_of(stoq_gateway().args(["fleet", "status", "--config"]).arg(&config));
        shown["gateways"][0]["ready"] == true
    };
    wait_until("it is drained", || remote.get("/readyz").unwrap().0 == 503);
    wait_until("its lease says that it is not ready", || !says_ready());
    set("active");
    wait_until("it is active", || remote.get("/readyz").unwrap().0 == 200);
    wait_until("its lease says that it is ready", says_ready);
    served.change(|state| state.is_away = true);
    wait_until("it says that the API is away", || fleet()["directory"]["up"] == false);
    run(at_site.client("ping").args(["-c", "1"]), 0);
    assert_eq!(remote.get("/readyz").unwrap().0, 200);
    assert_eq!(fleet()["gateways"].as_array().unwrap().len(), 1);
    served.change(|state| state.is_away = false);
    wait_until("the API answers again", || fleet()["directory"]["up"] == true);
    assert_eq!(served.state().api.all("leases").len(), 1);
    gateway.process.signal(rustix::process::Signal::TERM);
    assert!(gateway.process.end().success());
    assert!(served.state().api.all("leases").is_empty(), "it has left");
}
