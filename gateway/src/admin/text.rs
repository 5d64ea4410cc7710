//! Prometheus' text format, version 0.0.4: written for scrapers, parsed by `top` and by tests.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use stoq::histogram::Histogram;

/// Its `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kind of a family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A count that only grows.
    Counter,
    /// The current value.
    Gauge,
    /// Counts in buckets that only grow.
    Histogram,
}

/// An exposition being written. Samples follow their family.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: String,
}

/// One parsed line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Labels, in the order of writing.
pub type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

impl Exposition {
    /// Begins a family.
    pub fn family(&mut self, name: &str, kind: MetricKind, help: &str) {
        name.clone_into(&mut self.name);
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A family of one value without labels.
    pub fn single(&mut self, name: &str, kind: MetricKind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// Adds one value to the family.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Adds a histogram to the family: buckets at two to the power of each exponent from `low` to `high`, times `unit`.
    pub fn histogram(
        &mut self,
        labels: Labels<'_>,
        values: &Histogram,
        (low, high): (usize, usize),
        unit: f64,
    ) {
        let (buckets, count) = values.cumulative(low, high);
        for (exponent, below) in (low..=high).zip(buckets) {
            let end = (1_u64 << exponent) as f64 * unit;
            self.line("_bucket", labels, Some(&end), below);
        }
        self.line("_bucket", labels, Some(&"+Inf"), count);
        self.line("_sum", labels, None, values.sum() as f64 * unit);
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, end: Option<&dyn Display>, value: impl Display) {
        let text = &mut self.text;
        let _ = write!(text, "{}{suffix}", self.name);
        let ends = end.map(|end| ("le", end));
        for (index, (key, value)) in labels.iter().copied().chain(ends).enumerate() {
            let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(text, "{}{key}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() && ends.is_none() { "" } else { "}" };
        let _ = writeln!(text, "{close} {value}");
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Reads an exposition; other lines are skipped.
pub fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (front, value) = line.trim_end().rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, rest) = front.split_once('{').unwrap_or((front, "}"));
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => {
                    rest = &quoted[at + 1..];
                    break;
                }
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        }
        labels.insert(key.trim_start_matches(',').to_owned(), text);
    }
    Some(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn families_have_help_and_type_and_special_characters_are_escaped() {
        let mut out = Exposition::default();
        out.family("stoq_a_total", MetricKind::Counter, "Back\\slash\nand line.");
        out.sample(&[], 3);
        out.sample(&[("who", &"a\"b\\c\nd"), ("n", &7)], 1.5);
        let text = out.finish();
        let expected = "# HELP stoq_a_total Back\\\\slash\\nand line.\n# TYPE stoq_a_total counter\nstoq_a_total 3\n\
                        stoq_a_total{who=\"a\\\"b\\\\c\\nd\",n=\"7\"} 1.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_histogram_has_growing_buckets_a_sum_and_a_count() {
        let values = Histogram::default();
        [1, 3, 1000].into_iter().for_each(|value| values.record(value));
        let mut out = Exposition::default();
        out.family("t_seconds", MetricKind::Histogram, "Times.");
        out.histogram(&[("w", &0)], &values, (0, 2), 1e-3);
        let samples = parse(&out.finish());
        let buckets: Vec<_> =
            samples.iter().filter_map(|s| Some((s.labels.get("le")?.as_str(), s.value))).collect();
        assert_eq!(buckets, [("0.001", 1.0), ("0.002", 1.0), ("0.004", 2.0), ("+Inf", 3.0)]);
        assert_eq!((samples[4].name.as_str(), samples[4].value), ("t_seconds_sum", 1.004));
        assert_eq!((samples[5].name.as_str(), samples[5].value), ("t_seconds_count", 3.0));
    }

    proptest! {
        #[test]
        fn a_sample_is_parsed_as_it_was_written(value in any::<u32>(), label in "\\PC{0,12}[\\\\\"\n{},=]{0,4}") {
            let mut out = Exposition::default();
            out.family("x", MetricKind::Gauge, "X.");
            out.sample(&[("one", &label), ("two", &"2")], value);
            let samples = parse(&out.finish());
            prop_assert_eq!(samples.len(), 1);
            prop_assert_eq!(&samples[0].labels["one"], &label);
            prop_assert_eq!(samples[0].value, f64::from(value));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
            parse(&text);
        }
    }
}
