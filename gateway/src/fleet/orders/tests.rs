//! Orders against a store that takes transactions as etcd does.

use super::super::record::{FLEET_KEY, FleetAlive, FleetState, rotations_value};
use super::*;
use stoq::quic::fleet_settings::{CidRotation, RotationSalt, RotationState};

const CLUSTER: u64 = 1;
const SALT: [u8; 16] = [7; 16];

/// Keys and their revisions.
#[derive(Default)]
struct Shelf {
    revision: u64,
    keys: BTreeMap<String, (Vec<u8>, u64)>,
}

impl Shelf {
    fn snapshot(&self) -> StoreSnapshot {
        let keys = self.keys.iter().map(|(key, (value, revision))| StoredKey {
            key: key.as_str().into(),
            value: value.clone(),
            revision: *revision,
        });
        StoreSnapshot { head: StoreHead { cluster: CLUSTER, revision: self.revision }, keys: keys.collect() }
    }

    fn holds(&self, condition: &StoreCondition) -> bool {
        match condition {
            StoreCondition::Absent(key) => !self.keys.contains_key(key),
            StoreCondition::Unchanged(key, revision) => {
                self.keys.get(key).is_some_and(|(_, at)| at == revision)
            }
            StoreCondition::NonePut(below, revision) => {
                self.keys.iter().all(|(key, (_, at))| !key.starts_with(below) || at <= revision)
            }
        }
    }

    fn commit(&mut self, transaction: &StoreTransaction) -> bool {
        if !transaction.conditions.iter().all(|condition| self.holds(condition)) {
            return false;
        }
        self.revision += 1;
        for (key, value) in &transaction.puts {
            self.keys.insert(key.clone(), (value.clone(), self.revision));
        }
        true
    }

    fn put(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        let puts = vec![(key.to_owned(), value.into())];
        assert!(self.commit(&StoreTransaction { conditions: Vec::new(), puts }));
    }

    /// Takes the order, which must change something, and gives what it tells.
    fn take(&mut self, order: Result<FleetOrder, OrderError>) -> String {
        let FleetOrder::Send(transaction, told) = order.unwrap() else { panic!("nothing is sent") };
        assert!(self.commit(&transaction), "{transaction:?}");
        told
    }

    fn text(&self, key: &str) -> String {
        String::from_utf8(self.keys[key].0.clone()).unwrap()
    }

    /// The gateway says that it is alive, and goes by this revision of the rotations.
    fn lives(&mut self, letter: char, keys: u64) {
        let alive = FleetAlive { boot: "b".into(), version: "1".into(), ready: true, keys, since_s: 1 };
        self.put(&format!("alive/{}", node(letter)), alive.value());
    }

    fn keys_revision(&self) -> u64 {
        self.keys[FLEET_KEY].1
    }
}

fn node(letter: char) -> NodeId {
    // The last letter has one bit of the ID alone.
    (letter.to_string().repeat(51) + "a").parse().unwrap()
}

fn gateway(letter: char, name: &str, number: u8) -> FleetGateway {
    FleetGateway {
        node_id: node(letter),
        name: name.into(),
        server_id: ServerId([0, 0, number]),
        zone: String::new(),
        weight: 1.0,
        addresses: vec!["192.0.2.1:4433".parse().unwrap()],
        state: FleetState::Active,
    }
}

fn error(order: Result<FleetOrder, OrderError>) -> String {
    order.unwrap_err().to_string()
}

