//! The texts of errors: each stands in `list.txt`, with the situation in which a user of an executable reads it, or with the reason why
//! none does.

mod causes;
mod literals;

use crate::{Source, sources};
use literals::{OTHERS, literals};
use std::collections::{BTreeMap, BTreeSet};

/// The list of all texts.
const LIST: &str = include_str!("list.txt");

/// Files that compose errors: every text of [`WORDS_MIN`] words in them is one.
const COMPOSED: &[&str] = &[
    "gateway/src/admin/listener.rs",
    "gateway/src/config/check.rs",
    "gateway/src/config/ports.rs",
    "gateway/src/config/rights.rs",
    "gateway/src/ranges/mod.rs",
    "src/client/builder.rs",
    "src/datagram/kernel/bind.rs",
    "src/download.rs",
    "src/gathered_file.rs",
    "src/names.rs",
    "src/part_file/error.rs",
    "src/part_file/mod.rs",
    "src/part_file/note.rs",
    "src/part_file/place.rs",
    "src/seed/error.rs",
    "src/tls/pem.rs",
    "src/tls/refusal.rs",
];

/// Words of a text in a file of [`COMPOSED`].
const WORDS_MIN: usize = 4;

/// Characters of a piece of a text that a test repeats.
const PIECE_LEN_MIN: usize = 12;

/// Words that tell a reader what to do.
const FIXES: &[&str] = &[
    "add",
    "allow",
    "ask",
    "begin",
    "bind",
    "build",
    "change",
    "check",
    "chmod",
    "choose",
    "compare",
    "configure",
    "correct",
    "fetch",
    "free",
    "give",
    "grant",
    "have",
    "hash",
    "let",
    "issue",
    "leave",
    "list",
    "listen",
    "lower",
    "make",
    "mount",
    "move",
    "must",
    "name",
    "needs",
    "pin",
    "put",
    "raise",
    "redirect",
    "remove",
    "rename",
    "renew",
    "report",
    "reserve",
    "restore",
    "run",
    "see",
    "set",
    "shard",
    "start",
    "stop",
    "take",
    "try",
    "upgrade",
    "use",
    "wait",
    "write",
    "`",
];

/// Phrases that say nothing, or that the program's own `error:` says already.
const EMPTY_PHRASES: &[&str] = &["failed to", "unable to", "error:", "an error occurred"];

/// The text without its placeholders, in pieces.
fn pieces(text: &str) -> Vec<&str> {
    text.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest)).collect()
}

fn has_words(text: &str) -> bool {
    pieces(text).iter().any(|piece| piece.contains(char::is_alphabetic))
}

/// The code of a file without its unit tests.
fn shipped(source: &Source) -> Option<&str> {
    let is_test = ["/tests.rs", "/testing.rs"].iter().any(|end| source.path.ends_with(end));
    let is_shipped = ["src/", "gateway/src/", "disk-ring/src/", "dpdk/src/", "dpdk/sys/src/"]
        .iter()
        .any(|room| source.path.starts_with(room));
    (is_shipped && !is_test)
        .then(|| source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default())
}

/// The texts of errors in a file.
fn texts(source: &Source) -> Vec<String> {
    let is_composed = COMPOSED.contains(&source.path.as_str());
    let found =
        literals(shipped(source).unwrap_or_default()).into_iter().filter(|literal| match literal.mark {
            Some("#[error(") => literal.is_first,
            Some(mark) if OTHERS.contains(&mark) => false,
            Some(_) if literal.text.contains(' ') => true,
            _ => is_composed && literal.text.split_whitespace().count() >= WORDS_MIN,
        });
    found.map(|literal| literal.text).filter(|text| has_words(text)).collect()
}

/// Who reads a text of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A user of an executable; a test expects a piece of it. It names the fix.
    Told,
    /// The same, and the fix stands elsewhere in the message, or there is none.
    Bare,
    /// A user, in a situation that no test can make: a device or a kernel that refuses. It names the fix.
    Rare,
    /// The same, and a user can do nothing about it.
    Hard,
    /// A user, as a part of other texts.
    Part,
    /// A peer that broke a rule or is refused, by the code of the error beside it; and the log of this side.
    Peer,
    /// A program that calls the library wrongly, or no program.
    Code,
}

