//! Texts of peers, fit to be printed.

use std::fmt;
use std::ops::Deref;

/// The longest text of a peer that is kept, bytes.
const PEER_TEXT_BYTES_MAX: usize = 512;

/// A text from a peer, a certificate or another foreign source. It can be printed on a terminal, into a log and into JSON: it has no
/// letter that moves the cursor, sets a title or the clipboard, ends a line, turns the direction of writing, or is not seen. Such
/// letters stand as `\u{1b}`. The text has a bounded length.
///
/// The type is made where the text arrives. Therefore no code that prints it can forget this.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerText(String);

impl PeerText {
    /// A text, at most `max` bytes of it.
    pub fn cut(text: &str, max: usize) -> Self {
        let mut fit = String::with_capacity(text.len().min(max));
        for letter in text.chars() {
            let shown =
                if is_plain(letter) { letter.to_string() } else { letter.escape_unicode().to_string() };
            if fit.len() + shown.len() > max {
                break;
            }
            fit += &shown;
        }
        Self(fit)
    }

    /// A text of bytes that may not be UTF-8.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::from(&*String::from_utf8_lossy(bytes))
    }

    /// The text itself.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Whether a letter is shown as itself, and changes nothing around it.
pub fn is_plain(letter: char) -> bool {
    let hidden = matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !letter.is_control() && !hidden
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::cut(text, PEER_TEXT_BYTES_MAX)
    }
}

impl Deref for PeerText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn letters_that_act_on_a_terminal_are_shown_as_numbers() {
        for (text, shown) in [
            ("full; try the gateway in Zürich, 日本", "full; try the gateway in Zürich, 日本"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}]52;c;cm0=\u{1b}\\", "\\u{1b}]52;c;cm0=\\u{1b}\\"),
            ("\r\nb3:00\n\t", "\\u{d}\\u{a}b3:00\\u{a}\\u{9}"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("\u{202e}gnp.exe\u{2066}\u{2069}", "\\u{202e}gnp.exe\\u{2066}\\u{2069}"),
            (
                "\u{200e}\u{200f}\u{200b}\u{200d}\u{2060}\u{feff}",
                "\\u{200e}\\u{200f}\\u{200b}\\u{200d}\\u{2060}\\u{feff}",
            ),
            ("a\u{2028}b\u{2029}\u{85}", "a\\u{2028}b\\u{2029}\\u{85}"),
        ] {
            assert_eq!(&*PeerText::from(text), shown);
        }
        assert_eq!(&*PeerText::of_bytes(b"a\xff\x1b"), "a\u{fffd}\\u{1b}");
        assert_eq!(&*PeerText::cut("ab\u{1b}c", 5), "ab", "a letter is shown whole or not at all");
    }

    proptest! {
        #[test]
        fn any_text_becomes_fit_and_stays_as_it_is_from_then_on(text in "\\PC{0,40}|[\\x00-\\u{a0}\\u{2000}-\\u{2070}]{0,200}", max in 0..300_usize) {
            let fit = PeerText::cut(&text, max);
            prop_assert!(fit.len() <= max && fit.chars().all(is_plain));
            prop_assert_eq!(&PeerText::cut(&fit, max), &fit);
        }
    }
}
