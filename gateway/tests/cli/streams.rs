//! Standard output and standard error that are closed, full or not read.

use crate::support::{Process, Site, identities, run, stoq, stoq_gateway, wait_until};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use stoq_gateway::admin::client::Remote;

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// The writing end of a pipe whose reader has gone.
fn closed() -> PipeWriter {
    pipe().unwrap().1
}

/// A full pipe.
fn filled() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for len in [4096, 1] {
        while writer.write(&vec![b'\n'; len]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Runs a command to its end. Returns its standard error.
#[track_caller]
fn ended(command: &mut Command, stdout: impl Into<Stdio>, code: i32) -> String {
    let Output { status, stderr, .. } = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), status.signal()), (Some(code), None), "{command:?}: {text}");
    assert!(!text.contains("panicked"), "{command:?}: {text}");
    text
}

#[test]
fn tools_end_when_their_output_is_closed_or_full() {
    let mut site = Site::new();
    let _gateway = site.start();
    let ids = identities();
    let (file, token) = site.file("file", 1000);
    let config = site.path("gateway.toml");
    let pktgen = || Command::new(env!("CARGO_BIN_EXE_stoq-pktgen"));
    run(site.client("put").arg(&file), 0);
    let commands = || {
        let mut commands = vec![stoq(), stoq_gateway(), pktgen(), stoq(), stoq(), stoq(), stoq_gateway()];
        for command in &mut commands[..3] {
            command.arg("--help");
        }
        commands[3].arg("--version");
        commands[4].arg("token").arg(&file);
        commands[5].args(["identity", "show"]).arg(ids.file("client.pem"));
        commands[6].args(["check", "--json", "-c"]).arg(&config);
        commands.push(site.client("ping"));
        commands[7].args(["--count", "10", "--interval", "0"]);
        commands.push(site.client("locate"));
        commands[8].args([&token, "--json"]);
        commands
    };
    for mut command in commands() {
        assert_eq!(ended(&mut command, closed(), 141), "", "{command:?}");
    }
    for mut command in commands() {
        let text = ended(&mut command, full(), 1);
        assert!(text.contains("No space left on device"), "{command:?}: {text}");
    }
    // Standard error that cannot be written changes nothing.
    for stderr in [Stdio::from(full()), closed().into()] {
        let mut command = stoq();
        let status =
            command.args(["token", "/nowhere"]).stdout(Stdio::null()).stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
    let status = stoq().arg("--nonsense").stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn the_token_of_a_put_is_not_lost_with_standard_output() {
    let mut site = Site::new();
    let _gateway = site.start();
    for (name, json, code) in [("a", false, 1), ("b", true, 1), ("c", false, 141), ("d", true, 141)] {
        let (file, token) = site.file(name, 1000);
        let mut put = site.client("put");
        put.arg(&file).args(json.then_some("--json"));
        let text = if code == 1 { ended(&mut put, full(), 1) } else { ended(&mut put, closed(), 141) };
        assert!(text.contains(&token) && text.contains("the put is done"), "{text}");
        run(site.client("get").arg(&token).arg("-o").arg(site.path(&format!("{name}.back"))), 0);
    }
    // Standard output is closed before the tool starts.
    let (file, token) = site.file("e", 1000);
    let mut put = site.client("put");
    put.arg(&file);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(put.get_program()).args(put.get_args());
    let (_, text) = run(&mut shell, 0);
    assert!(text.contains(&token) && text.contains("the put is done"), "{text}");
}

/// A gateway with `log` as its standard error, and its admin endpoint.
fn start(site: &mut Site, log: impl Into<Stdio>) -> (Process, Remote) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.more +=
        &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n[log]\nlevel = \"trace\"\nlines_per_s = 0\n");
    let mut command = stoq_gateway();
    let process = Process::with_log(command.arg("run").arg("-c").arg(site.configure()), log);
    let remote = Remote::new(&format!("127.0.0.1:{port}"), None, None).unwrap();
    wait_until("the gateway is ready", || remote.get("/readyz").is_ok_and(|(code, _)| code == 200));
    (process, remote)
}