impl Reader {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "told" => Self::Told,
            "bare" => Self::Bare,
            "rare" => Self::Rare,
            "hard" => Self::Hard,
            "part" => Self::Part,
            "peer" => Self::Peer,
            "code" => Self::Code,
            _ => return None,
        })
    }
}

/// A text of a file.
type Key = (String, String);

/// The list: for each text of each file who reads it.
fn list(text: &str) -> BTreeMap<Key, Reader> {
    let (mut found, mut path, mut of_file) = (BTreeMap::new(), String::new(), None);
    let mut last: Option<Key> = None;
    let read = |line: &str| {
        let (name, why) =
            line.trim().split_once(": ").unwrap_or_else(|| panic!("no `reader: situation`: {line}"));
        assert!(why.len() > 3, "say when, or why: {line}");
        Reader::named(name).unwrap_or_else(|| panic!("no reader: {line}"))
    };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(file) = line.strip_prefix("== ") {
            (path, of_file, last) = (file.to_owned(), None, None);
        } else if !line.starts_with("  ") {
            let key = (path.clone(), line.to_owned());
            let before = found.insert(key.clone(), of_file);
            assert!(before.is_none(), "{path}: listed twice: {line}");
            last = Some(key);
        } else if let Some(key) = &last {
            found.insert(key.clone(), Some(read(line)));
        } else {
            of_file = Some(read(line));
        }
    }
    let told = |(key, reader): (Key, Option<Reader>)| {
        let reader = reader.unwrap_or_else(|| panic!("{key:?}: say who reads it"));
        (key, reader)
    };
    found.into_iter().map(told).collect()
}

/// The texts of the tree, with each that stands twice.
fn found() -> Vec<Key> {
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        found.extend(
            texts(&source)
                .into_iter()
                .map(|text| (source.path.clone(), text.replace('\n', " ").trim_end().to_owned())),
        );
    }
    assert!(found.len() > 400, "the texts are found: {}", found.len());
    found
}

#[test]
fn every_text_is_listed_with_its_reader() {
    let (mut listed, mut missing, mut file) = (list(LIST), String::new(), String::new());
    for (path, text) in found().into_iter().collect::<BTreeSet<_>>() {
        if listed.remove(&(path.clone(), text.clone())).is_none() {
            if path != file {
                missing += &format!("== {path}\n");
                file = path;
            }
            missing += &format!("{text}\n");
        }
    }
    assert!(missing.is_empty(), "add to tests/tidy/errors/list.txt, each text with its reader:\n{missing}");
    assert!(
        listed.is_empty(),
        "no code has these texts of tests/tidy/errors/list.txt any more: {:#?}",
        listed.keys()
    );
}

/// Two places with one text: a reader, or a search for the text, cannot tell them apart.
#[test]
fn no_text_stands_twice() {
    let listed = list(LIST);
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in found() {
        if listed.get(&(path.clone(), text.clone())) != Some(&Reader::Part) {
            places.entry(text).or_default().push(path);
        }
    }
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "give each place its own text, or both one type: {places:#?}");
}

