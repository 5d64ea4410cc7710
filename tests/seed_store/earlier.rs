//! Stores as earlier versions left them: before the database, and with earlier layouts of it.

use redb::{ReadableTable, TableDefinition};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use stoq::limits::ROW_PAYLOAD_BYTES_MAX;
use stoq::seed::Store;
use stoq::shard::{Blob, Lanes};
use stoq::token::AnyToken;

/// Closes a store, and gives it the layout that versions before the database had.
pub(crate) fn downgrade(dir: &Path, store: Store) {
    store.sync_removals().unwrap();
    for holding in store.holdings().1 {
        let lease = store.lease(holding.token).unwrap();
        let mut meta = serde_json::to_value(lease).unwrap();
        match holding.token {
            AnyToken::Content(token) => {
                let held = store.get(&token).unwrap().unwrap();
                meta["length"] = held.length().into();
                if held.length() <= ROW_PAYLOAD_BYTES_MAX {
                    let mut bytes = vec![0; held.length() as usize];
                    held.read(0, &mut bytes).unwrap();
                    write(dir, "data", &token.hex(), "blob", &bytes);
                } else if let Some(pairs) = held.outboard().as_bytes() {
                    write(dir, "data", &token.hex(), "obao", pairs);
                }
                write(dir, "data", &token.hex(), "meta", meta.to_string().as_bytes());
            }
            AnyToken::Set(token) => {
                let held = store.get_set(&token).unwrap().unwrap();
                let data = Lanes::first(held.descriptor.k().into());
                let whole: BTreeSet<_> = store.list().into_iter().map(|(token, _)| token).collect();
                let is_own = |blob| held.blob(blob).is_some_and(|of| !whole.contains(&of.token()));
                let mut own = Lanes::NONE;
                if is_own(Blob::Content) {
                    own = own.union(held.lanes.intersection(data));
                }
                if is_own(Blob::Parity) {
                    own = own.union(held.lanes.without(data));
                }
                let mut set = Vec::new();
                own.emit(&mut set);
                held.descriptor.emit(&mut set);
                write(dir, "sets", &token.hex(), "set", &set);
                write(dir, "sets", &token.hex(), "meta", meta.to_string().as_bytes());
            }
        }
    }
    drop(store);
    forget(dir);
}

/// Removes what versions before the database did not have.
pub(crate) fn forget(dir: &Path) {
    let _ = fs::remove_dir_all(dir.join("lock"));
    for name in ["store.redb", "store.lock"] {
        let _ = fs::remove_file(dir.join(name));
    }
}

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Gives each payload of a pack a row of its own, as layouts before packs had it.
fn unpack(writing: &redb::WriteTransaction) {
    let mut bytes = writing.open_table(Rows::new("bytes")).unwrap();
    let holes = writing.open_table(Rows::new("holes")).unwrap();
    for row in writing.open_table(Rows::new("packs")).unwrap().iter().unwrap() {
        let (first, pack) = row.unwrap();
        let (count, rest) = pack.value().split_first_chunk().unwrap();
        let (head, rest) = rest.split_at(12 * u32::from_be_bytes(*count) as usize);
        let mut start = 0;
        for entry in head.chunks(12) {
            let (number, end) = entry.split_at(8);
            let end = u32::from_be_bytes(end.try_into().unwrap()) as usize;
            if holes.get(&[first.value(), number].concat()[..]).unwrap().is_none() {
                // Behind the check.
                bytes.insert(number, &rest[4..][start..end]).unwrap();
            }
            start = end;
        }
    }
    drop(holes);
    for name in ["packs", "holes"] {
        assert!(writing.delete_table(Rows::new(name)).unwrap());
    }
}

/// Gives the database of a store that is closed, or was killed, the rows that an earlier layout had.
pub(crate) fn to_layout(dir: &Path, layout: u32) {
    let database = redb::Database::open(dir.join("store.redb")).unwrap();
    let writing = database.begin_write().unwrap();
    unpack(&writing);
    if layout == 4 {
        let mut notes = writing.open_table(Rows::new("notes")).unwrap();
        notes.insert(&b"layout"[..], &layout.to_be_bytes()[..]).unwrap();
        drop(notes);
        return writing.commit().unwrap();
    }
    for name in ["holdings", "ends", "ages", "sets", "accounts", "gone", "notes"] {
        let mut table = writing.open_table(Rows::new(name)).unwrap();
        let rows = table
            .iter()
            .unwrap()
            .map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())));
        for (key, value) in rows.collect::<Result<Vec<_>, _>>().unwrap() {
            let value = if key == b"layout" { &layout.to_be_bytes()[..] } else { &value[..value.len() - 4] };
            table.insert(&key[..], value).unwrap();
        }
        if name == "notes" && layout < 3 {
            table.remove(&b"journal"[..]).unwrap();
        }
    }
    assert!(writing.delete_table(Rows::new("owners")).unwrap());
    if layout < 2 {
        assert!(writing.delete_table(Rows::new("bytes")).unwrap());
    }
    writing.commit().unwrap();
}

fn write(dir: &Path, directory: &str, hex: &str, kind: &str, bytes: &[u8]) {
    let below = dir.join(directory).join(&hex[..2]);
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join(format!("{hex}.{kind}")), bytes).unwrap();
}
