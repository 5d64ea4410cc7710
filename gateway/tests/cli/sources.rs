//! Inputs of a put that are no plain files, and files that change during a put.

use crate::support::{Site, run, stoq};
use crate::wording::assert_well_said;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs a command with these bytes on a pipe as its standard input; returns its standard output and its standard error.
#[track_caller]
fn fed(command: &mut Command, bytes: &[u8], code: i32) -> (String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut pipe, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    // A command that refuses its input may close the pipe early.
    let feeder = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let told = ended(child, code);
    feeder.join().unwrap();
    assert_well_said(command, code, &told.1);
    told
}

#[track_caller]
fn ended(child: Child, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "out: {stdout}\nerr: {stderr}");
    (stdout, stderr)
}

/// Runs a command with this standard input.
#[track_caller]
fn with_stdin(command: &mut Command, stdin: impl Into<Stdio>, code: i32) -> (String, String) {
    let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let told = ended(child, code);
    assert_well_said(command, code, &told.1);
    told
}

fn token_of(bytes: &[u8]) -> String {
    format!("b3:{}", blake3::hash(bytes).to_hex())
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_pipe_is_put_to_its_end() {
    let mut site = Site::new();
    let _gateway = site.start();
    let spool = site.path("spool");
    std::fs::create_dir(&spool).unwrap();
    // Longer than a pipe and a window hold, and not a multiple of a group.
    for (n, name) in ["-", "/dev/stdin", "/dev/fd/0"].into_iter().enumerate() {
        let (path, token) = site.file(&format!("file{n}"), 1_000_000 + n);
        let bytes = std::fs::read(&path).unwrap();
        let (stdout, stderr) = fed(site.client("put").arg(name).arg("--spool").arg(&spool), &bytes, 0);
        assert_eq!(stdout.trim(), token);
        assert!(stderr.contains(&format!("put {} bytes", bytes.len())), "{stderr}");
        let copy = site.path(&format!("copy{n}"));
        run(site.client("get").arg(&token).arg("-o").arg(&copy), 0);
        assert!(std::fs::read(&copy).unwrap() == bytes);
        assert_eq!(fed(stoq().args(["token", name]), &bytes, 0).0.trim(), token);
    }
    assert!(is_empty(&spool));
    let result: serde_json::Value =
        serde_json::from_str(&fed(site.client("put").args(["-", "--json"]), b"seven b", 0).0).unwrap();
    assert_eq!((&result["bytes"], &result["token"]), (&7.into(), &token_of(b"seven b").into()));
}

#[test]
fn the_bytes_of_a_pipe_make_the_same_set_as_a_file() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = site.file("file", 500_001);
    let bytes = std::fs::read(&path).unwrap();
    let shards = ["--shards", "4+2@16384"];
    let (named, _) = run(stoq().arg("token").arg(&path).args(shards), 0);
    assert_eq!(fed(stoq().args(["token", "-"]).args(shards), &bytes, 0).0, named);
    assert_eq!(fed(site.client("put").arg("-").args(shards), &bytes, 0).0, named);
    let set = named.lines().nth(1).unwrap();
    run(site.client("get").args([set, "-o", "copy"]), 0);
    assert!(std::fs::read(site.path("copy")).unwrap() == bytes && named.starts_with(&token));
}

