//! The house rules that a program can check: CONTRIBUTING.md says why each holds.
//!
//! If the tree breaks a rule at some places, the rule lists them. A place that no longer breaks its rule must leave the list.

mod crates;
mod errors;
mod imports;
mod names;
mod parameters;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file, lines.
const FILE_LINES_MAX: usize = 500;
/// A function, lines.
const FUNCTION_LINES_MAX: usize = 70;

/// ARCHITECTURE.md, lines.
const PAGE_LINES_MAX: usize = 70;

/// Files longer than [`FILE_LINES_MAX`].
const LONG_FILES: &[&str] = &["gateway/tests/cli/outputs.rs", "tests/client.rs", "tests/seed_store/sets.rs"];

/// Functions longer than [`FUNCTION_LINES_MAX`].
const LONG_FUNCTIONS: &[&str] = &[
    "gateway/examples/instructions/main.rs main",
    "gateway/tests/configs.rs a_value_that_cannot_work_is_refused_with_its_key_and_its_fix",
    "tests/record_vectors.rs written",
];

/// Words with which a sentence hides its subject.
const BANNED: &[&str] = &[
    "so many",
    "so much of",
    "whoever",
    "who asks",
    "is done so",
    "what comes",
    "somebody",
    "affair",
    "without a word",
];

/// Single words of the same kind.
const BANNED_WORDS: &[&str] = &["nobody", "anybody", "everybody", "someone", "those who", "who is"];

/// Words in British spelling. The code's, the standards' and the documents' spelling is American.
const BRITISH: &[&str] = &[
    "neighbour",
    "colour",
    "behaviour",
    "favour",
    "honour",
    "dialled",
    "dialling",
    "cancelled",
    "cancelling",
    "labelled",
    "modelled",
    "signalled",
    "travelled",
    "authoris",
    "initialis",
    "recognis",
    "randomis",
    "serialis",
    "finalis",
    "normalis",
    "optimis",
    "organis",
    "summaris",
    "analyse",
    "licence",
    "offence",
    "defence",
    "centre",
    "catalogue",
    "judgement",
    "acknowledgement",
    "learnt",
];

/// Names that contain one of [`BANNED_WORDS`]: a value of `[hops] transit`, and Unix's user without rights.
const NAMES_OF_OTHERS: &[&str] =
    &["\"nobody\"", "\\\"nobody\\\"", "holders-nobody", "--reuid=nobody", "chown -R nobody:"];

/// The last words of bounds' names: the units that the bounds count.
const UNITS: &[&str] = &[
    "ATTEMPTS",
    "BATCHES",
    "BURST",
    "BYTES",
    "CHUNKS",
    "CONNECTIONS",
    "ERRORS",
    "GROUPS",
    "HANDSHAKES",
    "LANES",
    "LEN",
    "LIMIT",
    "MS",
    "OPEN",
    "S",
    "STRIKES",
    "TRIES",
    "US",
    "STALLS",
    "SOLICITS",
    "REPEATS",
    "CORES",
    "QUEUE",
    "WORKERS",
    "SOURCES",
    "PEERS",
    "PORT",
];

/// A file of the tree: its path from the root, its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files whose names end in one of `endings`, without build products.
fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = vec![root().into()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no file ends in {endings:?}");
    found
}

/// Fails unless the places that break a rule are those listed.
fn assert_only(listed: &[&str], broken: &BTreeSet<String>, rule: &str) {
    let listed: BTreeSet<_> = listed.iter().map(|&place| place.to_owned()).collect();
    let new: Vec<_> = broken.difference(&listed).collect();
    let mended: Vec<_> = listed.difference(broken).collect();
    assert!(new.is_empty(), "{rule}: {new:#?}");
    assert!(
        mended.is_empty(),
        "{rule}: no longer broken here, leave the list in tests/tidy/main.rs: {mended:#?}"
    );
}

#[test]
fn files_fit_a_reader() {
    let long = sources(&[".rs"]).into_iter().filter(|source| source.text.lines().count() > FILE_LINES_MAX);
    let rule = format!("a file past {FILE_LINES_MAX} lines asks to be two");
    assert_only(LONG_FILES, &long.map(|source| source.path).collect(), &rule);
}

