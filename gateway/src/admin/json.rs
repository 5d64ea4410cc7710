//! JSON whose texts do nothing where it is shown.

use serde::Serialize;
use std::fmt::Write as _;
use stoq::peer_text::is_plain;

/// A value as JSON of ordinary letters alone. The others, and those of HTML's tags, are escaped within its texts: a reader parses the same
/// value, and a terminal or a page that shows the JSON as it is shows them as numbers.
pub(super) fn inert(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    let mut inert = String::with_capacity(json.len() + 1);
    for letter in json.chars() {
        match is_plain(letter) && !matches!(letter, '<' | '>' | '&') {
            true => inert.push(letter),
            false => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(inert, "\\u{unit:04x}");
                }
            }
        }
    }
    inert.push('\n');
    Ok(inert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_in_an_answer_are_escaped_and_parse_to_themselves() {
        let hostile = [
            "<script>alert(1)</script>&lt;img src=x onerror=alert(1)>",
            "\u{1b}]0;title\u{7}\u{1b}[2Jput: done\r\n\u{8}\u{7f}\u{9b}31m",
            "\u{202e}gnp.exe\u{2066}\u{200f}\u{feff}\u{e0041}\u{2028}\u{ad}",
            "\"quoted\" \\ Grüße \u{1f600}",
        ];
        let value = serde_json::json!({"name": hostile[0], "reasons": hostile, "n": 7});
        let json = inert(&value).unwrap();
        let line = json.strip_suffix('\n').unwrap();
        assert!(line.chars().all(is_plain) && !line.contains(['<', '>', '&']), "{line:?}");
        assert!(line.contains("Grüße \u{1f600}"), "ordinary letters stay: {line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }

    #[test]
    fn the_page_shows_texts_as_texts() {
        let page = include_str!("page.html");
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute"]
        {
            assert!(!page.contains(way), "{way}");
        }
        assert!(page.contains("textContent") && page.contains("String(marked ? cell.text : cell)"));
    }
}
