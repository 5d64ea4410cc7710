//! Imports: rooms import only rooms above them in `lib.rs`, and no two files import each other.

use crate::{Source, sources};
use std::collections::{BTreeMap, BTreeSet};

/// Files that import each other because their types own each other, and the reasons.
const MUTUAL: &[(&[&str], &str)] = &[
    (
        &[
            "client",
            "client::call",
            "client::dial",
            "client::dispatch",
            "client::fetch",
            "client::peer",
            "client::read",
            "client::tasks",
        ],
        "a call carries the handle's half of a fetch, and the fetch gives calls",
    ),
    (
        &["seed::check", "seed::checks", "seed::inner", "seed::scrub"],
        "the store owns its checks and its scrub, and a check reads and changes the store",
    ),
    (
        &[
            "session",
            "session::asking",
            "session::body",
            "session::chain",
            "session::control",
            "session::messages",
            "session::reading",
            "session::relayed",
            "session::send",
            "session::serving",
            "session::stream",
        ],
        "a stream has one role, and a role says which role the stream has next",
    ),
];

/// A source file as a module of its crate.
struct Module {
    /// The file's code, without comments and unit tests.
    code: String,
    /// The paths of its `use` items, and whether each is given on (`pub use`).
    uses: Vec<(bool, Vec<String>)>,
    /// Paths written out where they are used: `crate::…`, `super::…`.
    inline: Vec<Vec<String>>,
}

/// The modules of the crate whose sources lie in `src`, by their paths.
fn modules(src: &str) -> BTreeMap<Vec<String>, Module> {
    let bins = format!("{src}/bin/");
    let of_crate =
        |source: &Source| source.path.starts_with(&format!("{src}/")) && !source.path.starts_with(&bins);
    let mut found = BTreeMap::new();
    for source in sources(&[".rs"]).into_iter().filter(of_crate) {
        let path: Vec<String> =
            source.path[src.len() + 1..].trim_end_matches(".rs").split('/').map(Into::into).collect();
        let name = path.last().unwrap().as_str();
        // Tests may look anywhere.
        if ["tests", "testing"].contains(&name) {
            continue;
        }
        let path = if ["mod", "lib"].contains(&name) { path[..path.len() - 1].to_vec() } else { path };
        found.insert(path, Module::read(&source.text));
    }
    assert!(found.len() > 10, "{src} has modules");
    found
}

impl Module {
    fn read(text: &str) -> Self {
        // An item begins a line: the first one too.
        let mut code = "\n".to_owned();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let is_unit_tests = line == "#[cfg(test)]"
                && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
            if is_unit_tests {
                lines.by_ref().find(|line| *line == "}");
                continue;
            }
            code += line.split("//").next().unwrap_or_default();
            code.push('\n');
        }
        let (mut uses, mut rest) = (Vec::new(), String::new());
        for item in code.split_inclusive(';') {
            let at = ["\nuse ", "\npub use ", "\npub(crate) use ", "\npub(super) use "]
                .iter()
                .filter_map(|opening| {
                    Some((item.rfind(opening)?, opening.len(), opening.starts_with("\npub")))
                })
                .max();
            match at {
                Some((at, len, given_on)) if !item[at + len..].contains("fn ") => {
                    rest += &item[..at];
                    let tree = item[at + len..].trim_end_matches(';');
                    let mut paths = Vec::new();
                    expand(&[], tree, &mut paths);
                    uses.extend(paths.into_iter().map(|path| (given_on, path)));
                }
                _ => rest += item,
            }
        }
        Self { inline: written_out(&rest), uses, code }
    }

    /// The types that get methods in this file. Their parts that the file imports are its own.
    fn implemented(&self) -> BTreeSet<&str> {
        let headers = self.code.lines().filter(|line| line.starts_with("impl") && !line.contains(" for "));
        let types = headers.filter_map(|line| {
            let line = match line.strip_prefix("impl<") {
                Some(generic) => generic.split_once("> ")?.1,
                None => line.strip_prefix("impl ")?,
            };
            line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()
        });
        types.collect()
    }
}

/// The paths of a tree of imports: `a::{b, c::{self, d}}`.
fn expand(before: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let tree = tree.split(" as ").next().filter(|_| !tree.contains('{')).unwrap_or(tree).trim();
    let Some((head, inner)) = tree.split_once('{') else {
        if !tree.is_empty() {
            let last = tree.split("::").map(str::trim).filter(|name| *name != "self" || before.is_empty());
            paths.push(before.iter().cloned().chain(last.map(Into::into)).collect());
        }
        return;
    };
    let names = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(Into::into);
    let before: Vec<String> = before.iter().cloned().chain(names).collect();
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&before, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The paths that begin with `crate::` or `super::`, outside of imports.
fn written_out(code: &str) -> Vec<Vec<String>> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for opening in ["crate::", "super::"] {
        for (at, _) in code.match_indices(opening) {
            if code[..at].ends_with(|letter: char| is_name(letter) || letter == ':' || letter == '$') {
                continue;
            }
            let path =
                code[at..].split(|letter: char| !is_name(letter) && letter != ':').next().unwrap_or_default();
            found.push(path.split("::").filter(|name| !name.is_empty()).map(Into::into).collect());
        }
    }
    found
}

