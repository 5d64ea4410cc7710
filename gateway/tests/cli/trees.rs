//! Puts of many files and of directories, and gets by manifests.

use crate::support::{Site, json, run};
use crate::wording::assert_well_said;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use stoq::manifest::ManifestLine;

/// Runs a command; returns its standard output as bytes, and its standard error.
#[track_caller]
fn ended(command: &mut Command, code: i32) -> (Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    assert_well_said(command, code, &stderr);
    (stdout, stderr)
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The regular files below a directory, by their names in it.
fn contents(directory: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(directory).unwrap().as_os_str().as_bytes().to_vec();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn lines(manifest: &Path) -> Vec<ManifestLine> {
    let text = std::fs::read(manifest).unwrap();
    let lines = text.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n');
    lines.map(|line| ManifestLine::parse(line).unwrap()).collect()
}

/// A directory with files of every kind of name and content; returns the number of files that are put.
fn tree(directory: &Path) -> u64 {
    let long = "n".repeat(255);
    let names: [&[u8]; 12] = [
        b"plain",
        b"two\nlines",
        b"back\\slash\\n",
        b"carriage\r",
        b" blanks  in it ",
        b"-",
        b"--lease",
        b"Case",
        b"case",
        "gr\u{fc}n/\u{1f980}".as_bytes(),
        b"not \xff UTF-8/\xfe",
        long.as_bytes(),
    ];
    for name in names {
        write(&directory.join(OsStr::from_bytes(name)), [b"of ", name].concat());
    }
    write(&directory.join("empty"), b"");
    write(&directory.join("deep/a/b/c/d"), vec![7; 300_000]);
    for twin in ["twin", "deep/twin", "deep/a/twin"] {
        write(&directory.join(twin), b"twins");
    }
    for twin in ["large twin", "deep/large twin"] {
        write(&directory.join(twin), vec![9; 700_001]);
    }
    let sparse = File::create(directory.join("sparse")).unwrap();
    sparse.set_len(12 << 20).unwrap();
    sparse.write_all_at(b"not a hole", 5 << 20).unwrap();
    19 + 1
}

#[test]
fn a_directory_comes_back_as_it_was_put() {
    let mut site = Site::new();
    let _gateway = site.start();
    let here = site.path("tree");
    let files = tree(&here);
    symlink("plain", here.join("link")).unwrap();
    symlink("/etc", here.join("link out")).unwrap();
    run(Command::new("mkfifo").arg(here.join("pipe")), 0);
    let manifest = site.path("manifest");
    let put = || {
        let mut put = site.client("put");
        put.arg("tree").arg("--manifest").arg(&manifest);
        put
    };
    let (printed, told) = ended(&mut put(), 0);
    assert_eq!(printed.iter().filter(|&&byte| byte == b'\n').count() as u64, files);
    for skipped in ["tree/link is a symbolic link", "tree/link out is a symbolic link", "tree/pipe is a pipe"]
    {
        assert!(told.contains(&format!("skipped: {skipped}")), "{told}");
    }
    assert!(told.contains(&format!("{files} files of ")) && told.contains("3 skipped, 0 not put"), "{told}");
    assert!(told.contains("1 name(s) are not UTF-8"), "{told}");

    let listed = lines(&manifest);
    let expected = contents(&here);
    assert_eq!(listed.len() as u64, files);
    for line in &listed {
        let name = line.name.strip_prefix(b"tree/").unwrap();
        assert_eq!(line.token.hex(), blake3::hash(&expected[name]).to_hex().as_str());
        // The line on standard output: token, size, name.
        let shown = stoq::manifest::escaped(&line.name);
        let printed_line =
            [format!("{} {} ", line.token, expected[name].len()).as_bytes(), &shown, b"\n"].concat();
        assert!(printed.windows(printed_line.len()).any(|at| at == printed_line));
    }
    let names: Vec<_> = listed.iter().map(|line| line.name.clone()).collect();
    assert!(str::from_utf8(names.last().unwrap()).is_err(), "b3sum reads nothing after it");
    assert!(
        names[..names.len() - 1]
            .is_sorted_by_key(|name| name.split(|&b| b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>())
    );

    let again = json(&mut put());
    assert_eq!((again["files"].as_u64(), again["sent_bytes"].as_u64()), (Some(files), Some(0)), "{again}");
    assert_eq!(again["already_kept"].as_u64().unwrap() + again["same_bytes"].as_u64().unwrap(), files);
    assert_eq!((&again["same_bytes"], &again["skipped"]), (&3.into(), &3.into()));

    let get = || {
        let mut get = site.client("get");
        get.arg("--manifest").arg(&manifest).args(["-o", "back"]);
        get
    };
    let (printed, told) = ended(&mut get(), 0);
    assert_eq!(printed.iter().filter(|&&byte| byte == b'\n').count() as u64, files);
    assert!(told.contains(&format!("{files} files of ")), "{told}");
    assert!(contents(&site.path("back/tree")) == expected);
    let sparse = site.path("back/tree/sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < sparse.len() / 2, "holes come back as holes: {} blocks", sparse.blocks());
    let again = json(&mut get());
    assert_eq!(again["already_there"].as_u64(), Some(files));
    assert_eq!((&again["fetched_bytes"], &again["failed"]), (&0.into(), &0.into()));
}

#[test]
fn one_file_and_a_few_named_ones() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (one, token) = site.file("one", 100_000);
    let (two, other) = site.file("two", 600_000);
    symlink(&two, site.path("link")).unwrap();
    assert_eq!(run(site.client("put").arg(&one), 0).0.trim(), token, "as before");
    let mut put = site.client("put");
    put.args(["one", "link", "./one", "-"]).args(["--connections", "2", "--manifest"]);
    let error = run(put.arg("list"), 2).1;
    assert!(error.contains("standard input has no name"), "{error}");
    let put = ["one", "link", "./one", "--manifest", "list", "--connections", "2"];
    let sent = json(site.client("put").args(put));
    assert_eq!((&sent["files"], &sent["connections"]), (&3.into(), &2.into()));
    let listed = lines(&site.path("list"));
    let listed: Vec<_> =
        listed.iter().map(|line| (String::from_utf8_lossy(&line.name), line.token.to_string())).collect();
    assert_eq!(listed, [("one".into(), token.clone()), ("link".into(), other.clone())]);
    // An absolute path loses its beginning, as in an archive.
    let told = run(site.client("put").arg(&one).args(["--manifest", "list"]), 0).1;
    assert!(told.contains("no leading \"/\""), "{told}");
    let named = lines(&site.path("list")).remove(0).name;
    assert_eq!([b"/", &named[..]].concat(), one.as_os_str().as_bytes());
    // A link to a directory, given by its name, stands for the directory.
    write(&site.path("real/inner"), "in it");
    symlink("real", site.path("dirlink")).unwrap();
    run(site.client("put").args(["dirlink", "--manifest", "list"]), 0);
    assert_eq!(lines(&site.path("list"))[0].name, b"dirlink/inner");
    // A manifest of b3sum, on standard input.
    let mut get = site.client("get");
    get.args(["--manifest", "-", "-o", "by stdin"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    let mut get = get.spawn().unwrap();
    let digits = &token[3..];
    get.stdin.take().unwrap().write_all(format!("{digits}  ./a/one\r\n\n{digits}  two").as_bytes()).unwrap();
    assert!(get.wait().unwrap().success());
    assert_eq!(std::fs::read(site.path("by stdin/two")).unwrap(), std::fs::read(&one).unwrap());
    assert!(site.path("by stdin/a/one").is_file());
    // Standard input among files.
    let mut put = site.client("put");
    put.args(["one", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut put = put.spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"piped").unwrap();
    let printed = String::from_utf8(put.wait_with_output().unwrap().stdout).unwrap();
    let piped = format!("b3:{} 5 -\n", blake3::hash(b"piped").to_hex());
    assert!(printed.contains(&piped) && printed.contains(&format!("{token} 100000 one\n")), "{printed}");
}

#[test]
fn what_a_manifest_may_not_say_is_refused_before_anything_is_fetched() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (_, token) = site.file("one", 1000);
    run(site.client("put").arg("one"), 0);
    let digits = &token[3..];
    let refused = |text: &str| {
        std::fs::write(site.path("list"), text).unwrap();
        let error = run(site.client("get").args(["--manifest", "list", "-o", "inner/out"]), 2).1;
        assert!(!site.path("inner").exists() && error.contains("correct the line"), "{error}");
        error
    };
    let good = format!("{digits}  good\n");
    for (line, why) in [
        (
            format!("{digits}  /etc/x"),
            "line 2 of list: its name begins with /, which leads out of the directory",
        ),
        (format!("{digits}  ../x"), "has .., which leads out of the directory"),
        (format!("{digits}  a/../../x"), "has .., which leads out of the directory"),
        (
            format!("\\{digits}  a\\t"),
            "its name has a backslash that escapes nothing; write a backslash twice",
        ),
        (format!("{digits}  a/"), "its name names no file"),
        (format!("{digits} a"), "it is not the 64 hexadecimal digits of a token"),
        (format!("{digits}  a\0"), "its name has a zero byte"),
        (format!("{}  ./good", "0".repeat(64)), "an earlier line gives this name another token"),
    ] {
        let error = refused(&format!("{good}{line}\n"));
        assert!(error.contains(why), "{line}: {error}");
    }
    let error =
        run(site.client("get").args(["--manifest", "list", "-o", "out", "--from", "127.0.0.1:9"]), 2).1;
    assert!(error.contains("leave out --from"), "{error}");
    let error = run(site.client("get").args(["--manifest", "nowhere", "-o", "out"]), 1).1;
    assert!(error.contains("no manifest can be read from nowhere: No such file"), "{error}");
}

#[test]
fn a_get_leaves_other_files_alone_and_goes_on() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (big, token) = site.file("big", 3_000_000);
    let names = ["mine", "link/mine", "dir", "appears", "rights/file", "absent"];
    for name in names {
        write(&site.path("put").join(name), name);
    }
    std::fs::copy(&big, site.path("put/big")).unwrap();
    std::fs::create_dir(site.path("elsewhere")).unwrap();
    run(site.client("put").arg("put").args(["--manifest", "list"]), 0);
    let text = std::fs::read_to_string(site.path("list")).unwrap();
    let absent = blake3::hash(b"absent").to_hex();
    std::fs::write(site.path("list"), text.replace(absent.as_str(), &"0".repeat(64))).unwrap();
    let out = site.path("out/put");
    write(&out.join("mine"), "other bytes");
    symlink(site.path("elsewhere"), out.join("link")).unwrap();
    std::fs::create_dir(out.join("dir")).unwrap();
    write(&out.join("rights"), "a file where a directory is needed");
    // The first half of the big one, from an interrupted get.
    let bytes = std::fs::read(&big).unwrap();
    write(&out.join("big.part"), &bytes[..1 << 20]);
    write(&out.join("big.part.json"), format!("{{\"token\":\"{token}\"}}"));
    let mut get = site.client("get");
    let (_, told) = ended(get.args(["--manifest", "list", "-o", "out"]), 1);
    for part in [
        "out/put/mine: exists already, with other bytes, and is not replaced",
        "out/put/link: is a symbolic link or a file, and a directory is needed there",
        "out/put/rights: is a symbolic link or a file",
        "out/put/dir: is a directory",
        "not got: put/absent: not found",
        "5 of 7 files were not got, as told above",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(std::fs::read(out.join("mine")).unwrap(), b"other bytes");
    assert_eq!(std::fs::read_dir(site.path("elsewhere")).unwrap().count(), 0);
    assert_eq!(std::fs::read(out.join("appears")).unwrap(), b"appears");
    assert!(std::fs::read(out.join("big")).unwrap() == bytes && !out.join("big.part").exists());
    let fetched = 3_000_000 - (1 << 20) + "appears".len();
    assert!(told.contains(&format!("2 of {fetched} bytes fetched now")), "{told}");
}

#[test]
fn a_file_that_cannot_be_put_stops_no_other() {
    let mut site = Site::new();
    let _gateway = site.start();
    site.file("one", 1000);
    site.file("two", 1000);
    symlink("loop", site.path("loop")).unwrap();
    let (printed, told) = ended(
        site.client("put").args(["one", "nowhere", "not\u{1b}[2Jhere", "loop", "two", "--manifest", "list"]),
        1,
    );
    assert_eq!(printed.iter().filter(|&&byte| byte == b'\n').count(), 2);
    for part in [
        "not put: nowhere: No such file",
        "not put: loop: ",
        "not put: not\\u{1b}[2Jhere: No such file",
        "3 of 5 files were not put, as told above",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let names: Vec<_> = lines(&site.path("list")).into_iter().map(|line| line.name).collect();
    assert_eq!(names, [b"one", b"two"]);
    // The names in a manifest are relative: two may become equal.
    write(&site.path("inner/one"), "another");
    let put = |names: &[&str], code| {
        let mut put = site.client("put");
        ended(put.current_dir(site.path("inner")).args(names).args(["--manifest", "list"]), code).1
    };
    let told = put(&["one", "../inner/one"], 0);
    assert!(!told.contains("not in the manifest"), "{told}");
    let told = put(&["one", "../one"], 1);
    assert!(told.contains("not in the manifest: two files are one there; put them by themselves"), "{told}");
    assert_eq!(lines(&site.path("inner/list")).len(), 1);
}

#[test]
fn a_manifest_replaces_a_manifest_and_nothing_else() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (one, _) = site.file("one", 1000);
    let put = |manifest: &str, code| ended(site.client("put").args(["one", "--manifest", manifest]), code).1;
    std::fs::copy(&one, site.path("mine")).unwrap();
    assert!(put("mine", 2).contains("is no manifest, and it is not replaced"));
    assert_eq!(std::fs::read(site.path("mine")).unwrap(), std::fs::read(&one).unwrap());
    assert!(put("nowhere/list", 2).contains("there is no such directory"));
    let told = put("/dev/full", 1);
    assert!(
        told.contains(
            "the files are put, and the manifest /dev/full cannot be written; give another --manifest"
        ),
        "{told}"
    );
    // Apart from the gateway's store, which changes meanwhile.
    std::fs::create_dir(site.path("apart")).unwrap();
    for name in ["a", "b", "c", "d"] {
        std::fs::write(site.path("apart").join(name), name).unwrap();
    }
    put("apart/list", 0);
    let told = ended(site.client("put").args(["apart", "--manifest", "apart/list"]), 0).1;
    assert!(told.contains("skipped: apart/list is the manifest"), "{told}");
    assert_eq!(lines(&site.path("apart/list")).len(), 4);
    let error = run(site.client("put").args(["one", "mine", "--shards", "2+1"]), 2).1;
    assert!(error.contains("--shards: shards are made of one file"), "{error}");
}

/// A put of these names, and its first line.
fn putting(site: &Site, names: &[&str]) -> (Child, String) {
    let mut put = site.client("put");
    put.args(names).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut put = put.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(put.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (put, line)
}

#[test]
fn an_interrupted_put_goes_on_where_it_was() {
    let mut site = Site::new();
    let gateway = site.start();
    let (_, token) = site.file("one", 400_000);
    let fifo = site.path("fifo");
    run(Command::new("mkfifo").arg(&fifo), 0);
    let names = ["one", "fifo", "--manifest", "list"];
    let (put, line) = putting(&site, &names);
    assert_eq!(line, format!("{token} 400000 one\n"));
    let id = rustix::process::Pid::from_child(&put);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let output = put.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("1 files are put so far; the same command goes on from there"), "{told}");
    assert!(!site.path("list").exists(), "no manifest of a part");

    let (put, line) = putting(&site, &names);
    assert_eq!(line, format!("{token} 400000 one\n"));
    OpenOptions::new().write(true).open(&fifo).unwrap().write_all(b"at last").unwrap();
    let output = put.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("1 kept already"), "{told}");
    assert_eq!(lines(&site.path("list")).len(), 2);

    // A queue that keeps no payloads refuses all of them in one error.
    let (_, told) = ended(site.client("put").args(["one", "list", "--queue", "2"]), 1);
    assert!(told.contains("checked and dropped") && !told.contains("not put"), "{told}");

    // A connection that is lost ends the others' turns too.
    let (put, _) = putting(&site, &names);
    drop(gateway);
    OpenOptions::new().write(true).open(&fifo).unwrap().write_all(b"too late").unwrap();
    let output = put.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("the connection to ") && told.contains("files are put so far"), "{told}");
}
