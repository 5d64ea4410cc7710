//! The parameters of the library's public functions: a call shows the meaning of each argument.

use crate::{Source, sources};

/// The most parameters of one type in one function: with more, a call does not show which is which.
const ALIKE_MAX: usize = 2;

/// The public functions of a file: the line of each, its name, and the types of its parameters without `self`.
fn public_functions(source: &Source) -> Vec<(usize, &str, Vec<&str>)> {
    let code = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("pub ") {
        let rest = &code[at + "pub ".len()..];
        let Some((modifiers, rest)) = rest.split_once("fn ") else { continue };
        if !modifiers.split_whitespace().all(|word| ["const", "async"].contains(&word)) {
            continue;
        }
        let name = rest.split(['(', '<']).next().unwrap_or_default();
        let mut after = &rest[name.len()..];
        if after.starts_with('<') {
            after = after[enclosed(after).len()..].trim_start_matches('>');
        }
        let parameters = split(enclosed(after)).into_iter();
        let types = parameters.filter_map(|one| Some(one.split_once(": ")?.1.trim())).collect();
        found.push((code[..at].lines().count(), name, types));
    }
    found
}

/// The text from an opening bracket to the end of the enclosed text, without the brackets at the end.
fn enclosed(text: &str) -> &str {
    let mut depth = 0;
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
        before = letter;
    }
    text
}

/// The parts between the commas that no bracket encloses; the text begins with the bracket around all.
fn split(text: &str) -> Vec<&str> {
    let text = text.get(1..).unwrap_or_default();
    let (mut parts, mut from, mut depth, mut before) = (Vec::new(), 0, 0, ' ');
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if before != '-' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        before = letter;
    }
    parts.push(&text[from..]);
    parts
}

/// The fault of a function's parameters, if there is one.
fn fault(types: &[&str]) -> Option<String> {
    // The name of a setter names the thing that its only argument turns on or off.
    if types.len() > 1 && types.contains(&"bool") {
        return Some("true and false do not show their meaning: take an enum or named fields".into());
    }
    let alike = types.iter().find(|one| types.iter().filter(|other| other == one).count() > ALIKE_MAX)?;
    Some(format!("more than {ALIKE_MAX} parameters are {alike}: take named fields"))
}

#[test]
fn arguments_show_their_meaning() {
    let mut broken = Vec::new();
    let mut count = 0;
    for source in sources(&[".rs"]).iter().filter(|source| source.path.starts_with("src/")) {
        for (line, name, types) in public_functions(source) {
            count += 1;
            broken.extend(fault(&types).map(|fault| format!("{}:{line} {name}: {fault}", source.path)));
        }
    }
    assert!(count > 300, "the functions were read: {count}");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn parameters_are_read() {
    let text = "impl A {\n    pub fn set<'a, F: Fn(u8) -> (u8, u8)>(&mut self, on: bool) {}\n    pub const fn many(\n        a: u8,\n        b: Option<(u8, u8)>,\n        \
                c: u8,\n        d: impl Fn(bool) -> u8,\n        e: u8,\n    ) -> u8 {\n    }\n    fn private(a: bool, b: u8) {}\n    \
                pub(crate) fn inner(a: bool, b: u8) {}\n}\n";
    let source = Source { path: "a.rs".into(), text: text.into() };
    let found = public_functions(&source);
    assert_eq!(found[0], (2, "set", vec!["bool"]));
    assert_eq!(found[1], (3, "many", vec!["u8", "Option<(u8, u8)>", "u8", "impl Fn(bool) -> u8", "u8"]));
    assert_eq!(found.len(), 2);
    assert_eq!(fault(&found[0].2), None);
    assert!(fault(&found[1].2).unwrap().contains("are u8"));
    assert!(fault(&["u8", "bool"]).is_some());
}
