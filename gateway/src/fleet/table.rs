//! What a gateway knows of its fleet: immutable, and replaced whole.
//!
//! The gateways and the rotations are the operator's. They make a [`Roster`] as of one revision, all of it or none of it. The gateways
//! themselves say that they are alive; that is no part of what may be refused, so that no gateway can hold up the others' table.

use super::record::{FleetAlive, FleetEntry, FleetGateway, FleetRecord, RecordFault};
use std::collections::BTreeMap;
use std::sync::Arc;
use stoq::limits::FLEET_GATEWAYS_LEN_MAX;
use stoq::quic::fleet_settings::{CidRotation, RotationError, check_rotations};
use stoq::quic::routable::ServerId;
use stoq::tls::NodeId;

/// What a gateway knows of its fleet.
#[derive(Clone, Debug)]
pub struct FleetTable {
    /// The gateways and the rotations.
    pub roster: Arc<Roster>,
    /// The gateways that say that they are alive. Empty where the origin cannot know.
    pub alive: BTreeMap<NodeId, Arc<FleetAlive>>,
    /// Where it is from.
    pub origin: TableOrigin,
}

/// Where a table is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOrigin {
    /// A file beside the configuration.
    File,
    /// The disk: the last good table of the directory, which has not answered since the start of this process.
    Cached {
        /// When it was saved, seconds since 1970.
        saved_s: u64,
    },
    /// The directory, by this process.
    Directory,
}

impl FleetTable {
    /// Whether a gateway says that it is alive; `None`: the origin cannot know.
    pub fn is_alive(&self, node: &NodeId) -> Option<bool> {
        (self.origin == TableOrigin::Directory).then(|| self.alive.contains_key(node))
    }
}

/// The gateways and rotations of a fleet, as of one revision of its directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    /// The revision as of which it holds.
    pub revision: u64,
    /// The revision of its rotations.
    pub keys_revision: u64,
    /// The rotations of the fleet's keys.
    pub rotations: Arc<[CidRotation]>,
    /// The gateways.
    pub gateways: BTreeMap<NodeId, Arc<FleetGateway>>,
}

/// Why no roster can be made of a directory's keys.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TableFault {
    /// A value that cannot be read.
    #[error("{key}: {fault}")]
    Record {
        /// Its key.
        key: Arc<str>,
        /// Why.
        fault: Arc<RecordFault>,
    },
    /// Two gateways have one server ID.
    #[error("{second}: server_id {server_id} is that of {first} too; give each gateway a number of its own")]
    SameServerId {
        /// The key of one.
        first: Arc<str>,
        /// The key of the other.
        second: Arc<str>,
        /// The number.
        server_id: ServerId,
    },
    /// Two gateways have one name.
    #[error("{second}: the name {name:?} is that of {first} too; give each gateway a name of its own")]
    SameName {
        /// The key of one.
        first: Arc<str>,
        /// The key of the other.
        second: Arc<str>,
        /// The name.
        name: String,
    },
    /// The same gateway twice, in a file.
    #[error("{0}: the gateway is there twice; remove one")]
    Twice(Arc<str>),
    /// The rotations do not go together.
    #[error("{key}: {fault}")]
    Rotations {
        /// Their key.
        key: Arc<str>,
        /// Why.
        fault: RotationError,
    },
    /// There are no rotations.
    #[error("there are no rotations of the fleet's keys; put them as docs/fleet.md shows")]
    NoRotations,
    /// More gateways than a fleet has.
    #[error("there are {0} gateways; give a fleet at most {FLEET_GATEWAYS_LEN_MAX}")]
    Many(usize),
}

