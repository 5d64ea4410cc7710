//! The output of a get: existing files, files that appear meanwhile, other writers, and outputs that are no files.

use crate::support::{Gateway, Process, Site, json, run, stoq, wait_until};
use rustix::process::Signal;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The fix where the name of a part is taken by something other than a file.
const STAYS: &str = "and a get needs its name; give another --output";

/// Bytes of a file large enough to be stopped in the middle of its transfer.
const LARGE: usize = 48 << 20;

/// A token that no gateway has.
fn unknown() -> String {
    format!("b3:{}", "0".repeat(64))
}

fn get(site: &Site, token: &str, output: impl AsRef<Path>) -> Command {
    let mut get = site.client("get");
    get.arg(token).arg("-o").arg(output.as_ref());
    get
}

/// A get of the same payload from the same gateway, by way of `--from`.
fn gather(site: &Site, token: &str, output: impl AsRef<Path>) -> Command {
    let mut gather = get(site, token, output);
    gather.args(["--from", &site.v4().to_string()]);
    gather
}

/// Both ways into a file.
const WAYS: [fn(&Site, &str, &str) -> Command; 2] =
    [|site, token, output| get(site, token, output), |site, token, output| gather(site, token, output)];

fn put(site: &Site, name: &str, len: usize) -> (PathBuf, String) {
    let (path, token) = site.file(name, len);
    run(site.client("put").arg(&path), 0);
    (path, token)
}

fn same(one: &Path, other: &Path) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}

/// The files of the site's directory whose names begin with `prefix`.
fn named(site: &Site, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(site.directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// A get of a large file, half way: the gateway is stopped, the client runs.
fn half_way(site: &mut Site, way: fn(&Site, &str, &str) -> Command) -> (Gateway, Process, PathBuf, String) {
    site.more = String::new();
    let gateway = site.start();
    let (path, token) = put(site, "large", LARGE);
    let client = Process::spawn(&mut way(site, &token, "copy"));
    let part = site.path("copy.part");
    // Blocks and not the length: a gathering writes the end first.
    let blocks = |part: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(part).map_or(0, |part| part.blocks())
    };
    wait_until("a part of it is there", || blocks(&part) > 2048);
    gateway.process.signal(Signal::STOP);
    assert!(!site.path("copy").exists(), "the transfer was over too early for this test");
    (gateway, client, path, token)
}

#[test]
fn files_that_are_no_parts_of_the_payload_are_refused_and_not_touched() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (_, token) = put(&site, "file", 100_000);
    let (part, note) = (site.path("copy.part"), site.path("copy.part.json"));
    let of_another = format!("{{\"token\":\"{}\",\"length\":9}}", unknown());
    let of_this = format!("{{\"token\":\"{token}\",\"length\":100000}}");
    let huge = format!("{of_this}{}", " ".repeat(1 << 20));
    let notes = [None, Some(""), Some("{\"token\":"), Some("[1]"), Some(&of_another), Some(&huge)];
    for way in WAYS {
        for text in notes {
            fs::write(&part, b"precious").unwrap();
            text.inspect(|text| fs::write(&note, text).unwrap());
            let (_, stderr) = run(&mut way(&site, &token, "copy"), 1);
            assert!(stderr.contains("copy.part: "), "{text:?}: {stderr}");
            assert!(stderr.contains("give another --output"), "{text:?}: {stderr}");
            let why = ["an earlier get left it: ", "does not name its payload", "is no note of one"];
            assert!(why.iter().any(|why| stderr.contains(why)), "{text:?}: {stderr}");
            assert_eq!(fs::read(&part).unwrap(), b"precious", "{text:?}");
            assert_eq!(fs::read(&note).ok(), text.map(|text| text.as_bytes().to_vec()));
            assert!(!site.path("copy").exists());
            text.inspect(|_| fs::remove_file(&note).unwrap());
        }
        // The note of another payload, without a part.
        fs::remove_file(&part).unwrap();
        fs::write(&note, b"precious").unwrap();
        let (_, stderr) = run(&mut way(&site, &token, "copy"), 1);
        assert!(stderr.contains("copy.part.json: its name is needed for the note of a part"), "{stderr}");
        assert_eq!(named(&site, "copy"), ["copy.part.json"]);
        fs::remove_file(&note).unwrap();
    }
    // A get from several gateways does not discard the part of a get from one.
    fs::write(&part, vec![0; 50_000]).unwrap();
    fs::write(&note, &of_this).unwrap();
    let (_, stderr) = run(&mut gather(&site, &token, "copy"), 1);
    assert!(stderr.contains(&format!("`stoq get {token} -o copy` continues it")), "{stderr}");
    assert_eq!(fs::metadata(&part).unwrap().len(), 50_000);
    let (_, stderr) = run(&mut get(&site, &unknown(), "copy"), 1);
    assert!(stderr.contains(&format!("`stoq get {token} -o copy` continues it")), "{stderr}");
    assert_eq!(fs::metadata(&part).unwrap().len(), 50_000);
}