#[test]
fn a_fifo_is_read_when_it_gets_a_writer_and_given_up_at_a_signal() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = site.file("file", 300_000);
    let fifo = site.path("fifo");
    run(Command::new("mkfifo").arg(&fifo), 0);
    let start = || {
        let mut put = site.client("put");
        put.arg(&fifo).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let put = start();
    std::fs::write(&fifo, std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(ended(put, 0).0.trim(), token);
    let put = start();
    let id = rustix::process::Pid::from_child(&put);
    // SIGTERM, because background jobs of a shell ignore SIGINT by default.
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    // Before `stoq` handles signals, SIGTERM ends it; after that, it exits with 130.
    let status = put.wait_with_output().unwrap().status;
    assert!(status.code() == Some(130) || status.signal() == Some(15), "{status}");
}

#[test]
fn files_with_a_wrong_size_are_read_to_their_end() {
    let mut site = Site::new();
    let _gateway = site.start();
    // The kernel gives the sizes 0 and 4096 for these.
    for name in ["/proc/version", "/sys/devices/system/cpu/possible"] {
        let bytes = std::fs::read(name).unwrap();
        assert_ne!(std::fs::metadata(name).unwrap().len(), bytes.len() as u64, "{name}");
        let named = run(stoq().args(["token", name]), 0).0;
        assert_eq!(named.trim(), token_of(&bytes), "{name}");
        assert_eq!(run(site.client("put").arg(name), 0).0, named);
        let lanes = run(stoq().args(["token", name, "--shards", "2+1"]), 0).0;
        assert_eq!(run(site.client("put").args([name, "--shards", "2+1"]), 0).0, lanes);
        assert!(lanes.starts_with(named.trim()), "{lanes}");
    }
}

#[test]
fn nothing_is_put_where_there_is_nothing() {
    let mut site = Site::new();
    let _gateway = site.start();
    let nothing = token_of(b"");
    let (empty, _) = site.file("empty", 0);
    assert_eq!(run(site.client("put").arg(&empty), 0).0.trim(), nothing);
    assert_eq!(run(site.client("put").arg("/dev/null"), 0).0.trim(), nothing);
    assert_eq!(run(site.client("put").arg("-"), 0).0.trim(), nothing, "`run` gives /dev/null");
    assert_eq!(fed(site.client("put").arg("-"), b"", 0).0.trim(), nothing);
    assert_eq!(with_stdin(site.client("put").arg("-"), File::open(&empty).unwrap(), 0).0.trim(), nothing);
}

#[test]
fn a_file_on_standard_input_is_put_from_its_current_offset() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = site.file("file", 100_000);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(with_stdin(site.client("put").arg("-"), File::open(&path).unwrap(), 0).0.trim(), token);
    let mut rest = File::open(&path).unwrap();
    rest.seek(SeekFrom::Start(10)).unwrap();
    assert_eq!(with_stdin(site.client("put").arg("-"), rest, 0).0.trim(), token_of(&bytes[10..]));
    // `./-` is a file of that name.
    std::fs::write(site.path("-"), &bytes[20..]).unwrap();
    assert_eq!(run(site.client("put").arg("./-"), 0).0.trim(), token_of(&bytes[20..]));
}

#[test]
fn endless_inputs_and_inputs_that_are_no_files_are_refused_by_name() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (directory, socket, link) = (site.path("directory"), site.path("socket"), site.path("link"));
    std::fs::create_dir(&directory).unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    let of = |tool: &str| if tool == "put" { site.client(tool) } else { with_tool(tool) };
    for tool in ["put", "token"] {
        for (path, what) in [
            (socket.as_path(), "is a socket; have a program that reads it"),
            (&link, "is a socket"),
            (Path::new("/dev/zero"), "is a character device"),
            (Path::new("/dev/urandom"), "is a character device"),
            (Path::new("/dev/full"), "is a character device"),
        ] {
            let (_, stderr) = run(of(tool).arg(path), 1);
            let named = format!("{} {what}", path.display());
            assert!(stderr.contains(&named) && stderr.contains("stoq put -"), "{named}: {stderr}");
        }
        let (_, stderr) = with_stdin(of(tool).arg("-"), File::open("/dev/zero").unwrap(), 1);
        assert!(stderr.contains("standard input is a character device"), "{stderr}");
        for name in ["-", "/dev/stdin"] {
            let whole = of(tool);
            let mut closed = Command::new("sh");
            closed.args(["-c", "exec \"$0\" \"$@\" <&-"]).arg(whole.get_program()).args(whole.get_args());
            let (_, stderr) = run(closed.arg(name), 1);
            assert!(
                stderr.contains("standard input is closed, or /dev/null opened for writing")
                    && stderr.contains("</dev/null"),
                "{stderr}"
            );
        }
        let (_, stderr) = run(of(tool).arg("/proc/self/mem"), 1);
        assert!(stderr.contains("/proc/self/mem: Input/output error"), "{stderr}");
    }
    // A directory has a token for each of its files, by a put.
    let (_, stderr) = run(with_tool("token").arg(&directory), 1);
    assert!(stderr.contains("directory is a directory; give an archive of it"), "{stderr}");
    assert!(run(site.client("put").arg(&directory), 0).1.contains("0 files of 0 bytes are kept"));
    assert_eq!(site.kept(), (vec![], vec![]));
}

