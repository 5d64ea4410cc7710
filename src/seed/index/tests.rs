//! What the index counts, and in which order it gives.

use super::*;
use crate::limits::LIST_LOOKS_LEN_MAX;
use crate::record::{LeaseHolder, LeaseScope, List};
use crate::seed::disk::{MachineDisk, StoreDisk};
use crate::seed::holdings::Census;
use crate::seed::store::Store;
use std::sync::Arc;

const PAYLOAD: EntryBody = EntryBody::Payload { length: 7, place: PayloadPlace::Files };

fn index() -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows::open(dir.path(), &StoreDisk::new(Arc::new(MachineDisk)), true).unwrap();
    let index = Index::new(StoreConfig::default(), Blocks::default(), rows, BTreeMap::new());
    (dir, index)
}

#[test]
fn changes_older_than_the_journal_are_forgotten() {
    let (_dir, mut index) = index();
    let token = AnyToken::from(Token::of(b"payload"));
    index.insert(token, Lease::until(Some(1), None), 7, PAYLOAD);
    let start = index.sequence();
    for second in 0..STORE_CHANGES_LEN_MAX as u64 {
        index.set_lease(&token, Lease::until(Some(2 + second), None));
    }
    let changes = index.changes_after(start);
    assert_eq!((changes.complete, changes.changes.len()), (true, 1));
    index.set_lease(&token, Lease::default());
    assert!(!index.changes_after(start).complete);
    assert!(index.changes_after(start + 1).complete);
    assert_eq!((index.accounts().usage_bytes(), index.evictable_bytes(u64::MAX)), (7, 0));
}

#[test]
fn each_account_has_a_lease_and_an_entry_goes_with_the_last() {
    let (_dir, mut index) = index();
    let token = AnyToken::from(Token::of(b"payload"));
    let [a, b] = [1, 2].map(|node| NodeId([node; 32]));
    let body = PAYLOAD;
    index.insert(token, Lease::cached(None), 7, body);
    assert_eq!((index.census().cached, index.census().leases), (1, 0));
    index.insert(token, Lease::until(Some(10), Some(a)), 7, body);
    index.insert(token, Lease::until(Some(20), Some(b)), 7, body);
    index.set_lease(&token, Lease::cached(Some(5)));
    assert_eq!((index.census().cached, index.census().leases), (0, 2));
    assert_eq!((index.owned_bytes(&a), index.owned_bytes(&b), index.accounts().usage_bytes()), (7, 7, 7));
    assert_eq!(index.get(&token).unwrap().lease, Lease::until(Some(20), Some(b)));
    assert_eq!(
        (index.first_expired(15, None), index.first_expired(15, Some(StoreAccount::Node(a)))),
        (None, Some(token))
    );
    assert_eq!(index.evictable_bytes(15), 0);
    assert!(index.end_leases(&token, 15));
    assert_eq!((index.owned_bytes(&a), index.owned_bytes(&b)), (0, 7));
    assert_eq!(index.leases(&token), [Lease::until(Some(20), Some(b))]);
    assert_eq!((index.evictable_bytes(20), index.end_leases(&token, 20)), (7, false));
    index.shift(0, 5);
    assert_eq!((index.evictable_bytes(20), index.get(&token).unwrap().lease.expires_s), (0, Some(25)));
    index.remove(&token);
    assert_eq!(
        (index.accounts().usage_bytes(), index.owned_bytes(&b), index.census()),
        (0, 0, Census::default())
    );
}

#[test]
fn cached_entries_go_by_their_use_and_pages_come_in_its_order() {
    let (_dir, mut index) = index();
    let tokens = [b"a", b"b", b"c", b"d"].map(|bytes| AnyToken::from(Token::of(bytes)));
    for token in &tokens[..3] {
        index.insert(*token, Lease::cached(None), 7, PAYLOAD);
    }
    index.insert(tokens[3], Lease::default(), 7, PAYLOAD);
    index.touch(&tokens[0]);
    assert_eq!(index.first_cached(), Some(tokens[1]));
    index.remove(&tokens[1]);
    assert_eq!(index.first_cached(), Some(tokens[2]));
    index.remove(&tokens[2]);
    assert_eq!(index.first_cached(), Some(tokens[0]));
    let all = index.latest_before(u64::MAX, 9);
    assert_eq!(all.iter().map(|(_, token)| *token).collect::<Vec<_>>(), [tokens[0], tokens[3]]);
    assert_eq!(index.latest_before(all[0].0, 9), all[1..]);
    let mut paged = Vec::new();
    while let [(holding, _)] = index.holdings_after(paged.last(), 1)[..] {
        paged.push(holding.token);
    }
    paged.sort_unstable();
    let mut held = [tokens[0], tokens[3]];
    held.sort_unstable();
    assert_eq!(paged, held);
}

#[test]
fn a_list_by_owner_looks_at_no_entry_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let [alice, bob] = [1, 2].map(|node| NodeId([node; 32]));
    let token = |number: usize| AnyToken::from(Token::of(&number.to_be_bytes()));
    {
        let mut index = store.inner.index();
        for number in 0..LIST_LOOKS_LEN_MAX + 100 {
            let owner = if number % 4000 == 3999 { bob } else { alice };
            index.insert(token(number), Lease::until(None, Some(owner)), 7, PAYLOAD);
        }
        index.insert(token(1), Lease::until(Some(5), Some(bob)), 7, PAYLOAD);
    }
    let holder = Some(LeaseHolder::Node(bob));
    let list = List { scope: LeaseScope::All, holder, ..List::default() };
    for own in [false, true] {
        let list = if own { List { holder: None, scope: LeaseScope::Own, ..list } } else { list };
        let page = store.list_page(&list, LeaseHolder::Node(bob), 0);
        let mut expected: Vec<_> = [1, 3999, 7999, 11_999, 15_999].map(token).into();
        expected.sort();
        assert_eq!(page.entries.iter().map(|entry| entry.token).collect::<Vec<_>>(), expected);
        assert_eq!(page.next, None, "one page has looked at all of them");
    }
}
