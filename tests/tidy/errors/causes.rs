//! Errors and their causes.

use super::shipped;
use crate::sources;

/// An error contains its cause's text and then has no `source`: a printed chain would contain that text twice.
#[test]
fn no_error_has_a_source_that_its_text_contains() {
    let mut seen = 0;
    for source in sources(&[".rs"]) {
        for variant in shipped(&source).unwrap_or_default().split("#[error(").skip(1) {
            seen += 1;
            // The attribute, and the fields up to the next variant or the end.
            let variant = variant.split("\n}").next().unwrap_or_default();
            let (attribute, fields) = variant.split_once(")]").unwrap_or_default();
            assert!(
                !says_its_source(attribute, fields),
                "{}: {attribute}\nwrite the field `r#source`",
                source.path
            );
        }
    }
    assert!(seen > 100, "the errors were found: {seen}");
}

/// Whether an error's text contains the field that is its source.
fn says_its_source(attribute: &str, fields: &str) -> bool {
    // A field's name follows its attribute; a tuple's field has no name.
    let marked = fields.split(['#', '\n']).collect::<Vec<_>>();
    let mut sources: Vec<&str> = Vec::new();
    for (at, part) in marked.iter().enumerate() {
        if part.starts_with("[from]") || part.starts_with("[source]") {
            let rest = part.split_once(']').map_or("", |(_, rest)| rest).trim();
            let field =
                if rest.is_empty() { marked.get(at + 1).map_or("", |next| next.trim()) } else { rest };
            sources
                .push(field.split_once(": ").map_or("0", |(name, _)| name.trim().trim_start_matches("pub ")));
        }
    }
    if fields.contains(" source:") {
        sources.push("source");
    }
    sources.iter().any(|name| {
        let shapes = [format!("{{{name}}}"), format!("{{{name}:"), format!("{{{name}."), format!(".{name}")];
        shapes.iter().any(|shape| attribute.contains(shape.as_str()))
    })
}

#[test]
fn a_source_that_the_text_contains_is_found_in_every_shape_of_error() {
    for (attribute, fields, said) in [
        ("\"{0}\"", "\n    A(#[from] io::Error),", true),
        ("\"cannot: {0}\"", "\n    A(#[source] io::Error),", true),
        ("\"{path}: {source}\"", "\n    A { path: String, source: io::Error },", true),
        ("\"{path}: {error}\"", "\n    A {\n        #[source]\n        error: io::Error,\n    },", true),
        ("\"{}\", .error", "\n    A { #[from] error: io::Error },", true),
        ("transparent", "\n    A(#[from] io::Error),", false),
        ("\"cannot: {0}\"", "\n    A(io::Error),", false),
        ("\"{path}: {source}\"", "\n    A { path: String, r#source: io::Error },", false),
        ("\"{path} is no file\"", "\n    A { path: String, source: io::Error },", false),
    ] {
        assert_eq!(says_its_source(attribute, fields), said, "{attribute} {fields}");
    }
}
