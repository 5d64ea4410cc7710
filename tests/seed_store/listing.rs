//! Lists of what a store keeps, what is kept for each owner, and leases that their owners give up.

use super::{open, payload, put_as, stored};
use stoq::record::{LeaseHolder, LeaseScope, List};
use stoq::seed::{GivenUp, Lease, Store};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Token};

const ALICE: NodeId = NodeId([1; 32]);
const BOB: NodeId = NodeId([2; 32]);

fn numbered(number: u8) -> Vec<u8> {
    [&payload(100)[..], &[number]].concat()
}

fn put(store: &Store, number: u8, lease: Lease) -> AnyToken {
    put_as(store, &numbered(number), lease, 0).unwrap();
    Token::of(&numbered(number)).into()
}

#[test]
fn the_sums_of_owners_come_in_pages_and_count_what_is_kept_for_several_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let both = put(&store, 1, Lease::until(Some(100), Some(ALICE)));
    store.extend(both, Lease::until(None, Some(BOB))).unwrap();
    put(&store, 2, Lease::until(None, Some(BOB)));
    put(&store, 3, Lease::default());
    put(&store, 4, Lease::cached(None));
    let all = store.kept_for(None, 10);
    let counted: Vec<_> = all.iter().map(|kept| (kept.holder, kept.entries)).collect();
    let expected = [
        (LeaseHolder::Anonymous, 1),
        (LeaseHolder::Node(ALICE), 1),
        (LeaseHolder::Node(BOB), 2),
        (LeaseHolder::Cache, 1),
    ];
    assert_eq!(counted, expected);
    assert_eq!(all[2].bytes, store.owned_bytes(&BOB));
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.kept_for(after, 1);
        let Some(last) = page.last() else { break };
        after = Some(last.holder);
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

#[test]
fn a_lease_that_its_owner_gives_up_is_gone_after_the_next_start_and_the_others_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let both = put(&store, 1, Lease::until(Some(100), Some(ALICE)));
    store.extend(both, Lease::until(None, Some(BOB))).unwrap();
    let [anonymous, cached] = [put(&store, 2, Lease::default()), put(&store, 3, Lease::cached(None))];
    let [alice, bob] = [ALICE, BOB].map(LeaseHolder::Node);
    assert_eq!(store.end_lease_of(both, LeaseHolder::Anonymous).unwrap(), GivenUp::NoLease);
    assert_eq!(store.end_lease_of(both, bob).unwrap(), GivenUp::Kept, "the longest lease");
    assert_eq!(store.end_lease_of(both, bob).unwrap(), GivenUp::NoLease);
    assert_eq!(store.lease(both), Some(Lease::until(Some(100), Some(ALICE))));
    assert_eq!(
        store.end_lease_of(anonymous, LeaseHolder::Anonymous).unwrap(),
        GivenUp::Gone(vec![anonymous])
    );
    store.sync_removals().unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!((store.owned_bytes(&BOB), store.census().entries), (0, 2));
    let seen = store.stat(both, LeaseScope::All, bob, 40).unwrap();
    assert_eq!((seen.leases, seen.shown[0].holder, seen.shown[0].expires_s), (1, alice, 60));
    assert_eq!(store.stat(both, LeaseScope::Own, bob, 40), None);
    assert_eq!(store.end_lease_of(cached, LeaseHolder::Cache).unwrap(), GivenUp::Gone(vec![cached]));
    assert_eq!(store.end_lease_of(both, alice).unwrap(), GivenUp::Gone(vec![both]));
    store.sync_removals().unwrap();
    assert!(stored(dir.path()).is_empty());
    assert_eq!(store.list_page(&List::default(), alice, 0).entries, []);
}