#[test]
fn a_gateway_joins_once_and_one_with_the_number_or_name_of_another_is_told_whose_it_is() {
    let mut shelf = Shelf::default();
    let (a1, a2) = (gateway('a', "a1", 1), gateway('q', "a2", 2));
    let told = shelf.take(join(&shelf.snapshot(), &a1));
    assert_eq!(told, "a1 is in the fleet with server ID 000001");
    assert_eq!(shelf.text("server-ids/000001"), node('a').to_string());
    let again = join(&shelf.snapshot(), &FleetGateway { zone: "moved".into(), ..a1.clone() }).unwrap();
    assert!(matches!(again, FleetOrder::Done(told) if told.contains("a1 is in the fleet already")));

    let same_number = error(join(&shelf.snapshot(), &gateway('q', "a2", 1)));
    let holder = format!(
        "server ID 000001 is that of a1 ({}); give this gateway another in fleet.server_id",
        node('a')
    );
    assert!(same_number.starts_with(&holder), "{same_number}");
    let same_name = error(join(&shelf.snapshot(), &gateway('q', "a1", 2)));
    assert!(
        same_name.contains("the name \"a1\" is that of aaaa")
            && same_name.ends_with("give this gateway another by --name"),
        "{same_name}"
    );
    let other_number = error(join(&shelf.snapshot(), &gateway('a', "a1", 3)));
    assert!(
        other_number.contains("gives this gateway server ID 000001, and fleet.server_id is 000003; set"),
        "{other_number}"
    );
    let unread = error(join(&shelf.snapshot(), &FleetGateway { addresses: Vec::new(), ..a2.clone() }));
    assert!(unread.starts_with("gateways/qqqq") && unread.contains("`addresses` has 0"), "{unread}");

    // A claim of a gateway that has no row, and a row that was put by hand without a claim.
    shelf.put("server-ids/000002", node('i').to_string());
    let claimed = error(join(&shelf.snapshot(), &a2));
    assert!(claimed.contains(&format!("is that of the node {}", node('i'))), "{claimed}");
    shelf.put(&format!("gateways/{}", node('y')), gateway('y', "a5", 5).value());
    let by_hand = error(join(&shelf.snapshot(), &gateway('q', "a2", 5)));
    assert!(by_hand.contains("server ID 000005 is that of a5 (yyyy"), "{by_hand}");
    let told = shelf.take(join(&shelf.snapshot(), &gateway('y', "a5", 5)));
    assert!(told.contains("a5 is in the fleet") && shelf.keys.contains_key("server-ids/000005"));
}

#[test]
fn of_two_that_change_the_same_at_once_one_decides_anew() {
    let mut shelf = Shelf::default();
    let before = shelf.snapshot();
    let (one, other) = (join(&before, &gateway('a', "a1", 1)), join(&before, &gateway('q', "a1", 2)));
    shelf.take(one);
    let FleetOrder::Send(late, _) = other.unwrap() else { panic!("it was decided before") };
    assert!(!shelf.commit(&late), "two gateways of one name");
    assert!(error(join(&shelf.snapshot(), &gateway('q', "a1", 2))).contains("is that of aaaa"));

    shelf.take(join(&shelf.snapshot(), &gateway('q', "a2", 2)));
    let before = shelf.snapshot();
    shelf.take(set_state(&before, "a1", FleetState::Drain, false));
    let FleetOrder::Send(late, _) = set_state(&before, "a1", FleetState::Out, false).unwrap() else {
        panic!()
    };
    assert!(!shelf.commit(&late), "one operator overwrites the other");
    let told = shelf.take(set_state(&shelf.snapshot(), "a1", FleetState::Out, false));
    assert_eq!(told, "a1 is out, and was drain");
}

#[test]
fn a_state_changes_nothing_else_of_a_row_and_the_last_active_gateway_stays() {
    let mut shelf = Shelf::default();
    let row = String::from_utf8(gateway('a', "a1", 1).value())
        .unwrap()
        .replace("\"name\"", "\"later\":[1],\"name\"");
    shelf.put(&format!("gateways/{}", node('a')), row.clone());
    shelf.put(&format!("gateways/{}", node('q')), gateway('q', "a2", 2).value());
    let told = shelf.take(set_state(&shelf.snapshot(), &node('a').to_string(), FleetState::Drain, false));
    assert_eq!(told, "a1 is drain, and was active");
    let (stored, before): (serde_json::Value, serde_json::Value) = (
        serde_json::from_str(&shelf.text(&format!("gateways/{}", node('a')))).unwrap(),
        serde_json::from_str(&row.replace("active", "drain")).unwrap(),
    );
    assert_eq!(stored, before);
    let again = set_state(&shelf.snapshot(), "a1", FleetState::Drain, false).unwrap();
    assert_eq!(again, FleetOrder::Done("a1 is drain already".into()));
    let last = error(set_state(&shelf.snapshot(), "a2", FleetState::Drain, false));
    assert!(
        last.contains("a2 is the last active gateway; have another one active first, or give --force"),
        "{last}"
    );
    assert!(set_state(&shelf.snapshot(), "a2", FleetState::Drain, true).is_ok());
    let unknown = error(set_state(&shelf.snapshot(), "a9", FleetState::Drain, false));
    assert_eq!(unknown, "no gateway of the fleet is \"a9\"; give one of: a1, a2");
}

