//! Spans of time as people write them: `90s`, `45m`, `12h`, `30d`, `1d12h`.

use std::str::FromStr;

const UNITS: [(char, u64); 4] = [('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];

/// A span in seconds. A number without a unit is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no span of time; write it as 90s, 45m, 12h, 30d or 1d12h");
        let mut total: u64 = 0;
        let mut rest = text;
        let mut smallest = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let number: u64 = rest[..digits].parse().map_err(|_| refused())?;
            let mut after = rest[digits..].chars();
            let unit = match after.next() {
                // Without any unit, the number is seconds.
                None if rest.len() == text.len() => 1,
                None => return Err(refused()),
                Some(name) => UNITS.iter().find(|unit| unit.0 == name).ok_or_else(refused)?.1,
            };
            if unit >= smallest {
                return Err(refused());
            }
            smallest = unit;
            total = number.checked_mul(unit).and_then(|span| total.checked_add(span)).ok_or_else(refused)?;
            rest = after.as_str();
        }
        if text.is_empty() { Err(refused()) } else { Ok(Self(total)) }
    }
}

/// The span in its two largest units.
pub fn show(seconds: u64) -> String {
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, unit) in UNITS {
        if left >= unit && parts.len() < 2 {
            parts.push(format!("{}{name}", left / unit));
            left %= unit;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("0", 0),
            ("3600", 3600),
            ("90s", 90),
            ("45m", 2700),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("1d12h", 129_600),
        ] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["", "d", "-1", "1w", "1.5h", "1d2", "5m1h", "1s1s", "1 d", "18446744073709551615d", "٣s"]
        {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_shown_in_two_units_that_are_read_again() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (3600, "1h"), (3661, "1h1m"), (90_061, "1d1h"), (86_461, "1d")]
        {
            assert_eq!(show(seconds), text);
            assert!(text.parse::<Seconds>().unwrap().0 <= seconds);
        }
    }
}
