//! Keys that were renamed. The error for an old name gives the new one.

use toml::{Table, Value};

/// A key that has a new name.
struct Renamed {
    /// The old key, with its section.
    old: &'static str,
    /// The values that mark the key as the old one.
    kind: Kind,
    /// The name to write instead.
    new: &'static str,
}

enum Kind {
    /// Any value.
    Any,
    /// A string: with a value of another type the key is in use today.
    Text,
    /// This string: the value was renamed, and the key stays.
    Only(&'static str),
}

/// The old keys of both files.
const RENAMED: &[Renamed] = &[
    Renamed { old: "neighbor", kind: Kind::Any, new: "[[gateway]]" },
    Renamed { old: "hops.transit", kind: Kind::Only("neighbors"), new: "\"gateways\"" },
    Renamed { old: "network.gateway_v4", kind: Kind::Any, new: "network.next_hop_v4" },
    Renamed { old: "network.gateway_v6", kind: Kind::Any, new: "network.next_hop_v6" },
    Renamed { old: "network.memory_mb", kind: Kind::Any, new: "network.memory_mib" },
    Renamed { old: "quic.congestion", kind: Kind::Any, new: "quic.congestion_control" },
    Renamed {
        old: "quic.initial_window_bytes",
        kind: Kind::Any,
        new: "quic.initial_congestion_window_bytes",
    },
    Renamed { old: "quic.initial_mtu", kind: Kind::Any, new: "quic.initial_udp_payload_bytes" },
    Renamed { old: "qlog.bytes_max", kind: Kind::Any, new: "qlog.capacity_bytes" },
];

/// Further old keys of a client's file.
const RENAMED_OF_CLIENTS: &[Renamed] = &[Renamed { old: "gateway", kind: Kind::Text, new: "connect" }];

/// The reader of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOwner {
    Gateway,
    Client,
}

fn renamed(owner: KeyOwner) -> impl Iterator<Item = &'static Renamed> {
    let of_clients = if owner == KeyOwner::Client { RENAMED_OF_CLIENTS } else { &[] };
    RENAMED.iter().chain(of_clients)
}

/// Looks for old names in a file.
///
/// # Errors
/// The first old key, and its new name.
pub(super) fn check_names(file: &Table, owner: KeyOwner) -> Result<(), (String, String)> {
    match renamed(owner).find(|renamed| renamed.is_in(file, renamed.old)) {
        Some(Renamed { old, kind: Kind::Only(value), new }) => {
            Err(((*old).into(), format!("{value:?} is called otherwise now; write {new}")))
        }
        Some(Renamed { old, new, .. }) => {
            Err(((*old).into(), format!("it has another name now; write `{new}` instead of `{old}`")))
        }
        None => Ok(()),
    }
}

impl Renamed {
    fn is_in(&self, table: &Table, path: &str) -> bool {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        match (table.get(name), rest) {
            (Some(value), None) => match self.kind {
                Kind::Any => true,
                Kind::Text => value.is_str(),
                Kind::Only(old) => value.as_str() == Some(old),
            },
            (Some(Value::Table(inner)), Some(rest)) => self.is_in(inner, rest),
            (Some(Value::Array(inner)), Some(rest)) => {
                inner.iter().filter_map(Value::as_table).any(|inner| self.is_in(inner, rest))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load_client, load_gateway};
    use std::io::Write;

    /// A file that has only this key, in tables or in arrays of tables.
    fn with(path: &str, value: Value, in_arrays: bool) -> Table {
        let (name, value) = match path.split_once('.') {
            Some((name, rest)) => {
                let inner = Value::Table(with(rest, value, in_arrays));
                (name, if in_arrays { Value::Array(vec![inner]) } else { inner })
            }
            None => (path, value),
        };
        Table::from_iter([(name.to_owned(), value)])
    }

    fn refusal(file: &Table, owner: KeyOwner) -> String {
        let mut written = tempfile::NamedTempFile::new().unwrap();
        written.write_all(file.to_string().as_bytes()).unwrap();
        match owner {
            KeyOwner::Gateway => load_gateway(written.path()).map(drop),
            KeyOwner::Client => load_client(written.path()).map(drop),
        }
        .expect_err("the file lacks every section that is needed")
        .to_string()
    }

    #[test]
    fn every_old_name_is_refused_with_the_new_one_by_the_readers_of_both_files() {
        let mut seen = 0;
        for owner in [KeyOwner::Gateway, KeyOwner::Client] {
            for entry in renamed(owner) {
                let value = match entry.kind {
                    Kind::Any => Value::Integer(1),
                    Kind::Text => "x".into(),
                    Kind::Only(value) => value.into(),
                };
                for in_arrays in [false, true] {
                    let error = refusal(&with(entry.old, value.clone(), in_arrays), owner);
                    let key = format!("key `{}`: ", entry.old);
                    assert!(error.contains(&key) && error.contains(entry.new), "{error}");
                    let said = match entry.kind {
                        Kind::Only(_) => "is called otherwise now; write",
                        Kind::Any | Kind::Text => "it has another name now; write",
                    };
                    assert!(error.contains(said), "{error}");
                }
                seen += 1;
            }
        }
        assert_eq!(seen, 2 * RENAMED.len() + RENAMED_OF_CLIENTS.len());
    }

    #[test]
    fn names_of_today_are_not_refused_as_old_ones() {
        for example in
            [include_str!("../../../configs/gateway.toml"), include_str!("../../../configs/client.toml")]
        {
            for owner in [KeyOwner::Gateway, KeyOwner::Client] {
                assert_eq!(check_names(&example.parse().unwrap(), owner), Ok(()));
            }
        }
        let gateways = Table::from_iter([("gateway".to_owned(), Value::Array(Vec::new()))]);
        assert_eq!(check_names(&gateways, KeyOwner::Client), Ok(()), "a section, not the address of before");
        let transit = with("hops.transit", "gateways".into(), false);
        assert_eq!(check_names(&transit, KeyOwner::Gateway), Ok(()));
    }

    #[test]
    fn every_new_name_stands_in_the_examples() {
        let examples = concat!(
            include_str!("../../../configs/gateway.toml"),
            include_str!("../../../configs/client.toml")
        );
        for entry in renamed(KeyOwner::Client) {
            let name = entry.new.rsplit('.').next().unwrap();
            let shown = |line: &str| {
                let line = line.trim_start_matches("# ");
                line == name || line.starts_with(&format!("{name} = ")) || line.contains(&format!(" {name},"))
            };
            assert!(examples.lines().any(shown), "{name}");
        }
    }
}