#[test]
fn a_part_name_that_is_a_link_a_directory_or_a_pipe_is_refused() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = put(&site, "file", 100_000);
    let (part, precious) = (site.path("copy.part"), site.path("precious"));
    for way in WAYS {
        fs::write(&precious, b"").unwrap();
        for (target, text) in
            [("precious", "symbolic link"), ("nowhere", "symbolic link"), (".", "symbolic link")]
        {
            symlink(target, &part).unwrap();
            let (_, stderr) = run(&mut way(&site, &token, "copy"), 1);
            assert!(stderr.contains("copy.part: ") && stderr.contains(text), "{stderr}");
            assert!(stderr.contains(STAYS) && !stderr.contains("move"), "{stderr}");
            fs::remove_file(&part).unwrap();
        }
        fs::hard_link(&precious, &part).unwrap();
        let (_, stderr) = run(&mut way(&site, &token, "copy"), 1);
        assert!(stderr.contains("second name") && stderr.contains("its name is needed while"), "{stderr}");
        assert!(fs::read(&precious).unwrap().is_empty() && !site.path("nowhere").exists());
        fs::remove_file(&part).unwrap();
        fs::create_dir(&part).unwrap();
        let (_, stderr) = run(&mut way(&site, &token, "copy"), 1);
        assert!(stderr.contains("is a directory") && stderr.contains(STAYS), "{stderr}");
        fs::remove_dir(&part).unwrap();
        make_fifo(&part);
        let (_, stderr) = run(&mut way(&site, &token, "copy"), 1);
        assert!(stderr.contains("a pipe") && stderr.contains(STAYS), "{stderr}");
        fs::remove_file(&part).unwrap();
        // An empty file is taken as the part.
        fs::write(&part, b"").unwrap();
        run(&mut way(&site, &token, "copy"), 0);
        assert!(same(&site.path("copy"), &path));
        assert_eq!(named(&site, "copy"), ["copy"]);
        fs::remove_file(site.path("copy")).unwrap();
    }
}

