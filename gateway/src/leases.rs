//! What a store keeps, as options, tables and JSON: for `stoq list` and `stoq-gateway store`.

use crate::durations::{self, Seconds};
use crate::output::{self, OutputError};
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;
use stoq::record::{Coverage, LeaseHolder, LeaseScope, List, ListedEntry};
use stoq::seed::KeptFor;
use stoq::token::AnyToken;

/// A holder of leases, as people write it: a node ID, `anonymous` or `cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderName(pub LeaseHolder);

impl fmt::Display for HolderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, node) = holder(self.0);
        f.write_str(node.as_deref().unwrap_or(kind))
    }
}

impl FromStr for HolderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "anonymous" => LeaseHolder::Anonymous,
            "cache" => LeaseHolder::Cache,
            node => LeaseHolder::Node(node.parse().map_err(|_| {
                format!("{node:?} is no owner: give a node ID, \"anonymous\" (all peers without a certificate) or \"cache\"")
            })?),
        }))
    }
}

/// The options that choose entries of a list.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ListFilter {
    /// Only what is kept for this owner: a node ID, "anonymous" for all peers without a certificate, or "cache".
    #[arg(long, value_name = "NODE")]
    pub owner: Option<HolderName>,
    /// Only what has a lease that ends within this time: 90s, 45m, 12h, 30d.
    #[arg(long, value_name = "TIME")]
    pub ends_within: Option<Seconds>,
    /// Only payloads of at least this number of bytes.
    #[arg(long, value_name = "BYTES")]
    pub min_size: Option<u64>,
    /// Only payloads of at most this number of bytes.
    #[arg(long, value_name = "BYTES")]
    pub max_size: Option<u64>,
    /// Begin behind this token, at which an earlier list ended.
    #[arg(long, value_name = "TOKEN")]
    pub after: Option<AnyToken>,
    /// End after this number of entries.
    #[arg(long, value_name = "ENTRIES")]
    pub limit: Option<u64>,
}

impl ListFilter {
    /// The request for the first page.
    pub fn list(&self, scope: LeaseScope) -> List {
        List {
            scope: if self.owner.is_some() { LeaseScope::All } else { scope },
            after: self.after,
            holder: self.owner.map(|owner| owner.0),
            length_min_bytes: self.min_size.unwrap_or_default(),
            length_max_bytes: self.max_size.unwrap_or_default(),
            ends_s: self.ends_within.map_or(0, |span| span.0),
            entries_max: 0,
        }
    }
}

/// A holder's kind, and its node ID if it has one.
fn holder(holder: LeaseHolder) -> (&'static str, Option<String>) {
    match holder {
        LeaseHolder::Anonymous => ("anonymous", None),
        LeaseHolder::Node(node) => ("node", Some(node.to_string())),
        LeaseHolder::Cache => ("cache", None),
    }
}

/// An entry as JSON.
pub fn entry(entry: &ListedEntry) -> Value {
    let coverage = match entry.coverage {
        Coverage::None => "none".to_owned(),
        Coverage::All => "all".to_owned(),
        Coverage::Lanes(lanes) => format!("lanes {lanes}"),
    };
    let shown = entry.shown.iter().map(|lease| {
        let (kind, node) = holder(lease.holder);
        json!({ "kind": kind, "node": node, "expires_s": (lease.expires_s > 0).then_some(lease.expires_s) })
    });
    json!({
        "token": entry.token.to_string(), "coverage": coverage, "length": entry.length_bytes,
        "stored": entry.stored_bytes, "leases": entry.leases, "owners": shown.collect::<Vec<_>>(),
    })
}

/// What is kept for a holder, as JSON.
pub fn kept(kept: &KeptFor) -> Value {
    let (kind, node) = holder(kept.holder);
    json!({ "kind": kind, "node": node, "stored": kept.bytes, "entries": kept.entries })
}

/// A text of such JSON.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

/// The owner of a lease or of a sum, for people.
pub fn owner(value: &Value) -> &str {
    value["node"].as_str().unwrap_or_else(|| text(value, "kind"))
}

fn expires(lease: &Value) -> String {
    lease["expires_s"].as_u64().map_or("never".into(), durations::show)
}

/// A list's output: a table, or a line of JSON for each entry.
#[derive(Debug)]
pub struct ListPrinter {
    json: bool,
    /// Entries that it may still print.
    left: u64,
    printed: u64,
}

impl ListPrinter {
    /// Prints entries as `filter` wants.
    pub fn new(filter: &ListFilter, json: bool) -> Self {
        Self { json, left: filter.limit.unwrap_or(u64::MAX), printed: 0 }
    }