/// The module that defines what `path`, written in the module `from`, names; `None` if it is in another crate.
fn defines(
    modules: &BTreeMap<Vec<String>, Module>,
    from: &[String],
    path: &[String],
    hops_left: u32,
) -> Option<Vec<String>> {
    let mut names = path;
    let mut at = match names.first()?.as_str() {
        "crate" => Vec::new(),
        "super" => {
            let above = names.iter().take_while(|name| *name == "super").count();
            names = &names[above - 1..];
            from[..from.len().checked_sub(above)?].to_vec()
        }
        "self" => from.to_vec(),
        name => {
            let child = [from, &[name.to_owned()]].concat();
            if !modules.contains_key(&child) {
                return None;
            }
            names = &names[1..];
            child
        }
    };
    if ["crate", "super", "self"].contains(&names.first().map_or("", String::as_str)) {
        names = &names[1..];
    }
    while let Some(name) = names.first() {
        let child = [&at[..], std::slice::from_ref(name)].concat();
        if !modules.contains_key(&child) {
            break;
        }
        (at, names) = (child, &names[1..]);
    }
    // A reexported item belongs to the file that declares it.
    if let (Some(name), Some(module)) = (names.first(), modules.get(&at))
        && hops_left > 0
    {
        for (_, given) in module.uses.iter().filter(|(_, given)| given.last() == Some(name)) {
            if let Some(origin) = defines(modules, &at, given, hops_left - 1).filter(|origin| *origin != at) {
                return Some(origin);
            }
        }
    }
    modules.contains_key(&at).then_some(at)
}

/// The imports of each module from the others of its crate.
fn imports(modules: &BTreeMap<Vec<String>, Module>) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let mut found: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (path, module) in modules {
        let own = module.implemented();
        let used = module.uses.iter().map(|(given_on, used)| (*given_on, used));
        for (given_on, used) in used.chain(module.inline.iter().map(|used| (false, used))) {
            // A parent that reexports a child's items does not use them.
            let child = [&path[..], &used[..1]].concat();
            if given_on && modules.contains_key(&child) || own.contains(used.last().unwrap().as_str()) {
                continue;
            }
            if let Some(origin) =
                defines(modules, path, used, 8).filter(|origin| origin != path && !origin.is_empty())
            {
                found.entry(path.clone()).or_default().insert(origin);
            }
        }
    }
    found
}

/// The groups of modules that reach each other by imports.
fn circles(imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> BTreeSet<Vec<String>> {
    let reached = |from: &Vec<String>| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for to in imports.get(at).into_iter().flatten() {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<_, _> = imports.keys().map(|from| (from, reached(from))).collect();
    let mut found = BTreeSet::new();
    for (from, there) in &reach {
        let mutual = there.iter().filter(|to| reach.get(*to).is_some_and(|back| back.contains(from)));
        let group: Vec<String> = mutual.map(|path| path.join("::")).collect();
        if group.len() > 1 {
            found.insert(group);
        }
    }
    found
}

#[test]
fn files_do_not_import_each_other() {
    let mut found = BTreeSet::new();
    for src in ["src", "gateway/src"] {
        found.extend(circles(&imports(&modules(src))));
    }
    let listed: BTreeSet<Vec<String>> =
        MUTUAL.iter().map(|(group, _)| group.iter().map(|&file| file.to_owned()).collect()).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    let mended: Vec<_> = listed.difference(&found).collect();
    assert!(new.is_empty(), "these files import each other: move what both need below both: {new:#?}");
    assert!(mended.is_empty(), "these no longer do; mend the list in tests/tidy/imports.rs: {mended:#?}");
}

#[test]
fn rooms_import_only_rooms_above_them() {
    for src in ["src", "gateway/src"] {
        let modules = modules(src);
        let root = &modules[&Vec::new()];
        let declared = root.code.lines().filter_map(|line| {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.strip_prefix("mod ")?.strip_suffix(';')
        });
        let order: Vec<&str> = declared.collect();
        let place = |room: &str| order.iter().position(|known| *known == room);
        assert!(order.len() > 10, "{src}/lib.rs declares its rooms");
        for (path, imported) in imports(&modules) {
            for room in imported.iter().map(|module| &module[0]) {
                assert!(
                    place(room) <= place(&path[0]),
                    "{src}: {} imports {room}, which stands below it in {src}/lib.rs",
                    path.join("::")
                );
            }
        }
    }
}

#[test]
fn imports_are_read() {
    let text = "use crate::a::{self, b::{C, D as E}};\nuse super::F;\npub use g::H;\n// use crate::no;\n\nfn i() {\n    \
                crate::j::k(super::l::M);\n}\n\nimpl<'a, T> N<'a, T> {\n}\n\n#[cfg(test)]\nmod tests {\n    use crate::no;\n}\n";
    let module = Module::read(text);
    let joined = |paths: Vec<&Vec<String>>| paths.iter().map(|path| path.join("::")).collect::<Vec<_>>();
    let uses = joined(module.uses.iter().map(|(_, path)| path).collect());
    assert_eq!(uses, ["crate::a", "crate::a::b::C", "crate::a::b::D", "super::F", "g::H"]);
    assert_eq!(joined(module.inline.iter().collect()), ["crate::j::k", "super::l::M"]);
    assert_eq!(module.implemented(), BTreeSet::from(["N"]));
}

#[test]
fn circles_are_found() {
    let path = |name: &str| vec![name.to_owned()];
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("f", "a")];
    let mut imports: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (from, to) in edges {
        imports.entry(path(from)).or_default().insert(path(to));
    }
    assert_eq!(circles(&imports), BTreeSet::from([["a", "b", "c"].map(str::to_owned).to_vec()]));
}
