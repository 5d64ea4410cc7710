//! The form of an executable's error: one error, its cause once, no text of a debugger.

use std::net::SocketAddr;

/// The names with which an error begins.
const PROGRAMS: [&str; 4] = ["stoq: ", "stoq-gateway: ", "stoq-pktgen: ", "error: "];

/// Code that is shown by Rust's `Debug`, or by a reader of JSON.
const DEBUG: &[&str] = &[
    "Some(",
    "None)",
    "Ok(",
    "Err(",
    "Error(",
    "Error {",
    " { ",
    "\\\"",
    "\\n",
    "kind: ",
    "Custom",
    "InvalidInput",
    "os error 0",
    "RecvError",
    "unwrap",
    "panicked",
];

/// Phrases that say nothing beside `stoq: `.
const EMPTY: &[&str] =
    &["failed to", "unable to", "error: error", "stoq: error", "an error occurred", "unknown error"];

/// A phrase of 20 characters and three words or more that stands twice in a message. A path, a token or an address may stand twice.
fn said_twice(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_phrase = |phrase: &[char]| phrase.iter().filter(|letter| **letter == ' ').count() > 1;
    chars.windows(20).enumerate().filter(|(_, phrase)| is_phrase(phrase)).find_map(|(at, phrase)| {
        let again = chars[at + 20..].windows(20).any(|other| other == phrase);
        again.then(|| phrase.iter().collect())
    })
}

/// A message in parts: errors of several addresses stand in one message, and may be alike.
fn parts(message: &str) -> Vec<String> {
    let (mut parts, mut seen) = (vec![String::new()], Vec::new());
    for clause in message.split("; ") {
        let address = clause
            .split([' ', ','])
            .map(|word| word.trim_end_matches(':'))
            .find(|word| word.parse::<SocketAddr>().is_ok());
        if let Some(address) = address.filter(|address| !seen.contains(address)) {
            seen.push(address);
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            *part += clause;
            *part += "; ";
        }
    }
    parts
}

/// A clause that stands twice in a message: the text between two colons or semicolons.
fn clause_twice(text: &str) -> Option<&str> {
    let clauses: Vec<&str> =
        text.split([';', '\n']).flat_map(|part| part.split(": ")).map(str::trim).collect();
    clauses.iter().enumerate().find_map(|(at, clause)| {
        let is_sentence = clause.contains(' ');
        (is_sentence && clauses[at + 1..].contains(clause)).then_some(*clause)
    })
}

/// What is wrong with the standard error of a tool that failed.
pub(crate) fn fault(stderr: &str) -> Option<String> {
    let begins =
        |line: &str| PROGRAMS.iter().find_map(|program| line.strip_prefix(program)).map(str::to_owned);
    let errors: Vec<(usize, String)> =
        stderr.lines().enumerate().filter_map(|(at, line)| Some((at, begins(line)?))).collect();
    let [(at, first)] = &errors[..] else { return Some(format!("{} errors and not one", errors.len())) };
    // clap adds its usage, and TOML's reader the line of the file.
    let below: Vec<&str> = stderr.lines().skip(at + 1).collect();
    let usage = below.iter().position(|line| line.is_empty()).unwrap_or(below.len());
    let message = format!("{first}\n{}", below[..usage].join("\n"));
    for part in parts(&message) {
        if let Some(phrase) = said_twice(&part).or_else(|| clause_twice(&part).map(str::to_owned)) {
            return Some(format!("{phrase:?} stands twice"));
        }
    }
    let is_of_file = |line: &&str| line.trim_start().starts_with('|') || line.contains(" | ");
    let said: Vec<&str> = message.lines().filter(|line| !is_of_file(line)).collect();
    let said = said.join("\n");
    if let Some(code) = DEBUG.iter().find(|code| said.contains(**code)) {
        return Some(format!("{code:?} is no text for a user"));
    }
    if let Some(phrase) = EMPTY.iter().find(|phrase| stderr.contains(**phrase)) {
        return Some(format!("{phrase:?} says nothing"));
    }
    // Three of them say that an argument may be given several times.
    let said = said.trim_end();
    (said.ends_with('.') && !said.ends_with("...")).then(|| "it ends in a full stop".into())
}

/// Checks the standard error of a tool that ended with this code, where the code means a failure.
#[track_caller]
pub(crate) fn assert_well_said(command: &std::process::Command, code: i32, stderr: &str) {
    // `check` reports what it finds on standard output; DPDK has its own lines on standard error.
    let is_check = command.get_args().take(2).any(|word| word == "check");
    if code == 0 || (is_check && !stderr.contains("stoq-gateway: ")) {
        return;
    }
    assert!([1, 2, 130].contains(&code), "{command:?}: no such code is documented: {code}");
    assert_eq!(fault(stderr), None, "{command:?}: {stderr}");
}

#[test]
fn faults_of_wording_are_found() {
    for (stderr, part) in [
        ("", "0 errors"),
        ("stoq: one\nstoq: two\n", "2 errors"),
        ("stoq: x.toml: TOML parse error: x.toml: TOML parse error\n", "stands twice"),
        ("stoq: cannot bind: 1.2.3.4: cannot bind\n", "\"cannot bind\" stands twice"),
        (
            "stoq: no answer from 127.0.0.1:1 within 1 s; no answer from 127.0.0.1:1 within 1 s\n",
            "stands twice",
        ),
        ("stoq: it is Some(7)\n", "Some("),
        ("stoq: Os { code: 2 }\n", " { "),
        ("stoq: failed to bind\n", "says nothing"),
        ("stoq: the disk is full.\n", "full stop"),
    ] {
        let found = fault(stderr).unwrap_or_default();
        assert!(found.contains(part), "{stderr}: {found}");
    }
    for stderr in [
        "stoq: a file: No such file or directory (os error 2)\n",
        "2026-01-01 INFO up\nstoq-gateway: it is full; free some\n",
        "error: unexpected argument '--x'\n\nUsage: stoq [OPTIONS]\n\nFor more information, try '--help'.\n",
        "stoq: no answer from 127.0.0.1:1 within 1 s; no answer from 127.0.0.1:2 within 1 s\n",
        "stoq: a.key is open to others (mode 0644); run: chmod 600 a.key\n",
        "stoq: x.toml: TOML parse error at line 1, column 6\n  |\n1 | x = Some(\n  |      ^\ninvalid array\n",
    ] {
        assert_eq!(fault(stderr), None, "{stderr}");
    }
}