#[test]
fn every_text_has_the_form_of_the_house() {
    let mut broken = Vec::new();
    for ((path, text), reader) in list(LIST) {
        if reader != Reader::Part {
            broken.extend(misshapen(&text).map(|why| format!("{path}: {why}: {text}")));
        }
        let needs_fix = matches!(reader, Reader::Told | Reader::Rare);
        if needs_fix && !names_fix(&text) {
            broken.push(format!("{path}: names no fix: {text}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What is wrong with a text's form.
fn misshapen(text: &str) -> Option<&'static str> {
    let word: Vec<char> = text.chars().take_while(|letter| letter.is_alphanumeric()).collect();
    if let [first, rest @ ..] = &word[..]
        && first.is_uppercase()
        && rest.first().is_some_and(|letter| letter.is_lowercase())
    {
        return Some("begins with a capital");
    }
    if text.ends_with('.') || text.contains(". ") {
        return Some("has a full stop");
    }
    let said = pieces(&text.to_lowercase()).concat();
    let said = EMPTY_PHRASES.iter().any(|phrase| said.contains(phrase));
    said.then_some("says nothing in some words")
}

fn names_fix(text: &str) -> bool {
    let words = text
        .split(|letter: char| !letter.is_alphanumeric() && letter != '`')
        .map(|word| word.trim_matches('`'));
    text.contains(['?', '`'])
        || text.contains("such as ")
        || words.into_iter().any(|word| FIXES.contains(&word))
}

#[test]
fn a_test_expects_every_text_that_a_user_reads() {
    let mut tests = String::new();
    for source in sources(&[".rs"]).iter().filter(|source| !source.path.starts_with("tests/tidy/")) {
        let code = shipped(source).map_or(&source.text[..], |code| &source.text[code.len()..]);
        for literal in literals(code) {
            tests += &literal.text;
            tests.push('\n');
        }
    }
    let listed = list(LIST);
    let all: Vec<&str> = listed.keys().map(|(_, text)| text.as_str()).collect();
    let mut untested = String::new();
    for ((path, text), reader) in &listed {
        if matches!(reader, Reader::Told | Reader::Bare) && !is_expected(text, &tests, &all) {
            untested += &format!("{path}: {text}\n");
        }
    }
    assert!(
        untested.is_empty(),
        "no test expects {PIECE_LEN_MIN} characters that only this text has:\n{untested}"
    );
}

/// Whether words that no other of these texts has stand in the tests.
fn is_expected(text: &str, tests: &str, all: &[&str]) -> bool {
    let is_own = |said: &str| all.iter().filter(|other| other.contains(said)).count() == 1;
    pieces(text).into_iter().any(|piece| {
        let words: Vec<&str> = piece.split_inclusive(' ').collect();
        (0..words.len()).any(|start| {
            let mut said = String::new();
            words[start..].iter().any(|word| {
                said += word;
                let said = said.trim().trim_end_matches([';', ',', ':', '.']);
                let is_long =
                    said.len() >= PIECE_LEN_MIN || said.len() > 3 && said.len() == piece.trim().len();
                is_long && tests.contains(said) && is_own(said)
            })
        })
    })
}

#[test]
fn texts_are_found_in_code() {
    let text = r##"
/// "a comment's"
#[error("a variant's {}", if wide { "IPv6" } else { "IPv4" })]
fn f<'a>(c: char) {
    if c == '"' { return Err(anyhow!("a macro's \"quoted\" {c:?}, \
        in two lines")); }
    warn!("a log line's");
    let other = "another's";
    x.map_err(|error| { warn!("one more line's"); y.context(r#"a raw "text""#) })
}
#[cfg(test)]
mod tests { fn g() { bail!("a test's"); } }
"##;
    let source = Source { path: "src/a.rs".into(), text: text.into() };
    assert_eq!(
        texts(&source),
        ["a variant's {}", "a macro's \"quoted\" {c:?}, in two lines", "a raw \"text\""]
    );
    let composed = Source {
        path: COMPOSED[0].into(),
        text: "let a = \"one two three\"; b(\"one two three four\");".into(),
    };
    assert_eq!(texts(&composed), ["one two three four"]);
}

#[test]
fn faults_of_form_are_found() {
    for text in ["Cannot bind", "a file is missing.", "one. Two", "failed to bind", "cannot bind: error: x"] {
        assert!(misshapen(text).is_some(), "{text}");
    }
    for text in ["cannot bind {address}", "QUIC opens none", "`x` is none", "{0} is none", "IPv6 is missing"]
    {
        assert_eq!(misshapen(text), None, "{text}");
    }
    assert!(
        names_fix("the disk is full; free some") && names_fix("does it run?") && !names_fix("it is full")
    );
    assert!(is_expected(
        "{0} is in use by another process",
        "in use by another",
        &["in use by another process"]
    ));
    assert!(!is_expected("{0} is in use by another process", "another", &["in use by another process"]));
    assert!(is_expected("interrupted", "stoq: interrupted", &["interrupted"]));
    let alike = ["in use by another process", "in use by another gateway"];
    assert!(!is_expected(alike[0], "in use by another", &alike) && is_expected(alike[0], alike[0], &alike));
}