#[test]
fn a_get_that_fails_before_any_byte_leaves_nothing() {
    let mut site = Site::new();
    let absent = site.client("get").args([&unknown(), "-o", "copy", "--timeout", "0.3"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    let _gateway = site.start();
    for way in WAYS {
        let (_, stderr) = run(&mut way(&site, &unknown(), "copy"), 1);
        assert!(stderr.contains("not found"), "{stderr}");
        // An earlier release left empty files of another name.
        fs::write(site.path("copy.gathering"), b"precious").unwrap();
        run(&mut way(&site, &unknown(), "copy"), 1);
        assert_eq!(fs::read(site.path("copy.gathering")).unwrap(), b"precious");
        fs::remove_file(site.path("copy.gathering")).unwrap();
        assert_eq!(named(&site, "copy"), [""; 0]);
    }
}

#[test]
fn a_second_get_of_one_output_is_refused_while_the_first_one_runs() {
    for way in WAYS {
        let mut site = Site::new();
        let (gateway, mut client, path, token) = half_way(&mut site, way);
        for second in WAYS {
            for token in [&token, &unknown()] {
                let (_, stderr) = run(&mut second(&site, token, "copy"), 1);
                assert!(stderr.contains("copy.part: another get is writing it"), "{stderr}");
            }
        }
        gateway.process.signal(Signal::CONT);
        assert_eq!(client.end().code(), Some(0), "{}", client.log());
        assert!(same(&site.path("copy"), &path));
        assert_eq!(named(&site, "copy"), ["copy"]);
    }
}

#[test]
fn of_concurrent_gets_of_one_output_one_wins_and_its_file_is_whole() {
    let mut site = Site::new();
    let _gateway = site.start();
    let files = [put(&site, "one", 3_000_000), put(&site, "two", 2_000_000)];
    for round in 0..4 {
        let output = format!("copy{round}");
        let racers: Vec<_> = (0..6)
            .map(|n| {
                let mut racer = WAYS[n / 2 % 2](&site, &files[n % 2].1, &output);
                racer.stdout(Stdio::null()).stderr(Stdio::piped());
                (n % 2, racer.spawn().unwrap())
            })
            .collect();
        let mut won = Vec::new();
        for (of, racer) in racers {
            let ended = racer.wait_with_output().unwrap();
            let stderr = String::from_utf8(ended.stderr).unwrap();
            if ended.status.success() {
                won.push(of);
            } else {
                assert_eq!(ended.status.code(), Some(1), "{stderr}");
                assert!(
                    stderr.contains("another get is writing it") || stderr.contains("exists already"),
                    "{stderr}"
                );
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        assert!(same(&site.path(&output), &files[won[0]].0), "round {round}");
        assert_eq!(named(&site, &output), [output]);
    }
}

#[test]
fn an_output_that_appears_during_a_get_is_not_replaced_and_the_payload_is_kept() {
    for way in WAYS {
        let mut site = Site::new();
        let (gateway, mut client, path, token) = half_way(&mut site, way);
        fs::write(site.path("copy"), b"precious").unwrap();
        gateway.process.signal(Signal::CONT);
        assert_eq!(client.end().code(), Some(1));
        let log = client.log();
        assert!(
            log.contains("copy: appeared") && log.contains("every byte is there and checked, as copy.part"),
            "{log}"
        );
        assert_eq!(fs::read(site.path("copy")).unwrap(), b"precious");
        assert!(same(&site.path("copy.part"), &path));
        assert_eq!(named(&site, "copy"), ["copy", "copy.part"]);
        // The file belongs to the user now: no later get takes it.
        fs::remove_file(site.path("copy")).unwrap();
        run(&mut way(&site, &token, "copy"), 1);
        assert!(same(&site.path("copy.part"), &path));
    }
}

#[test]
fn bytes_of_another_process_in_the_part_are_found_before_the_part_is_renamed() {
    for way in WAYS {
        let mut site = Site::new();
        let (gateway, mut client, path, token) = half_way(&mut site, way);
        use std::os::unix::fs::FileExt;
        let part = fs::OpenOptions::new().write(true).open(site.path("copy.part")).unwrap();
        // Past the payload's end: the transfer does not overwrite it.
        part.write_all_at(b"stray", LARGE as u64).unwrap();
        gateway.process.signal(Signal::CONT);
        assert_eq!(client.end().code(), Some(1));
        let log = client.log();
        assert!(
            log.contains("another process wrote there too")
                && log.contains("it has been removed: run the same command again"),
            "{log}"
        );
        assert_eq!(named(&site, "copy"), [""; 0]);
        run(&mut way(&site, &token, "copy"), 0);
        assert!(same(&site.path("copy"), &path));
    }
}

#[test]
fn a_part_that_is_moved_away_is_not_renamed_and_its_replacement_is_not_either() {
    let mut site = Site::new();
    let (gateway, mut client, path, _) = half_way(&mut site, WAYS[0]);
    fs::rename(site.path("copy.part"), site.path("moved")).unwrap();
    fs::write(site.path("copy.part"), b"precious").unwrap();
    gateway.process.signal(Signal::CONT);
    assert_eq!(client.end().code(), Some(1));
    assert!(client.log().contains("was moved, replaced or removed"), "{}", client.log());
    assert_eq!(fs::read(site.path("copy.part")).unwrap(), b"precious");
    assert!(!site.path("copy").exists() && same(&site.path("moved"), &path));
}

#[test]
fn an_interrupted_gathering_leaves_nothing_and_a_killed_one_begins_anew() {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let mut site = Site::new();
        let (gateway, mut client, path, token) = half_way(&mut site, WAYS[1]);
        client.signal(signal);
        assert_eq!(client.end().code(), code);
        let left = if code.is_none() { vec!["copy.part", "copy.part.json"] } else { vec![] };
        assert_eq!(named(&site, "copy"), left);
        gateway.process.signal(Signal::CONT);
        // A get from one gateway knows that such a part has holes.
        for way in if code.is_none() { [WAYS[0], WAYS[0]] } else { [WAYS[1], WAYS[1]] } {
            let _ = fs::remove_file(site.path("copy"));
            run(&mut way(&site, &token, "copy"), 0);
            assert!(same(&site.path("copy"), &path));
        }
        assert_eq!(named(&site, "copy"), ["copy"]);
    }
}

#[test]
fn a_part_of_an_earlier_release_is_continued_and_one_too_long_is_cut() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = put(&site, "file", 100_000);
    let whole = fs::read(&path).unwrap();
    let longer = [&whole[..], b"more"].concat();
    let much_longer = [&whole[..], &[7; 70_000]].concat();
    let (right, wrong) = (100_000, [0, 1, 16_384, 32_768, 40_000, 99_000, 200_000_000, 1 << 60]);
    // An earlier release noted the length that the gateway had claimed.
    let mut rows = vec![
        (&whole[..40_000], right, 32_768),
        (&whole, right, 98_304),
        (&longer, right, 98_304),
        (&much_longer, right, 163_840),
    ];
    rows.extend(wrong.map(|length: u64| (&whole[..40_000], length, 32_768)));
    for (part, length, resumed_at) in rows {
        fs::write(site.path("copy.part"), part).unwrap();
        fs::write(site.path("copy.part.json"), format!("{{\"token\":\"{token}\",\"length\":{length}}}"))
            .unwrap();
        let got = json(&mut get(&site, &token, "copy"));
        assert_eq!(got["resumed_at"], resumed_at);
        assert!(got["check_seconds"].as_f64().is_some(), "{got}");
        assert!(same(&site.path("copy"), &path));
        assert_eq!(named(&site, "copy"), ["copy"]);
        fs::remove_file(site.path("copy")).unwrap();
    }
}

#[test]
fn outputs_that_are_no_new_files_are_refused_before_the_network() {
    // No gateway runs: a get that reaches the network fails with another error.
    let site = Site::new();
    fs::create_dir(site.path("directory")).unwrap();
    fs::write(site.path("file"), b"precious").unwrap();
    symlink("file", site.path("to-file")).unwrap();
    symlink("nowhere", site.path("to-nothing")).unwrap();
    symlink("directory", site.path("to-directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(site.path("socket")).unwrap();
    symlink("socket", site.path("to-socket")).unwrap();
    let long = "n".repeat(256);
    let cases = [
        ("directory", "is a directory; give a file in it"),
        ("to-directory", "is a directory; give a file in it"),
        ("directory/", "names a directory; give a file in it"),
        ("new/", "names a directory"),
        ("new/.", "names a directory"),
        (".", "names a directory"),
        ("..", "names a directory"),
        ("/", "names a directory"),
        ("file", "exists already; remove it"),
        ("to-file", "is a symbolic link, through which a get writes nothing; give another"),
        ("to-socket", "is a symbolic link, through which a get writes nothing; give another"),
        ("to-nothing", "symbolic link to nowhere, which does not exist"),
        ("file/copy", "file is no directory: give another"),
        ("missing/copy", "there is no directory missing: make it"),
        ("socket", "is a socket, which cannot be opened; give a file"),
        (&long, "256 bytes, and names in this directory have 255 at most"),
    ];
    for (output, text) in cases {
        for way in WAYS {
            let (_, stderr) = run(&mut way(&site, &unknown(), output), 1);
            assert!(
                stderr.contains(text) && stderr.contains(output.trim_end_matches('.')),
                "{output}: {stderr}"
            );
        }
    }
    run(&mut get(&site, &unknown(), ""), 2);
    assert_eq!(fs::read(site.path("file")).unwrap(), b"precious");
    assert_eq!(named(&site, "n"), [""; 0]);
    for way in [
        gather(&site, &unknown(), "/dev/null"),
        get(&site, &format!("set:{}", "0".repeat(64)), "/dev/stdout"),
    ]
    .iter_mut()
    {
        let (_, stderr) = run(way, 2);
        assert!(stderr.contains("writes in any order; give a file"), "{stderr}");
    }
}

#[test]
fn outputs_with_names_of_every_allowed_length_are_written() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = put(&site, "file", 100_000);
    for len in [244, 245, 246, 250, 251, 255] {
        for way in WAYS {
            let name = "n".repeat(len);
            run(&mut way(&site, &token, &name), 0);
            assert!(same(&site.path(&name), &path), "{len}");
            assert_eq!(named(&site, "n"), [name.as_str()], "{len}");
            fs::remove_file(site.path(&name)).unwrap();
        }
    }
}

#[test]
fn empty_payloads_are_written_and_files_have_the_mode_of_the_umask() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = put(&site, "empty", 0);
    fs::write(site.path("plain"), b"").unwrap();
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().permissions().mode();
    for (n, way) in WAYS.into_iter().enumerate() {
        let name = format!("copy{n}");
        run(&mut way(&site, &token, &name), 0);
        assert!(same(&site.path(&name), &path));
        assert_eq!(mode(&name), mode("plain"), "the mode of the umask");
        assert_eq!(named(&site, "copy").len(), n + 1);
    }
}

fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(fs::metadata(path).unwrap().file_type().is_fifo());
}

#[test]
fn devices_and_pipes_take_the_bytes_in_order() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = put(&site, "file", 3_000_000);
    let whole = fs::read(&path).unwrap();
    let got = json(&mut get(&site, &token, "/dev/null"));
    assert_eq!(got["bytes"], 3_000_000);
    let fifo = site.path("fifo");
    make_fifo(&fifo);
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    run(&mut get(&site, &token, "fifo"), 0);
    assert!(reader.join().unwrap() == whole);
    assert_eq!(named(&site, "fifo"), ["fifo"]);
    for output in ["-", "/dev/stdout", "/dev/fd/1"] {
        let got = get(&site, &token, output).stdin(Stdio::null()).output().unwrap();
        assert!(got.status.success() && got.stdout == whole, "{output}");
        let file = fs::File::create(site.path("redirected")).unwrap();
        assert!(get(&site, &token, output).stdout(file).status().unwrap().success());
        assert!(fs::read(site.path("redirected")).unwrap() == whole, "{output}");
    }
    let (_, stderr) = run(&mut get(&site, &token, "/dev/full"), 1);
    assert!(stderr.contains("cannot keep the fetched bytes: No space left"), "{stderr}");
}

