//! The range of every number that an operator may give: keys of the configuration files and options of the
//! command lines.
//!
//! [`KEYS`] and [`OPTIONS`] are the only places that name a range. The check of the files, the parsers of the options, the texts of
//! `--help`, the comments of `configs/gateway.toml` and the tests of the border values all read these two tables.

mod keys;
mod options;

pub use keys::{KEYS, check_keys, key};
pub use options::{OPTIONS, bounded, parse, unbounded};

/// The values that one key or option may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// `section.key` of a file, or the program, its commands and the option: `stoq ping --count`.
    pub name: &'static str,
    /// The smallest and the largest value.
    pub bounds: Bounds,
    /// The number's unit, such as `bytes`.
    pub unit: &'static str,
    /// The meaning of 0, where 0 is below the smallest value and is allowed nevertheless.
    pub zero: Option<&'static str>,
    /// Why no smaller value is allowed.
    pub below: &'static str,
    /// Why no larger value is allowed.
    pub above: &'static str,
}

/// The smallest and the largest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bounds {
    /// Of a whole number.
    Whole(u64, u64),
    /// Of a number that may have a fraction.
    Real(f64, f64),
}

impl Range {
    /// Whether a whole number is in the range; otherwise the fault and the right values.
    ///
    /// # Errors
    /// The text for an operator, without the name of the key.
    pub fn check_whole(&self, value: i128) -> Result<(), String> {
        match self.bounds {
            _ if value == 0 && self.zero.is_some() => Ok(()),
            Bounds::Whole(min, _) if value < min.into() => Err(self.too_small(value)),
            Bounds::Whole(_, max) if value > max.into() => Err(self.too_large(value)),
            Bounds::Whole(..) => Ok(()),
            Bounds::Real(..) => self.check_real(value as f64),
        }
    }

    /// The same for a number with a fraction.
    ///
    /// # Errors
    /// The text for an operator, without the name of the key.
    pub fn check_real(&self, value: f64) -> Result<(), String> {
        let (min, max) = match self.bounds {
            Bounds::Whole(..) => return Err(format!("{value} is no whole number; give {self}")),
            Bounds::Real(min, max) => (min, max),
        };
        if value.is_nan() {
            Err(self.no_number(value))
        } else if value == 0.0 && self.zero.is_some() {
            Ok(())
        } else if value < min {
            Err(self.too_small(value))
        } else if value > max {
            Err(self.too_large(value))
        } else {
            Ok(())
        }
    }

    /// Whether a text is a number in the range.
    ///
    /// # Errors
    /// The text for an operator, without the name of the option.
    pub fn check_text(&self, text: &str) -> Result<(), String> {
        match (text.parse::<i128>(), text.parse::<f64>()) {
            (Ok(whole), _) => self.check_whole(whole),
            // More digits than any integer has.
            (_, Ok(real)) if matches!(self.bounds, Bounds::Whole(_, max) if real.is_finite() && real > max as f64) => {
                Err(self.too_large(text))
            }
            (_, Ok(real)) => self.check_real(real),
            _ => Err(self.no_number(format_args!("{text:?}"))),
        }
    }

    fn no_number(&self, shown: impl std::fmt::Display) -> String {
        format!("{shown} is no number; give {self}")
    }

    fn too_small(&self, value: impl std::fmt::Display) -> String {
        format!("{value} is too small: {}; give {self}", self.below)
    }

    fn too_large(&self, value: impl std::fmt::Display) -> String {
        format!("{value} is too large: {}; give {self}", self.above)
    }
}

/// The range as in documentation and errors: `1000 to 86400000 milliseconds, or 0 for never`.
impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bounds {
            Bounds::Whole(min, max) => write!(f, "{min} to {max}")?,
            Bounds::Real(min, max) => write!(f, "{min} to {max}")?,
        }
        if !self.unit.is_empty() {
            write!(f, " {}", self.unit)?;
        }
        match self.zero {
            Some(meaning) => write!(f, ", or 0 for {meaning}"),
            None => Ok(()),
        }
    }
}

/// A row of a table, of a whole number.
const fn whole(
    name: &'static str,
    (min, max): (u64, u64),
    unit: &'static str,
    below: &'static str,
    above: &'static str,
) -> Range {
    Range { name, bounds: Bounds::Whole(min, max), unit, zero: None, below, above }
}

/// A row of a table, of a number that may have a fraction.
const fn real(
    name: &'static str,
    (min, max): (f64, f64),
    unit: &'static str,
    below: &'static str,
    above: &'static str,
) -> Range {
    Range { name, bounds: Bounds::Real(min, max), unit, zero: None, below, above }
}

impl Range {
    /// The same row, with a meaning for 0.
    const fn or_zero_for(mut self, meaning: &'static str) -> Self {
        self.zero = Some(meaning);
        self
    }
}

#[cfg(test)]
mod tests;
