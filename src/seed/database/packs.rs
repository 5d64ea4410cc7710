//! Packs: rows of the database that have the bytes of many short payloads each. A row of a few KiB by itself would take pages of twice its size, and
//! each of its pages one write.
//!
//! ```text
//! packs   number of the first payload: count, then a number and an end for each, a check of these, and the bytes one behind the other
//! holes   number of a pack's first payload, number of a payload in it: that payload was removed
//! ```
//!
//! The numbers of a pack lie between its first and the next pack's, so a number alone leads to its bytes. A removal writes a hole, and the pack anew
//! only when less than half of its bytes are left. Versions before packs kept each payload in a row of the table `bytes`: these stay until they are removed.

use super::checked::{CHECK_BYTES, check};
use super::guard::damaged_page;
use super::table::{Changes, StoreTable, definition};
use crate::limits::{PACK_BYTES_MAX, PACK_ROWS_LEN_MAX};
use crate::seed::blocks::row_bytes;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction,
};
use std::collections::{BTreeMap, BTreeSet};

type Bytes = &'static [u8];

/// The names of the tables.
pub(super) const NAMES: [&str; 2] = ["packs", "holes"];
const PACKS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new(NAMES[0]);
const HOLES: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new(NAMES[1]);
const COUNT_BYTES: usize = 4;
/// What a payload has in the head: its number, and where its bytes end behind the head.
const ENTRY_BYTES: usize = 12;

type Entry = [u8; ENTRY_BYTES];
/// The number of a payload, and its bytes.
type Packed<'b> = (u64, &'b [u8]);

fn number_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn entry_number(entry: &Entry) -> u64 {
    entry.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

fn entry_end(entry: &Entry) -> usize {
    entry.last_chunk().copied().map_or(0, u32::from_be_bytes) as usize
}

fn hole_key(first: &[u8], number: u64) -> Vec<u8> {
    [first, &number.to_be_bytes()].concat()
}

/// A pack whose head is what was written.
#[derive(Clone, Copy)]
struct Pack<'p> {
    entries: &'p [Entry],
    bytes: &'p [u8],
}

impl<'p> Pack<'p> {
    fn parse(key: &[u8], value: &'p [u8]) -> Option<Self> {
        let (count, rest) = value.split_first_chunk::<COUNT_BYTES>()?;
        let entries_bytes = (u32::from_be_bytes(*count) as usize).checked_mul(ENTRY_BYTES)?;
        let (entries, rest) = rest.split_at_checked(entries_bytes)?;
        let (found, bytes) = rest.split_first_chunk::<CHECK_BYTES>()?;
        let head = value.get(..COUNT_BYTES + entries_bytes)?;
        let is_whole = check(StoreTable::Bytes, key, head) == *found;
        is_whole.then_some(Self { entries: entries.as_chunks().0, bytes })
    }

    fn payload(self, at: usize) -> Option<Packed<'p>> {
        let start = at.checked_sub(1).map_or(Some(0), |before| self.entries.get(before).map(entry_end))?;
        let entry = self.entries.get(at)?;
        Some((entry_number(entry), self.bytes.get(start..entry_end(entry))?))
    }

    fn find(self, number: u64) -> Option<&'p [u8]> {
        let at = self.entries.binary_search_by_key(&number, entry_number).ok()?;
        self.payload(at).map(|(_, bytes)| bytes)
    }

    fn payloads(self) -> impl Iterator<Item = Packed<'p>> {
        (0..self.entries.len()).filter_map(move |at| self.payload(at))
    }

    fn last(self) -> Option<u64> {
        self.entries.last().map(entry_number)
    }
}