#[test]
fn a_non_blocking_pipe_gets_every_byte() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = put(&site, "file", 3_000_000);
    let (mut read, write) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let mut client = get(&site, &token, "-").stdout(write).stderr(Stdio::null()).spawn().unwrap();
    // The test does not read before the pipe is full, which is 64 KiB by default.
    let full = 65_536;
    wait_until("the pipe is full", || rustix::io::ioctl_fionread(&read).unwrap() >= full);
    let mut got = Vec::new();
    read.read_to_end(&mut got).unwrap();
    assert!(client.wait().unwrap().success());
    assert!(got == fs::read(&path).unwrap());
}

#[test]
fn a_get_ends_when_its_reader_goes_and_at_a_signal_when_it_does_not_read() {
    let mut site = Site::new();
    site.more = String::new();
    let _gateway = site.start();
    let (_, token) = put(&site, "file", 3_000_000);
    // This reader reads a little and goes, like `head`.
    let mut client = get(&site, &token, "-").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    client.stdout.take().unwrap().read_exact(&mut [0; 1000]).unwrap();
    let ended = client.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(141), &b""[..]));
    // This reader stays and does not read: a signal ends the get.
    let (read, write) = io::pipe().unwrap();
    let mut client = get(&site, &token, "-").stdout(write).stderr(Stdio::null()).spawn().unwrap();
    wait_until("some of it is in the pipe", || rustix::io::ioctl_fionread(&read).unwrap() > 0);
    let id = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process(id, Signal::INT).unwrap();
    wait_until("it ends", || client.try_wait().unwrap().is_some());
    assert_eq!(client.wait().unwrap().code(), Some(130));
}

#[test]
fn an_unwritable_directory_is_reported_before_the_network() {
    if rustix::process::geteuid().is_root() {
        // Root may write in every directory, but not in /proc.
        let (_, stderr) = run(
            stoq().args([
                "get",
                &unknown(),
                "-o",
                "/proc/copy",
                "--node-id",
                crate::support::identities().gateway.as_str(),
                "-g",
                "127.0.0.1:1",
            ]),
            1,
        );
        assert!(stderr.contains("/proc/copy") && stderr.contains("give"), "{stderr}");
        return;
    }
    let site = Site::new();
    fs::create_dir(site.path("closed")).unwrap();
    fs::set_permissions(site.path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let (_, stderr) = run(&mut get(&site, &unknown(), "closed/copy"), 1);
    assert!(stderr.contains("closed/copy") && stderr.contains("you may write to"), "{stderr}");
}