fn with_tool(tool: &str) -> Command {
    let mut command = stoq();
    command.arg(tool);
    command
}

#[test]
fn a_full_spool_is_named_with_the_fix_and_no_file_is_left() {
    let mut site = Site::new();
    let _gateway = site.start();
    let spool = site.path("spool");
    std::fs::create_dir(&spool).unwrap();
    let (path, _) = site.file("file", 2_000_000);
    let bytes = std::fs::read(&path).unwrap();
    // A limit on file lengths, whose signal is ignored, makes writes fail as on a full disk.
    let put = site.client("put");
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]).arg(put.get_program());
    let (_, stderr) = fed(limited.args(put.get_args()).arg("-").arg("--spool").arg(&spool), &bytes, 1);
    assert!(stderr.contains("bytes of standard input in a temporary file in"), "{stderr}");
    assert!(stderr.contains(spool.to_str().unwrap()) && stderr.contains("--spool DIR"), "{stderr}");
    let (_, stderr) = fed(site.client("put").args(["-", "--spool", "/nowhere"]), &bytes, 1);
    assert!(stderr.contains("standard input in a temporary file in /nowhere"), "{stderr}");
    let (_, stderr) = run(site.client("put").arg(&path).args(["--shards", "2+1", "--spool", "/nowhere"]), 1);
    assert!(stderr.contains("the parity in a temporary file in /nowhere"), "{stderr}");
    let (_, stderr) = fed(site.client("put").arg("-").env("TMPDIR", "/nowhere"), &bytes, 1);
    assert!(stderr.contains("/nowhere") && stderr.contains("TMPDIR"), "{stderr}");
    assert!(is_empty(&spool) && site.kept() == (vec![], vec![]));
}

#[test]
fn a_pipe_is_not_read_before_the_gateway_has_answered() {
    let site = Site::new();
    let (path, _) = site.file("file", 10);
    // Standard input is a file here, so that its offset shows whether it was read.
    let mut input = File::open(&path).unwrap();
    input.seek(SeekFrom::Start(1)).unwrap();
    let left = input.try_clone().unwrap();
    let (_, stderr) = with_stdin(site.client("put").args(["-", "--timeout", "0.5"]), input, 1);
    assert!(stderr.contains(&site.v4().to_string()), "{stderr}");
    assert_eq!((&left).stream_position().unwrap(), 1);
    for wrong in [&["--lanes", "9", "--shards", "2+1"][..], &["--via", "nobody"]] {
        let (_, stderr) = with_stdin(site.client("put").arg("-").args(wrong), left.try_clone().unwrap(), 2);
        assert!(stderr.contains(wrong[0]) || stderr.contains(wrong[1]), "{stderr}");
        assert_eq!((&left).stream_position().unwrap(), 1);
    }
}

#[test]
fn a_put_of_a_file_that_grows_meanwhile_fails() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, _) = site.file("log", 1_000_000);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                log.write_all(&[7; 1000]).unwrap();
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        // A put succeeds if the writer did not write during it; a later one fails.
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut put, mut named) = (false, false);
        while !(put && named) && Instant::now() < deadline {
            put |= fails(
                site.client("put").arg(&path),
                "log changed while it was being sent; put it again when no program",
            );
            named |=
                fails(stoq().arg("token").arg(&path), "log changed while it was being hashed; hash it again");
        }
        ended.store(true, Ordering::Release);
        assert!(put && named, "put: {put}, token: {named}");
    });
}

/// Whether a command fails, with exit code 1 and this text.
fn fails(command: &mut Command, text: &str) -> bool {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success() || (status.code() == Some(1) && stderr.contains(text)), "{status}: {stderr}");
    !status.success()
}