/// The length of a pack with these payloads.
fn pack_bytes(payloads: &[Packed<'_>]) -> usize {
    let bytes: usize = payloads.iter().map(|(_, bytes)| ENTRY_BYTES + bytes.len()).sum();
    COUNT_BYTES + CHECK_BYTES + bytes
}

fn emit(key: &[u8], payloads: &[Packed<'_>]) -> Vec<u8> {
    let mut pack = Vec::with_capacity(pack_bytes(payloads));
    pack.extend_from_slice(&(payloads.len() as u32).to_be_bytes());
    let mut end = 0;
    for (number, bytes) in payloads {
        end += bytes.len();
        pack.extend_from_slice(&number.to_be_bytes());
        pack.extend_from_slice(&(end as u32).to_be_bytes());
    }
    pack.extend_from_slice(&check(StoreTable::Bytes, key, &pack));
    payloads.iter().for_each(|(_, bytes)| pack.extend_from_slice(bytes));
    pack
}

/// Whether one pack takes no more pages than its payloads would in packs of their own.
fn is_worth(payloads: &[Packed<'_>]) -> bool {
    // What any pack has is in the size of a row.
    let own = COUNT_BYTES + CHECK_BYTES + ENTRY_BYTES;
    let together = row_bytes(pack_bytes(payloads).saturating_sub(own) as u64);
    together <= payloads.iter().map(|(_, bytes)| row_bytes(bytes.len() as u64)).sum()
}

/// The packs at one commit, to be read.
pub(super) struct Packs {
    packs: ReadOnlyTable<Bytes, Bytes>,
    holes: ReadOnlyTable<Bytes, Bytes>,
}

impl Packs {
    pub(super) fn of(reading: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self { packs: reading.open_table(PACKS)?, holes: reading.open_table(HOLES)? })
    }

    /// Calls `read` with the bytes of the payload with this number; `None` if no pack has them.
    ///
    /// # Errors
    /// The disk's, and damage of the pack's head.
    pub(super) fn read<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, redb::Error> {
        let Some(number) = number_of(key) else { return Ok(None) };
        let Some(found) = self.packs.range(..=key)?.next_back().transpose()? else { return Ok(None) };
        let (first, value) = (found.0.value(), found.1.value());
        let Some(pack) = Pack::parse(first, value) else { return damaged_page() };
        match pack.find(number) {
            Some(bytes) if self.holes.get(hole_key(first, number).as_slice())?.is_none() => {
                Ok(Some(read(bytes)))
            }
            _ => Ok(None),
        }
    }
}

/// Whether a row of a table with this name is what was written, as far as it tells.
pub(super) fn is_sound(name: &str, key: &[u8], value: &[u8]) -> bool {
    name != PACKS.name() || Pack::parse(key, value).is_some()
}

/// Makes the tables of packs, if they are missing.
pub(super) fn make(writing: &WriteTransaction) -> Result<(), redb::Error> {
    writing.open_table(PACKS)?;
    writing.open_table(HOLES)?;
    Ok(())
}

/// Writes the changes of payloads' bytes, the older ones first.
pub(super) fn write(writing: &WriteTransaction, changes: &[&Changes]) -> Result<(), redb::Error> {
    let mut newest = BTreeMap::new();
    for (key, value) in changes.iter().flat_map(|changes| changes.of(StoreTable::Bytes)) {
        if let Some(number) = number_of(key) {
            newest.insert(number, value.as_deref());
        }
    }
    if newest.is_empty() {
        return Ok(());
    }
    let mut alone = writing.open_table(definition(StoreTable::Bytes))?;
    let last_alone = alone.last()?.and_then(|(key, _)| number_of(key.value()));
    for (number, _) in last_alone.iter().flat_map(|last| newest.range(..=last)) {
        alone.remove(&number.to_be_bytes()[..])?;
    }
    let changed: Vec<_> = newest.into_iter().collect();
    let mut writer = PackWriter { packs: writing.open_table(PACKS)?, holes: writing.open_table(HOLES)? };
    let mut rest = &changed[..];
    while let Some((number, _)) = rest.first() {
        let found = writer.around(*number)?;
        let end = match &found {
            Some(found) => rest.partition_point(|(number, _)| *number <= found.last),
            None => {
                let next = writer.next(*number)?;
                rest.partition_point(|(number, _)| next.is_none_or(|next| *number < next)).max(1)
            }
        };
        let (now, later) = rest.split_at(end);
        match found {
            Some(found) => writer.change(&found, now)?,
            None => {
                // What is to be removed is in no pack.
                let new: Vec<_> =
                    now.iter().filter_map(|(number, bytes)| Some((*number, (*bytes)?))).collect();
                writer.append(&new)?;
            }
        }
        rest = later;
    }
    Ok(())
}

/// A pack that is there.
struct Found {
    first: Vec<u8>,
    last: u64,
    pack: Vec<u8>,
}

struct PackWriter<'t> {
    packs: Table<'t, Bytes, Bytes>,
    holes: Table<'t, Bytes, Bytes>,
}

impl PackWriter<'_> {
    /// The pack between whose first and last payload this number lies. One with a damaged head has none.
    fn around(&self, number: u64) -> Result<Option<Found>, redb::Error> {
        let key = number.to_be_bytes();
        let Some(found) = self.packs.range(..=&key[..])?.next_back().transpose()? else { return Ok(None) };
        let (first, value) = (found.0.value(), found.1.value());
        let last = Pack::parse(first, value).and_then(Pack::last);
        let found = |last| Found { first: first.to_vec(), last, pack: value.to_vec() };
        Ok(last.filter(|last| *last >= number).map(found))
    }

    /// The first number of the first pack behind this number.
    fn next(&self, number: u64) -> Result<Option<u64>, redb::Error> {
        let Some(from) = number.checked_add(1) else { return Ok(None) };
        let next = self.packs.range(&from.to_be_bytes()[..]..)?.next().transpose()?;
        Ok(next.and_then(|(first, _)| number_of(first.value())))
    }

    /// Changes payloads within a pack.
    fn change(&mut self, found: &Found, changed: &[(u64, Option<&[u8]>)]) -> Result<(), redb::Error> {
        let Some(pack) = Pack::parse(&found.first, &found.pack) else { return Ok(()) };
        let holes = self.holes(&found.first)?;
        let mut payloads: BTreeMap<_, _> =
            pack.payloads().filter(|(number, _)| !holes.contains(number)).collect();
        let mut removed = Vec::new();
        let mut is_new = false;
        for (number, bytes) in changed {
            match bytes {
                Some(bytes) => {
                    payloads.insert(*number, bytes);
                    is_new = true;
                }
                None => removed.extend(payloads.remove(number).map(|_| *number)),
            }
        }
        let left: usize = payloads.values().map(|bytes| bytes.len()).sum();
        if !is_new && 2 * left > pack.bytes.len() {
            for number in removed {
                self.holes.insert(hole_key(&found.first, number).as_slice(), &[][..])?;
            }
            return Ok(());
        }
        self.packs.remove(&found.first[..])?;
        for number in holes {
            self.holes.remove(hole_key(&found.first, number).as_slice())?;
        }
        self.append(&payloads.into_iter().collect::<Vec<_>>())
    }

    /// The payloads that were removed from a pack.
    fn holes(&self, first: &[u8]) -> Result<BTreeSet<u64>, redb::Error> {
        let [from, to] = [0, u64::MAX].map(|number| hole_key(first, number));
        let mut holes = BTreeSet::new();
        for hole in self.holes.range(from.as_slice()..=to.as_slice())? {
            holes.extend(hole?.0.value().get(first.len()..).and_then(number_of));
        }
        Ok(holes)
    }

    /// Writes payloads whose numbers no pack lies between.
    fn append(&mut self, payloads: &[Packed<'_>]) -> Result<(), redb::Error> {
        let mut rest = payloads;
        while !rest.is_empty() {
            let mut bytes = COUNT_BYTES + CHECK_BYTES;
            let fits = rest.iter().take(PACK_ROWS_LEN_MAX).take_while(|(_, payload)| {
                bytes += ENTRY_BYTES + payload.len();
                bytes <= PACK_BYTES_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            self.put(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes a pack, or several if they take fewer pages.
    fn put(&mut self, payloads: &[Packed<'_>]) -> Result<(), redb::Error> {
        if payloads.len() > 1 && !is_worth(payloads) {
            let (first, second) = payloads.split_at(payloads.len() / 2);
            self.put(first)?;
            return self.put(second);
        }
        if let Some((first, _)) = payloads.first() {
            let key = first.to_be_bytes();
            self.packs.insert(&key[..], emit(&key, payloads).as_slice())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, ReadableTableMetadata};

    type Model = BTreeMap<u64, Vec<u8>>;

    fn database(alone: &Model) -> Database {
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let writing = database.begin_write().unwrap();
        make(&writing).unwrap();
        let mut rows = writing.open_table(definition(StoreTable::Bytes)).unwrap();
        for (number, bytes) in alone {
            rows.insert(&number.to_be_bytes()[..], bytes.as_slice()).unwrap();
        }
        drop(rows);
        writing.commit().unwrap();
        database
    }

    fn write_all(database: &Database, changes: &[&Changes]) {
        let writing = database.begin_write().unwrap();
        write(&writing, changes).unwrap();
        writing.commit().unwrap();
    }

    fn changes(of: impl IntoIterator<Item = (u64, Option<Vec<u8>>)>) -> Changes {
        let mut changes = Changes::default();
        let rows = of.into_iter().map(|(number, bytes)| (number.to_be_bytes().to_vec(), bytes));
        changes.0[StoreTable::Bytes as usize].extend(rows);
        changes
    }

    fn read(database: &Database, number: u64) -> Option<Vec<u8>> {
        let reading = database.begin_read().unwrap();
        let key = number.to_be_bytes();
        let alone = reading.open_table(definition(StoreTable::Bytes)).unwrap();
        let of_pack = Packs::of(&reading).unwrap().read(&key, <[u8]>::to_vec).unwrap();
        of_pack.or_else(|| Some(alone.get(&key[..]).unwrap()?.value().to_vec()))
    }

    /// Each pack with the numbers in it, and how many bytes of it are left.
    fn packs(database: &Database) -> Vec<(Vec<u64>, usize, usize)> {
        let reading = database.begin_read().unwrap();
        let Packs { packs, holes } = Packs::of(&reading).unwrap();
        let mut found = Vec::new();
        let mut holes_len = 0;
        for row in packs.iter().unwrap() {
            let (first, value) = row.unwrap();
            let pack = Pack::parse(first.value(), value.value()).unwrap();
            assert!(value.value().len() <= PACK_BYTES_MAX && pack.entries.len() <= PACK_ROWS_LEN_MAX);
            assert!(is_worth(&pack.payloads().collect::<Vec<_>>()) || pack.entries.len() == 1);
            let is_hole = |number| holes.get(hole_key(first.value(), number).as_slice()).unwrap().is_some();
            let left = pack.payloads().filter(|(number, _)| !is_hole(*number));
            let left = left.map(|(_, bytes)| bytes.len()).sum();
            holes_len += pack.payloads().filter(|(number, _)| is_hole(*number)).count() as u64;
            found.push((pack.payloads().map(|(number, _)| number).collect(), left, pack.bytes.len()));
        }
        assert_eq!(holes.len().unwrap(), holes_len, "each hole is of a payload in a pack");
        found
    }

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        let len = prop_oneof![0..50usize, Just(4032), Just(4096), 5000..=16_384usize];
        let bytes = (any::<u8>(), len).prop_map(|(byte, len)| vec![byte; len]);
        prop_oneof![2 => bytes.prop_map(Some), 1 => Just(None)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_written_and_not_removed_is_read_whatever_the_order(
            alone in proptest::collection::btree_map(0..30u64, bytes(), 0..10),
            commits in proptest::collection::vec(proptest::collection::btree_map(0..120u64, bytes(), 0..60), 1..8),
        ) {
            let mut model: Model = alone.into_iter().filter_map(|(number, bytes)| Some((number, bytes?))).collect();
            let database = database(&model);
            for pair in commits.chunks(2) {
                let layers: Vec<_> = pair.iter().cloned().map(changes).collect();
                write_all(&database, &layers.iter().collect::<Vec<_>>());
                for (number, bytes) in pair.iter().flatten() {
                    match bytes {
                        Some(bytes) => drop(model.insert(*number, bytes.clone())),
                        None => drop(model.remove(number)),
                    }
                }
                for number in 0..120 {
                    prop_assert_eq!(read(&database, number), model.get(&number).cloned(), "{}", number);
                }
                let mut last = None;
                for (numbers, left, of) in packs(&database) {
                    prop_assert!(2 * left > of || left == of, "{} of {} bytes are left", left, of);
                    for number in numbers {
                        prop_assert!(last.replace(number).is_none_or(|last| last < number));
                    }
                }
            }
        }
    }

    #[test]
    fn fifteen_payloads_of_4_kib_share_64_kib_and_half_of_them_may_go_before_the_pack_is_written_anew() {
        let database = database(&Model::new());
        let payload = |number: u64| (number, Some(vec![number as u8; 4096]));
        write_all(&database, &[&changes((0..45).map(payload))]);
        let all: Vec<_> = packs(&database).into_iter().map(|(numbers, ..)| numbers).collect();
        assert_eq!(all, [0..15, 15..30, 30..45].map(Vec::from_iter));
        write_all(&database, &[&changes((15..22).map(|number| (number, None)))]);
        assert_eq!(packs(&database)[1], ((15..30).collect(), 8 * 4096, 15 * 4096));
        write_all(&database, &[&changes([(22, None)])]);
        assert_eq!(packs(&database)[1], ((23..30).collect(), 7 * 4096, 7 * 4096));
        write_all(&database, &[&changes((0..45).map(|number| (number, None)))]);
        assert_eq!(packs(&database), []);
    }

    #[test]
    fn a_bit_that_turned_over_in_a_packs_head_is_found_and_keeps_no_other_payload_from_being_written() {
        let database = database(&Model::new());
        write_all(&database, &[&changes((0..3).map(|number| (number, Some(vec![7; 100]))))]);
        let key = 0u64.to_be_bytes();
        let reading = database.begin_read().unwrap();
        let whole = Packs::of(&reading).unwrap().packs.get(&key[..]).unwrap().unwrap().value().to_vec();
        for bit in 0..(COUNT_BYTES + 3 * ENTRY_BYTES + CHECK_BYTES) * 8 {
            let mut rotten = whole.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            let writing = database.begin_write().unwrap();
            writing.open_table(PACKS).unwrap().insert(&key[..], rotten.as_slice()).unwrap();
            writing.commit().unwrap();
            let packs = Packs::of(&database.begin_read().unwrap()).unwrap();
            let error = packs.read(&1u64.to_be_bytes(), |_| ()).unwrap_err();
            assert!(matches!(error, redb::Error::Corrupted(_)), "{bit}: {error}");
            let next = 10 + bit as u64;
            write_all(&database, &[&changes([(1, None), (next, Some(vec![9; 5000]))])]);
            assert_eq!(read(&database, next), Some(vec![9; 5000]));
        }
    }
}