    /// The most entries that the next page may have; 0: any number.
    pub fn entries_max(&self) -> u64 {
        if self.left == u64::MAX { 0 } else { self.left }
    }

    /// Prints a page. Returns whether the next one is wanted.
    ///
    /// # Errors
    /// Standard output takes nothing.
    pub fn page(&mut self, entries: &[Value]) -> Result<bool, OutputError> {
        for entry in entries.iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
            if self.json {
                output::line(entry)?;
            } else {
                if self.printed == 0 {
                    output::line(format_args!(
                        "{:>15}  {:>15}  {:8}  {:8}  {:68}  OWNER",
                        "LENGTH", "STORED", "COVERAGE", "EXPIRES", "TOKEN"
                    ))?;
                }
                output::line(row(entry))?;
            }
            self.printed += 1;
            self.left -= 1;
        }
        Ok(self.left > 0)
    }

    /// Says where the list has ended, if it has not ended of itself.
    ///
    /// # Errors
    /// Standard output takes nothing.
    pub fn end(&self, next: Option<&str>) -> Result<(), OutputError> {
        match next {
            _ if self.json => {
                output::line(json!({ "operation": "list", "entries": self.printed, "next": next }))?
            }
            Some(next) => output::note(format_args!("there may be more: --after {next}")),
            None if self.printed == 0 => output::note("nothing is kept, or nothing that matches"),
            None => {}
        }
        Ok(())
    }
}

fn row(entry: &Value) -> String {
    let owners = entry["owners"].as_array().map_or(&[][..], Vec::as_slice);
    let first = owners.first();
    let others = entry["leases"].as_u64().unwrap_or_default().saturating_sub(1);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    format!(
        "{:>15}  {:>15}  {:8}  {:8}  {:68}  {}{others}",
        // A JSON value takes no width itself.
        entry["length"].to_string(),
        entry["stored"].to_string(),
        text(entry, "coverage"),
        first.map_or("-".into(), expires),
        text(entry, "token"),
        first.map_or("-", owner),
    )
}

/// An entry in lines, for people.
pub fn lines(entry: &Value) -> String {
    let mut lines = format!(
        "{}\nlength    {} bytes\nstored    {} bytes\ncoverage  {}\nleases    {}",
        text(entry, "token"),
        entry["length"],
        entry["stored"],
        text(entry, "coverage"),
        entry["leases"]
    );
    for lease in entry["owners"].as_array().map_or(&[][..], Vec::as_slice) {
        lines += &format!("\n          {} for {}", expires(lease), owner(lease));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_rows_end_where_those_of_the_head_do() {
        let entry = json!({ "length": 4096, "stored": 9216, "coverage": "all", "token": "b3:00", "leases": 1, "owners": [] });
        assert_eq!(&row(&entry)[..42], format!("{:>15}  {:>15}  all     ", 4096, 9216));
    }
    use stoq::record::ListedLease;
    use stoq::tls::NodeId;
    use stoq::token::Token;

    #[test]
    fn an_owner_is_a_node_or_a_word() {
        let node = NodeId([7; 32]);
        assert_eq!(node.to_string().parse(), Ok(HolderName(LeaseHolder::Node(node))));
        assert_eq!("cache".parse(), Ok(HolderName(LeaseHolder::Cache)));
        assert!("me".parse::<HolderName>().unwrap_err().contains("give a node ID"));
    }

    #[test]
    fn a_named_owner_asks_for_the_leases_of_all() {
        let filter = ListFilter { owner: Some(HolderName(LeaseHolder::Anonymous)), ..ListFilter::default() };
        assert_eq!(filter.list(LeaseScope::Own).scope, LeaseScope::All);
        assert_eq!(ListFilter::default().list(LeaseScope::Own).scope, LeaseScope::Own);
    }

    #[test]
    fn an_entry_is_shown_with_its_first_owner_and_the_number_of_the_others() {
        let lease = |holder, expires_s| ListedLease { holder, expires_s };
        let listed = ListedEntry {
            token: Token::of(b"x").into(),
            coverage: Coverage::All,
            length_bytes: 1,
            stored_bytes: 5_120,
            leases: 3,
            shown: vec![lease(LeaseHolder::Anonymous, 0), lease(LeaseHolder::Cache, 61)],
        };
        let value = entry(&listed);
        assert!(row(&value).ends_with("  anonymous and 2 more") && row(&value).contains("  never  "));
        assert!(
            lines(&value).ends_with("leases    3\n          never for anonymous\n          1m1s for cache")
        );
    }
}