fn lost(remote: &Remote) -> u64 {
    let (_, metrics) = remote.get("/metrics").unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("stoq_log_lines_lost_total ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn a_stuck_log_reader_stops_neither_the_data_path_nor_the_end() {
    let mut site = Site::new();
    let (mut reader, writer) = filled();
    let (mut gateway, remote) = start(&mut site, writer);
    let mut tries = 0;
    while lost(&remote) == 0 {
        run(site.client("ping").args(["--count", "100", "--interval", "0", "--quiet"]), 0);
        tries += 1;
        assert!(tries < 1000, "no line is lost");
    }
    let (file, token) = site.file("file", 1_000_000);
    run(site.client("put").arg(&file), 0);
    run(site.client("get").arg(&token).arg("-o").arg(site.path("back")), 0);
    gateway.signal(Signal::TERM);
    assert!(gateway.end().success(), "the end has a bound");
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said.trim(), "", "nothing had room");
}

#[test]
fn lost_lines_are_reported_once_the_log_is_read_again() {
    let mut site = Site::new();
    let (mut reader, writer) = filled();
    let (mut gateway, remote) = start(&mut site, writer);
    while lost(&remote) == 0 {
        run(site.client("ping").args(["--count", "100", "--interval", "0", "--quiet"]), 0);
    }
    let reading = std::thread::spawn(move || {
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        said
    });
    run(site.client("ping").args(["--count", "1", "--quiet"]), 0);
    gateway.signal(Signal::TERM);
    assert!(gateway.end().success());
    let said = reading.join().unwrap();
    assert!(said.contains("gateway ready"), "what was queued is written");
    assert!(said.contains("log lines were lost"), "{}", &said[said.len().saturating_sub(2000)..]);
}

#[test]
fn a_log_on_a_full_disk_does_not_stop_the_gateway() {
    let mut site = Site::new();
    let (mut gateway, remote) = start(&mut site, full());
    run(site.client("ping").args(["--count", "10", "--interval", "0"]), 0);
    assert!(lost(&remote) > 0);
    gateway.signal(Signal::TERM);
    assert!(gateway.end().success());
}

#[test]
fn a_gateway_that_cannot_start_ends_even_if_its_error_is_not_read() {
    let site = Site::new();
    let _taken = std::net::UdpSocket::bind(site.v4()).unwrap();
    let (_reader, writer) = filled();
    let mut command = stoq_gateway();
    let mut gateway = Process::with_log(command.arg("run").arg("-c").arg(site.configure()), writer);
    assert_eq!(gateway.end().code(), Some(1));
}

/// `script` makes a terminal; the shell in it prints the state in which `top` left it.
#[test]
fn a_signal_that_ends_top_restores_the_terminal() {
    let mut site = Site::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.more += &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let _gateway = site.start();
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130), ("QUIT", 131)] {
        // The shell waits until top has the terminal in raw mode, and sends the signal to top alone.
        let inner = format!(
            "ulimit -c 0; stty -a > before; \
             (until stty -a < /dev/tty | grep -q -e '-icanon'; do :; done; kill -{signal} $(cat pid)) & \
             sh -c 'echo $$ > pid; exec \"$0\" top --url 127.0.0.1:{port}' {top}; \
             echo $? > code; stty -a > after",
            top = env!("CARGO_BIN_EXE_stoq-gateway"),
        );
        let mut script = Command::new("script");
        script.args(["-qec", &inner, "typescript"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
        run(script.current_dir(site.directory.path()), 0);
        let read = |name: &str| std::fs::read_to_string(site.path(name)).unwrap();
        assert_eq!(read("code").trim(), code.to_string(), "it ends by {signal}");
        assert_eq!(read("after"), read("before"), "{signal}");
        let drawn = read("typescript");
        for (entered, left) in [("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h")] {
            // The signal may arrive after the raw mode and before the alternate screen.
            let (entered, left) = (drawn.rfind(entered), drawn.rfind(left));
            assert!(left >= entered, "{signal}: {drawn:?}");
        }
    }
}