/// docs/security.md names the tests that hold each defense.
#[test]
fn the_tests_that_the_page_on_security_names_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let tests: String = sources(&[".rs"]).into_iter().map(|source| source.text).collect();
    for section in page.split("\n## ").skip(1) {
        let (_, named) = section.split_once("\n- Tests: ").expect("a section names its tests");
        let names: Vec<_> = named.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {section}");
        for name in names {
            assert!(tests.contains(&format!("fn {name}(")), "docs/security.md: there is no test {name}");
        }
    }
}

#[test]
fn functions_fit_a_screen() {
    let mut long = BTreeSet::new();
    for source in sources(&[".rs"]) {
        for (name, lines) in functions(&source.text) {
            if lines > FUNCTION_LINES_MAX {
                long.insert(format!("{} {name}", source.path));
            }
        }
    }
    assert_only(LONG_FUNCTIONS, &long, &format!("a function past {FUNCTION_LINES_MAX} lines asks to be two"));
}

/// The functions of a file that rustfmt has seen: a body ends at a brace under the line that begins the function.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some((before, after)) = code.split_once("fn ") else { continue };
        let name = after.split(['(', '<']).next().unwrap_or_default();
        let is_modifier = |word: &str| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\"", "in"].contains(&word)
        };
        if !before.split_whitespace().all(is_modifier) {
            continue;
        }
        // A declaration has no body.
        if line.ends_with(';') {
            continue;
        }
        let ends = |line: &str| line.len() == indent + 1 && line.ends_with('}') && line.trim_start() == "}";
        if let Some(lines) = lines[start..].iter().position(|line| ends(line)) {
            found.push((name, lines + 1));
        }
    }
    found
}

#[test]
fn functions_are_measured() {
    let text = "fn one() {\n    two();\n}\n\nimpl A {\n    pub(super) async fn two<T>(&self) {\n        x\n    }\n}\n\ntrait B {\n    fn three();\n}\n";
    assert_eq!(functions(text), [("one", 3), ("two", 3)]);
}

#[test]
fn unsafe_code_stays_in_its_two_rooms() {
    let fenced = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| code.contains(word))
    };
    for source in sources(&[".rs"]) {
        let rooms = ["dpdk/", "disk-ring/", "benches/peers/"];
        let outside = !rooms.iter().any(|room| source.path.starts_with(room));
        for (at, line) in source.lines().filter(|_| outside && source.path != file!()) {
            assert!(!fenced(line), "{}:{at}: unsafe code belongs in dpdk/ or disk-ring/", source.path);
        }
    }
}

#[test]
fn bounds_have_units() {
    for source in sources(&[".rs"]).iter().filter(|source| source.path.starts_with("src/limits")) {
        for (_, line) in source.lines() {
            let Some(declared) = line.strip_prefix("pub const ") else { continue };
            let name = declared.split(':').next().unwrap();
            assert!(
                name.split('_').any(|word| UNITS.contains(&word)),
                "{}: {name} does not say what it counts: one of {UNITS:?}",
                source.path
            );
        }
    }
}

/// Wireshark's view of the records names each that docs/protocol.md has.
#[test]
fn the_dissector_names_every_record() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (protocol, dissector) = (read("docs/protocol.md"), read("packaging/stoq.lua"));
    let rows = protocol.lines().filter_map(|line| line.strip_prefix("| 0x")?.split_once('|'));
    let records: Vec<_> = rows
        .map(|(number, rest)| (number.trim(), rest.split('|').next().unwrap().trim()))
        .filter(|(_, name)| !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_uppercase()))
        .collect();
    assert!(records.len() > 10, "{records:?}");
    for (number, name) in records {
        let entry = format!("[0x{number}] = \"{name}\"");
        assert!(dissector.contains(&entry), "packaging/stoq.lua has no {entry}");
    }
}

#[test]
fn cited_sections_exist() {
    let protocol = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let exists = |section: &str| protocol.lines().any(|line| line.starts_with(&format!("## {section}. ")));
    for source in sources(&[".rs"]).iter().filter(|source| source.path != file!()) {
        for (at, line) in source.lines() {
            for cited in line.split("protocol §").skip(1) {
                let section: String = cited.chars().take_while(char::is_ascii_digit).collect();
                assert!(exists(&section), "{}:{at}: docs/protocol.md has no section {section}", source.path);
            }
            for (digits, rest) in cited_rfcs(line) {
                assert!((1..=5).contains(&digits.len()), "{}:{at}: no RFC: {line}", source.path);
                let Some(section) = rest.strip_prefix(" §") else { continue };
                assert!(
                    section.starts_with(|first: char| first.is_ascii_digit() || first.is_ascii_uppercase()),
                    "{}:{at}: no section: {line}",
                    source.path
                );
            }
        }
    }
}