fn step(now_s: u64, force: bool) -> RotationStep {
    RotationStep { now_s, salt: RotationSalt(SALT), force }
}

#[test]
fn a_rotation_is_three_steps_and_each_waits_for_every_gateway() {
    let mut shelf = Shelf::default();
    let told = shelf.take(rotate(&shelf.snapshot(), &step(0, false)));
    assert!(told.contains("rotation 0 issues: the first"), "{told}");
    let first = CidRotation { number: 6, salt: RotationSalt([1; 16]), state: RotationState::Issue };
    let value = String::from_utf8(rotations_value(&[first])).unwrap();
    shelf.put(FLEET_KEY, value.replace("\"rotations\"", "\"later\":1,\"rotations\""));
    shelf.take(join(&shelf.snapshot(), &gateway('a', "a1", 1)));
    shelf.take(join(&shelf.snapshot(), &gateway('q', "a2", 2)));
    shelf.lives('a', shelf.keys_revision());
    let dead = error(rotate(&shelf.snapshot(), &step(10, false)));
    assert!(dead.starts_with("a2 is not alive, and may serve by older rotations; start it"), "{dead}");
    let told = shelf.take(rotate(&shelf.snapshot(), &step(10, true)));
    assert!(told.starts_with("step 1 of 3: rotation 0 is accepted"), "{told}");
    assert!(shelf.text(FLEET_KEY).contains("\"later\":1"), "what a later version put stays");

    let revision = shelf.keys_revision();
    shelf.lives('q', revision);
    // Force goes past no living gateway.
    for force in [false, true] {
        let behind = error(rotate(&shelf.snapshot(), &step(11, force)));
        let told =
            format!("a1 has not gone by revision {revision} of the rotations yet, the step before; wait");
        assert!(behind.starts_with(&told), "{behind}");
    }
    shelf.lives('a', revision);
    let told = shelf.take(rotate(&shelf.snapshot(), &step(20, false)));
    assert!(told.starts_with("step 2 of 3: rotation 0 issues"), "{told}");
    for letter in ['a', 'q'] {
        shelf.lives(letter, shelf.keys_revision());
    }
    let early = error(rotate(&shelf.snapshot(), &step(20 + CID_ROTATION_KEPT_S - 5, true)));
    assert!(
        early.contains("rotation 6 issued until less than") && early.ends_with("run this again in 5 s"),
        "{early}"
    );
    // A step that was made by hand has no date.
    let by_hand = shelf.text(FLEET_KEY).replace("stepped_s", "stepped_by_hand_s");
    let mut copy = Shelf { revision: shelf.revision, keys: shelf.keys.clone() };
    copy.keys.get_mut(FLEET_KEY).unwrap().0 = by_hand.into_bytes();
    let undated = error(rotate(&copy.snapshot(), &step(2_000, false)));
    assert!(
        undated.contains("does not say since when rotation 6 issues no more")
            && undated.ends_with("give --force"),
        "{undated}"
    );
    assert!(rotate(&copy.snapshot(), &step(2_000, true)).is_ok());
    let told = shelf.take(rotate(&shelf.snapshot(), &step(20 + CID_ROTATION_KEPT_S, false)));
    assert_eq!(told, "step 3 of 3: rotation 6 is removed, and 0 issues alone");

    let row = gateway('q', "a2", 2);
    shelf.put(&format!("gateways/{}", node('q')), FleetGateway { state: FleetState::Out, ..row }.value());
    shelf.keys.remove(&format!("alive/{}", node('q')));
    shelf.lives('a', shelf.keys_revision());
    assert!(
        rotate(&shelf.snapshot(), &step(5_000, false)).is_ok(),
        "a gateway that is out need not be alive"
    );
}

#[test]
fn rotations_that_gateways_refuse_are_not_stepped_on() {
    let mut shelf = Shelf::default();
    shelf.put(FLEET_KEY, "{\"v\":1,\"rotations\":[]}");
    let error_of = |shelf: &Shelf| error(rotate(&shelf.snapshot(), &step(0, true)));
    assert!(
        error_of(&shelf).starts_with("fleet: 0 rotations issue; let exactly one"),
        "{}",
        error_of(&shelf)
    );
    shelf.put(FLEET_KEY, "{\"v\":2}");
    assert!(error_of(&shelf).starts_with("fleet: its version `v` is 2"), "{}", error_of(&shelf));
}
