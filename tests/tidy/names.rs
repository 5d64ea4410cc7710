//! The names of types: what a file shows to others has a name of its own.

use crate::{Source, sources};
use std::collections::BTreeMap;

/// Names that stand for more than one type, and why no reader confuses these types.
const DOUBLES: &[(&str, &str)] = &[
    ("Args", "a command's options, which are always written with the command's module: `put::Args`"),
    (
        "Command",
        "of the rings; the subcommands of an executable, private to the file that parses its command line",
    ),
];

/// A declared type: its name, its file, and whether other files may see it.
#[derive(Debug)]
struct Declared<'a> {
    name: &'a str,
    path: &'a str,
    is_shown: bool,
}

/// The types of a file, without those of its unit tests.
fn declared(source: &Source) -> Vec<Declared<'_>> {
    let code = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    for line in code.lines() {
        let trimmed = line.trim_start();
        let is_nested = trimmed.len() < line.len();
        let (is_shown, rest) = match trimmed.strip_prefix("pub") {
            Some(rest) => (
                true,
                rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest),
            ),
            None => (false, trimmed),
        };
        let Some((kind, rest)) = rest.trim_start().split_once(' ') else { continue };
        // A nested `type` of no visibility is a trait's.
        let is_type = ["struct", "enum", "trait", "union"].contains(&kind)
            || (kind == "type" && (is_shown || !is_nested));
        let is_head = |letter: char| letter.is_alphanumeric() || letter == '_';
        let name = rest.split(|letter| !is_head(letter)).next().unwrap_or_default();
        if is_type && !name.is_empty() {
            found.push(Declared { name, path: &source.path, is_shown });
        }
    }
    found
}

/// The names that break the rule, each with its files: a type that other files see, and another type of the same name.
fn doubles(sources: &[Source]) -> BTreeMap<&str, Vec<&str>> {
    let mut by_name: BTreeMap<&str, Vec<Declared<'_>>> = BTreeMap::new();
    for found in sources.iter().flat_map(declared) {
        by_name.entry(found.name).or_default().push(found);
    }
    let broken = by_name.into_iter().filter(|(_, all)| all.len() > 1 && all.iter().any(|one| one.is_shown));
    broken.map(|(name, all)| (name, all.iter().map(|one| one.path).collect())).collect()
}

/// Whether a file is of one of the two crates, and no test.
fn is_shipped(source: &Source) -> bool {
    let is_test = ["/tests.rs", "/testing.rs"].iter().any(|end| source.path.ends_with(end));
    (source.path.starts_with("src/") || source.path.starts_with("gateway/src/")) && !is_test
}

#[test]
fn a_shown_type_has_a_name_of_its_own() {
    let shipped: Vec<_> = sources(&[".rs"]).into_iter().filter(is_shipped).collect();
    let mut broken = doubles(&shipped);
    for (name, why) in DOUBLES {
        assert!(
            broken.remove(name).is_some(),
            "{name} ({why}) is no double any more: leave DOUBLES in tests/tidy/names.rs"
        );
    }
    assert!(broken.is_empty(), "two types have one name (CONTRIBUTING.md): {broken:#?}");
}

#[test]
fn doubles_are_found() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let private =
        file("a.rs", "struct State;\nenum Shown {}\nimpl Deref for State {\n    type Target = u8;\n}\n");
    let also_private =
        file("b.rs", "enum State {}\nstruct Other;\n#[cfg(test)]\nmod tests {\n    struct Shown;\n}\n");
    let shown = file("c.rs", "pub(super) type Shown<'a> = &'a u8;\npub(in crate::x) struct Target(u8);\n");
    assert!(doubles(&[private, also_private]).is_empty(), "private types may be named alike");
    let both = [file("a.rs", "struct State;\nenum Shown {}\n"), shown];
    let found = doubles(&both);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("Shown", vec!["a.rs", "c.rs"])]);
}