/// The RFCs that a line cites: the digits of each, and the text after them.
fn cited_rfcs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split("RFC ").skip(1).filter(|cited| cited.starts_with(|first: char| first.is_ascii_digit())).map(
        |cited| cited.split_at(cited.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(cited.len())),
    )
}

#[test]
fn sentences_name_their_subject() {
    let mut broken = Vec::new();
    let endings = [".rs", ".md", ".toml", ".sh", ".py", ".yml", ".yaml", ".service"];
    for source in
        sources(&endings).iter().filter(|source| source.path != file!() && source.path != "CONTRIBUTING.md")
    {
        for (at, line) in source.lines() {
            let lower = line.to_lowercase();
            let mut found: Vec<_> = BANNED.iter().filter(|words| lower.contains(*words)).collect();
            let words_of_line =
                NAMES_OF_OTHERS.iter().fold(line.to_owned(), |line, name| line.replace(name, ""));
            let words_of_line = prose(&words_of_line);
            found.extend(BANNED_WORDS.iter().filter(|words| words_of_line.contains(&format!(" {words} "))));
            broken.extend(found.iter().map(|words| format!("{}:{at}: {words}", source.path)));
        }
    }
    assert!(broken.is_empty(), "name the subject with the protocol's noun (CONTRIBUTING.md): {broken:#?}");
}

/// The words of a line, each between spaces: those of its comment in small letters, and those of its code as they are, so that
/// a type's name is no word.
fn prose(line: &str) -> String {
    let (code, comment) = line.split_once("//").unwrap_or((line, ""));
    let words = format!(" {code} {} ", comment.to_lowercase());
    words.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-', " ")
}

#[test]
fn spelling_is_american() {
    let mut broken = Vec::new();
    let endings = [".rs", ".md", ".toml", ".sh", ".py", ".yml", ".yaml", ".service", ".html", ".c"];
    // CHANGELOG.md names words in their old spelling.
    let not_here = ["CHANGELOG.md", file!()];
    for source in sources(&endings).iter().filter(|source| !not_here.contains(&source.path.as_str())) {
        for (at, line) in source.lines() {
            let lower = line.to_lowercase();
            let found = BRITISH.iter().filter(|word| lower.contains(*word));
            broken.extend(found.map(|word| format!("{}:{at}: {word}", source.path)));
        }
    }
    assert!(broken.is_empty(), "write these words in American spelling: {broken:#?}");
}

#[test]
fn links_lead_somewhere() {
    for source in sources(&[".md"]) {
        let folder = Path::new(&source.path).parent().unwrap();
        for (at, line) in source.lines() {
            let targets = line.split("](").skip(1).filter_map(|link| link.split_once(')')).map(|(to, _)| to);
            for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
                let path = target.split('#').next().unwrap();
                let exists = root().join(folder).join(path).exists();
                assert!(exists, "{}:{at}: there is no {target}", source.path);
            }
        }
    }
}

#[test]
fn the_architecture_is_one_page() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let lines = page.lines().count();
    assert!(lines <= PAGE_LINES_MAX, "ARCHITECTURE.md has {lines} lines: details belong in docs/");
}

/// rustdoc makes a heading of the whole line.
#[test]
fn headings_of_documentation_stand_alone() {
    for source in sources(&[".rs"]).iter().filter(|source| source.path != file!()) {
        for (at, line) in source.lines() {
            let code = line.trim_start();
            for heading in ["# Errors", "# Panics", "# Safety"] {
                let run_on = ["/// ", "//! "].iter().any(|doc| code.starts_with(&format!("{doc}{heading} ")));
                assert!(!run_on, "{}:{at}: the text begins on the next line: {line}", source.path);
            }
        }
    }
}

#[test]
fn nothing_is_ignored_or_left_unfinished() {
    for source in sources(&[".rs"]).iter().filter(|source| source.path != file!()) {
        for (at, line) in source.lines() {
            for word in ["#[ignore", "FIXME", "XXX", "HACK"] {
                assert!(!line.contains(word), "{}:{at}: {word}", source.path);
            }
        }
    }
}
