//! A list of files with their tokens, in the format that `b3sum` prints and `b3sum --check` reads.
//!
//! A line is the 64 hex digits of a content token, two spaces, and the file's name. A name with a backslash, a line feed or a carriage
//! return is written with `\\`, `\n` and `\r` in their place, and its line begins with a backslash. Names are the bytes that the file
//! system has. Of a name that is not UTF-8 `b3sum` reads no line, and none after it: [`ManifestLine::emit`] writes its bytes as they are,
//! as `sha256sum` does, and such lines belong at the end.

use crate::token::{Token, TokenError};

/// Digits of a token in a line.
const DIGITS: usize = 64;
/// Between the digits and the name.
const GAP: &[u8] = b"  ";

/// A file of a manifest.
///
/// ```
/// use stoq::manifest::ManifestLine;
/// use stoq::token::Token;
///
/// let line = ManifestLine { token: Token::of(b"hello"), name: b"two\nlines".to_vec() };
/// let mut text = Vec::new();
/// line.emit(&mut text);
/// assert!(text.starts_with(b"\\ea8f163db386") && text.ends_with(b"  two\\nlines\n"));
/// assert_eq!(text.len(), line.encoded_len());
/// assert_eq!(ManifestLine::parse(text.trim_ascii_end()), Ok(line));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestLine {
    /// The token of the file's content.
    pub token: Token,
    /// The file's name, as the file system has it.
    pub name: Vec<u8>,
}

/// Why a line names no file and its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No token of a payload, or no name after it.
    #[error("it is not the 64 hexadecimal digits of a token, two spaces and a name, as `b3sum` prints them")]
    Form,
    /// A backslash in an escaped name that stands for no character.
    #[error("its name has a backslash that escapes nothing; write a backslash twice")]
    Escape,
    /// A name with a zero byte, which no file has.
    #[error("its name has a zero byte")]
    Zero,
}

impl From<TokenError> for ManifestError {
    fn from(_: TokenError) -> Self {
        Self::Form
    }
}

impl ManifestLine {
    /// Reads a line, without its line feed.
    ///
    /// # Errors
    /// [`ManifestError`]: it is none.
    pub fn parse(line: &[u8]) -> Result<Self, ManifestError> {
        let (is_escaped, line) = match line {
            [b'\\', line @ ..] => (true, line),
            line => (false, line),
        };
        let (digits, rest) = line.split_at_checked(DIGITS).ok_or(ManifestError::Form)?;
        let name = rest.strip_prefix(GAP).filter(|name| !name.is_empty()).ok_or(ManifestError::Form)?;
        let digits = str::from_utf8(digits).map_err(|_| ManifestError::Form)?;
        let token = Token::from_hex(digits)?;
        let name = if is_escaped { unescaped(name)? } else { name.to_vec() };
        if name.contains(&0) {
            return Err(ManifestError::Zero);
        }
        Ok(Self { token, name })
    }

    /// Writes the line, with its line feed.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let name = escaped(&self.name);
        if name.len() > self.name.len() {
            out.push(b'\\');
        }
        out.extend_from_slice(self.token.hex().as_bytes());
        out.extend_from_slice(GAP);
        out.extend_from_slice(&name);
        out.push(b'\n');
    }

    /// Bytes that [`Self::emit`] writes.
    pub fn encoded_len(&self) -> usize {
        let escapes = self.name.iter().filter(|&&byte| escape(byte).is_some()).count();
        usize::from(escapes > 0) + DIGITS + GAP.len() + self.name.len() + escapes + 1
    }
}

/// A name on one line: with `\\`, `\n` and `\r` in place of these characters.
pub fn escaped(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len());
    for &byte in name {
        match escape(byte) {
            Some(letter) => text.extend_from_slice(&[b'\\', letter]),
            None => text.push(byte),
        }
    }
    text
}

/// The letter that stands for this byte behind a backslash.
fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _ => None,
    }
}

fn unescaped(text: &[u8]) -> Result<Vec<u8>, ManifestError> {
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        name.push(match (byte, byte == b'\\') {
            (byte, false) => byte,
            (_, true) => match bytes.next() {
                Some(b'\\') => b'\\',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                _ => return Err(ManifestError::Escape),
            },
        });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO: &str = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";

    fn line(name: &[u8]) -> ManifestLine {
        ManifestLine { token: Token::of(b"hello"), name: name.to_vec() }
    }

    /// The lines are those of b3sum 1.8.7 for files of these names, and it checks them.
    #[test]
    fn lines_are_those_of_b3sum() {
        let lines: [(&[u8], String); 6] = [
            (b"plain", format!("{HELLO}  plain\n")),
            (b"two  spaces ", format!("{HELLO}  two  spaces \n")),
            (b"back\\slash", format!("\\{HELLO}  back\\\\slash\n")),
            (b"line\nfeed", format!("\\{HELLO}  line\\nfeed\n")),
            (b"ends in return\r", format!("\\{HELLO}  ends in return\\r\n")),
            ("gr\u{fc}n".as_bytes(), format!("{HELLO}  gr\u{fc}n\n")),
        ];
        for (name, text) in lines {
            let mut written = Vec::new();
            line(name).emit(&mut written);
            assert_eq!(String::from_utf8(written).unwrap(), text);
            assert_eq!(ManifestLine::parse(text.trim_end_matches('\n').as_bytes()), Ok(line(name)));
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let parse = |text: &str| ManifestLine::parse(text.as_bytes()).unwrap_err();
        for text in [
            "",
            "#",
            HELLO,
            &format!("{HELLO}  "),
            &format!("{HELLO} x"),
            &format!("b3:{HELLO}  x"),
            &HELLO.replace('e', "x"),
        ] {
            assert_eq!(parse(text), ManifestError::Form, "{text}");
        }
        assert_eq!(parse(&format!("\\{HELLO}  a\\tb")), ManifestError::Escape);
        assert_eq!(parse(&format!("\\{HELLO}  a\\")), ManifestError::Escape);
        assert_eq!(parse(&format!("{HELLO}  a\0")), ManifestError::Zero);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in proptest::collection::vec(1_u8.., 1..300)) {
            let (line, mut text) = (line(&name), Vec::new());
            line.emit(&mut text);
            prop_assert_eq!(text.len(), line.encoded_len());
            prop_assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(ManifestLine::parse(&text[..text.len() - 1]), Ok(line));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ManifestLine::parse(&bytes);
        }
    }
}