impl Roster {
    /// Makes a roster of all entries of a directory that are the operator's.
    ///
    /// # Errors
    /// [`TableFault`], with the key at fault.
    pub fn read<'a>(
        entries: impl IntoIterator<Item = &'a FleetEntry>,
        revision: u64,
    ) -> Result<Self, TableFault> {
        let mut roster = Self { revision, ..Self::default() };
        let mut keys = None;
        let (mut server_ids, mut names) = (BTreeMap::new(), BTreeMap::new());
        for FleetEntry { key, revision, record } in entries {
            match record {
                FleetRecord::Keys(rotations) => {
                    roster.rotations = rotations.clone();
                    roster.keys_revision = *revision;
                    keys = Some(key);
                }
                FleetRecord::Gateway(gateway) => {
                    let second = || key.clone();
                    if let Some(first) = server_ids.insert(gateway.server_id, key) {
                        let (first, server_id) = (first.clone(), gateway.server_id);
                        return Err(TableFault::SameServerId { first, second: second(), server_id });
                    }
                    if let Some(first) = names.insert(gateway.name.as_str(), key) {
                        let (first, name) = (first.clone(), gateway.name.clone());
                        return Err(TableFault::SameName { first, second: second(), name });
                    }
                    if roster.gateways.insert(gateway.node_id, gateway.clone()).is_some() {
                        return Err(TableFault::Twice(second()));
                    }
                }
                FleetRecord::Fault(fault) => {
                    return Err(TableFault::Record { key: key.clone(), fault: fault.clone() });
                }
                FleetRecord::Alive(..) | FleetRecord::AliveFault(_) => {}
            }
        }
        let Some(key) = keys else { return Err(TableFault::NoRotations) };
        check_rotations(&roster.rotations)
            .map_err(|fault| TableFault::Rotations { key: key.clone(), fault })?;
        match roster.gateways.len() {
            len if len > FLEET_GATEWAYS_LEN_MAX => Err(TableFault::Many(len)),
            _ => Ok(roster),
        }
    }

    /// The gateway of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<FleetGateway>> {
        self.gateways.values().find(|gateway| gateway.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{FLEET_KEY, GATEWAYS, read_record};
    use super::*;
    use serde_json::Value;

    const KEYS: &str = r#"{"v":1,"later":[],"rotations":[
        {"number":0,"salt":"000102030405060708090a0b0c0d0e0f","state":"issue","later":1}]}"#;
    const GATEWAY: &str = r#"{"v":1,"name":"a1","server_id":"0004d2","zone":"ams/r12","weight":1.5,
        "addresses":["192.0.2.11:4433","[2001:db8::11]:4433"],"roles":["seed"],"state":"drain"}"#;

    fn id(letter: char) -> String {
        letter.to_string().repeat(52)
    }

    /// The roster of these keys below a prefix.
    fn roster(keys: &[(String, &str)]) -> Result<Roster, TableFault> {
        let entries: Vec<_> = keys
            .iter()
            .filter_map(|(key, value)| {
                let record = read_record(key, value.as_bytes())?;
                Some(FleetEntry { key: format!("/stoq/1/eu/{key}").into(), revision: 7, record })
            })
            .collect();
        Roster::read(&entries, 9)
    }

    fn with(gateways: &[(&str, &str)]) -> Result<Roster, TableFault> {
        let mut keys = vec![(FLEET_KEY.to_owned(), KEYS)];
        keys.extend(gateways.iter().map(|(key, value)| ((*key).to_owned(), *value)));
        roster(&keys)
    }

    #[test]
    fn a_roster_is_read_whole_and_unknown_fields_and_keys_are_passed_over() {
        let (a, later) = (format!("{GATEWAYS}{}", id('a')), "classes/archive".to_owned());
        let roster = with(&[(&a, GATEWAY), (&later, "no JSON")]).unwrap();
        assert_eq!((roster.revision, roster.keys_revision, roster.rotations.len()), (9, 7, 1));
        let gateway = roster.named("a1").unwrap();
        assert_eq!((gateway.zone.as_str(), gateway.weight, gateway.addresses.len()), ("ams/r12", 1.5, 2));
        let fields: Value = serde_json::to_value(&**gateway).unwrap();
        assert_eq!(fields.as_object().unwrap().len(), 7, "the list of known fields has each");
        let again = read_record(&a, &gateway.value()).unwrap();
        assert!(
            matches!(again, FleetRecord::Gateway(read) if read == *gateway),
            "it is written as it is read"
        );
    }

    #[test]
    fn a_fault_refuses_the_whole_and_names_its_key() {
        let (a, b) = (format!("{GATEWAYS}{}", id('a')), format!("{GATEWAYS}{}", id('q')));
        let changed = |from: &str, to: &str| {
            let value = GATEWAY.replace(from, to);
            assert_ne!(value, GATEWAY);
            with(&[(&a, &value)]).unwrap_err().to_string()
        };
        let many = format!("[{}]", ["\"192.0.2.1:1\""; 17].join(","));
        let long = format!("\"name\":\"{}\"", "n".repeat(129));
        let cases = [
            (changed("\"v\":1", "\"v\":2"), "its version `v` is 2, and this gateway knows 1; upgrade"),
            (changed("\"v\":1,", ""), "missing field `v`"),
            (changed("1.5", "\"much\""), "invalid type: string \"much\""),
            (changed("1.5", "-1"), "`weight` is -1; give a number above 0"),
            (changed("1.5", "0"), "`weight` is 0; give a number above 0"),
            (changed("1.5", "1e300"), "give a number above 0 and up to 1000000"),
            (
                changed("192.0.2.11:4433", "192.0.2.300:4433"),
                "\"192.0.2.300:4433\" is no address with a port",
            ),
            (changed("192.0.2.11:4433", "192.0.2.11"), "\"192.0.2.11\" is no address with a port; give one"),
            (changed("192.0.2.11:4433", "0.0.0.0:4433"), "\"0.0.0.0:4433\" is no address"),
            (
                changed("[\"192.0.2.11:4433\",\"[2001:db8::11]:4433\"]", "[]"),
                "`addresses` has 0; give 1 to 16",
            ),
            (changed("[\"192.0.2.11:4433\",\"[2001:db8::11]:4433\"]", &many), "`addresses` has 17"),
            (changed("0004d2", "4d2"), "give each gateway of the fleet a number of its own"),
            (changed("drain", "asleep"), "unknown variant `asleep`"),
            (changed("\"name\":\"a1\"", &long), "`name` is empty, longer than 128 bytes"),
            (changed("a1", ""), "`name` is empty"),
            (changed("r12", "r\\u001b12"), "`zone` is empty, longer than"),
        ];
        for (error, part) in cases {
            assert!(
                error.starts_with(&format!("/stoq/1/eu/{a}: ")) && error.contains(part),
                "{part}: {error}"
            );
        }
        let twin = GATEWAY.replace("a1", "a2");
        let error = with(&[(&a, GATEWAY), (&b, &twin)]).unwrap_err().to_string();
        let both = format!("/stoq/1/eu/{b}: server_id 0004d2 is that of /stoq/1/eu/{a} too");
        assert!(error.starts_with(&both), "{error}");
        let error =
            with(&[(&a, GATEWAY), (&b, &GATEWAY.replace("0004d2", "0004d3"))]).unwrap_err().to_string();
        assert!(
            error.contains("the name \"a1\" is that of /stoq/1/eu/gateways/aaa")
                && error.contains("give each gateway a name of its own"),
            "{error}"
        );
        let error = with(&[("gateways/a1", GATEWAY)]).unwrap_err().to_string();
        assert!(
            error.contains("the key does not end in a node ID") && error.contains("gateways/a1:"),
            "{error}"
        );
        let long = " ".repeat(16_385);
        let error = with(&[(&a, &long)]).unwrap_err().to_string();
        assert!(error.contains("its value has 16385 bytes; give it at most 16384"), "{error}");
    }

    #[test]
    fn rotations_that_do_not_go_together_and_a_fleet_without_any_are_refused() {
        let fleet = |value: &str| roster(&[(FLEET_KEY.to_owned(), value)]).unwrap_err().to_string();
        let error = fleet(&KEYS.replace("issue", "accept"));
        assert!(error.starts_with("/stoq/1/eu/fleet: 0 rotations issue"), "{error}");
        let error = fleet(&KEYS.replace("0001", "00"));
        assert!(error.contains("/stoq/1/eu/fleet: its value cannot be read: "), "{error}");
        let error = roster(&[]).unwrap_err().to_string();
        assert!(error.contains("there are no rotations of the fleet's keys"), "{error}");
    }

    #[test]
    fn a_gateway_alone_cannot_have_the_table_refused() {
        let alive = format!("alive/{}", id('a'));
        for value in ["no JSON", r#"{"v":2}"#, r#"{"v":1,"boot":1}"#] {
            assert!(with(&[(&alive, value)]).is_ok());
        }
        let said = FleetAlive { boot: "b".into(), version: "0.1.0".into(), ready: true, keys: 7, since_s: 9 };
        let read = read_record(&alive, &said.value());
        assert!(matches!(read, Some(FleetRecord::Alive(_, read)) if *read == said));
    }
}
