//! The strings of Rust code, with the code around them.

/// Code whose brackets hold texts of errors.
const MARKS: &[&str] = &[
    "#[error(",
    "bail!(",
    "ensure!(",
    "anyhow!(",
    "context(",
    "Usage(",
    "Err(",
    "Fault::new(",
    "Error::new(",
    "Error::other(",
    "map_err(",
    "ok_or(",
    "ok_or_else(",
    "refused(",
    "value(",
    "started(",
    "malformed(",
    "unexpected(",
    "ErrorRecord::new(",
    "refuse(",
    "give_up(",
    "expel(",
    "bad(",
    "bad_lanes(",
    "fault(",
    "missing(",
    "MalformedCertificate(",
    "Form(",
    "Unsupported(",
];

/// Code whose brackets hold texts of other kinds: log lines, and texts for programmers.
pub(super) const OTHERS: &[&str] = &[
    "trace!(",
    "debug!(",
    "info!(",
    "warn!(",
    "error!(",
    "expect(",
    "#[expect(",
    "#[allow(",
    "assert!(",
    "assert_eq!(",
    "debug_assert!(",
    "unreachable!(",
    "panic!(",
    "note(",
];

/// A string of a file, with the code that surrounds it.
#[derive(Debug)]
pub(super) struct Literal {
    pub(super) text: String,
    /// The mark of the innermost marked bracket around it.
    pub(super) mark: Option<&'static str>,
    /// Whether it is the first string in that bracket.
    pub(super) is_first: bool,
}

/// The strings of Rust code, without those of comments.
pub(super) fn literals(code: &str) -> Vec<Literal> {
    let bytes = code.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    // The mark of each open bracket, and the number of strings in it.
    let mut open: Vec<(Option<&'static str>, usize)> = Vec::new();
    while at < bytes.len() {
        let rest = &code[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some((text, len)) = string(rest) {
            let marked = open.iter_mut().rev().find(|(mark, _)| mark.is_some());
            let (mark, is_first) = marked.map_or((None, false), |(mark, count)| {
                *count += 1;
                (*mark, *count == 1)
            });
            found.push(Literal { text, mark, is_first });
            at += len;
        } else if rest.starts_with('\'') {
            at += character(rest);
        } else {
            match bytes[at] {
                b'(' | b'[' | b'{' => {
                    let before = &code[..=at];
                    let mark = MARKS.iter().chain(OTHERS).filter(|mark| before.ends_with(**mark));
                    open.push((mark.copied().max_by_key(|mark| mark.len()), 0));
                }
                b')' | b']' | b'}' => drop(open.pop()),
                _ => {}
            }
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// The string with which this code begins, as its reader sees it, and its length in the code.
fn string(code: &str) -> Option<(String, usize)> {
    if let Some(raw) = code.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = body.find(&format!("\"{}", "#".repeat(hashes)))?;
        return Some((body[..end].into(), end + 2 * hashes + 3));
    }
    let mut text = String::new();
    let mut at = code.starts_with('"').then_some(1)?;
    loop {
        let mut letter = code[at..].chars().next()?;
        at += letter.len_utf8();
        if letter == '"' {
            return Some((text, at));
        }
        if letter == '\\' {
            letter = code[at..].chars().next()?;
            at += letter.len_utf8();
            match letter {
                '\n' => {
                    at = code.len() - code[at..].trim_start().len();
                    continue;
                }
                'n' => letter = '\n',
                _ => {}
            }
        }
        text.push(letter);
    }
}

/// The length of the character or the lifetime with which this code begins.
fn character(code: &str) -> usize {
    let mut letters = code.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => code[3..].find('\'').map_or(1, |end| end + 4),
        Some((at, letter)) if code[at + letter.len_utf8()..].starts_with('\'') => at + letter.len_utf8() + 1,
        _ => 1,
    }
}
