//! The metrics of the store.

use super::source::AdminSource;
use super::text::{Exposition, MetricKind};
use stoq::seed::{DamageOutcome, DamageState, Store, StoreBound};

pub(super) fn store(source: &AdminSource, out: &mut Exposition) {
    let Some(store) = &source.store else { return };
    let census = store.census();
    let mut gauge = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Gauge, help, value);
    let writable = u64::from(source.writable().is_ok());
    gauge("stoq_store_writable", "1 while the store can be written.", writable);
    let help = "Bytes of disk that the store's files take, and those taken for running writes.";
    gauge("stoq_store_usage_bytes", help, census.usage_bytes);
    if let Some(capacity) = store.capacity_bytes() {
        gauge("stoq_store_capacity_bytes", "The largest allowed usage.", capacity);
    }
    gauge("stoq_store_entries", "Payloads and sets in the store.", census.entries);
    gauge("stoq_store_database_bytes", "Bytes of the store's database, store.redb.", store.database_bytes());
    gauge("stoq_store_unfinished", "Payloads and blobs that are being written.", census.unfinished);
    gauge("stoq_store_leases", "Leases that end; an entry has one for each owner.", census.leases);
    gauge("stoq_store_cached_entries", "Entries that are only cached.", census.cached);
    gauge("stoq_store_cached_bytes", "Bytes of entries that are only cached.", census.cached_bytes);
    let clock = store.clock_state();
    gauge(
        "stoq_store_clock_believed",
        "1 while leases end by the clock; 0 after it jumped.",
        clock.believed.into(),
    );
    let damage = store.damage();
    let help = "Files in the store's directory `damaged`, for an operator to inspect and remove.";
    gauge("stoq_store_damaged_files", help, damage.files_set_aside);
    counts(store, &damage, out);
    scrub(store, &damage, out);
    read_files(store, out);
    reads(store, out);
    writes(store, out);
    memory(source, out);
}

fn counts(store: &Store, damage: &DamageState, out: &mut Exposition) {
    let clock = store.clock_state();
    let mut counter = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Counter, help, value);
    counter(
        "stoq_store_clock_jumps_total",
        "Times that the clock jumped, at the start or later.",
        clock.jumps,
    );
    counter(
        "stoq_store_leases_ended_total",
        "Payloads and sets removed because their leases had expired.",
        store.ended(),
    );
    let help = "Requests refused by the store, by the bound that they passed.";
    out.family("stoq_store_refused_total", MetricKind::Counter, help);
    for bound in StoreBound::ALL {
        out.sample(&[("bound", &bound.name())], store.refused(bound));
    }
    let help = "Damage found in the store, by outcome.";
    out.family("stoq_store_damage_total", MetricKind::Counter, help);
    for outcome in DamageOutcome::ALL {
        out.sample(&[("outcome", &outcome.name())], damage.count(outcome));
    }
    let checks = store.checks();
    out.family(
        "stoq_store_checks_total",
        MetricKind::Counter,
        "Checks of payloads and sets against their tokens, by result.",
    );
    for (result, value) in [
        ("whole", checks.whole),
        ("damaged", checks.damaged),
        ("unreadable", checks.unreadable),
        ("skipped", checks.skipped),
    ] {
        out.sample(&[("result", &result)], value);
    }
    out.single(
        "stoq_store_checked_bytes_total",
        MetricKind::Counter,
        "Bytes read by these checks.",
        checks.bytes,
    );
}

fn scrub(store: &Store, damage: &DamageState, out: &mut Exposition) {
    let state = store.scrub_state();
    let help = "Payloads and sets that are not held because of damage, though a lease of them is not over.";
    out.single("stoq_store_lost", MetricKind::Gauge, help, damage.lost);
    let help =
        "The part of the store that the running pass of the scrub has behind it, 0 to 1; 0 while none runs.";
    out.single("stoq_store_scrub_done", MetricKind::Gauge, help, state.done);
    let help = "How far the scrub is behind its plan, seconds.";
    out.single("stoq_store_scrub_behind_seconds", MetricKind::Gauge, help, state.behind_s);
    let help = "When the last pass of the scrub ended, seconds since the Unix epoch; 0: none has ended yet.";
    let ended_s = state.last.map_or(0, |last| last.ended_s);
    out.single("stoq_store_scrub_ended_seconds", MetricKind::Gauge, help, ended_s);
    let help = "Damaged payloads and sets that the last pass of the scrub found.";
    out.single(
        "stoq_store_scrub_damaged",
        MetricKind::Gauge,
        help,
        state.last.map_or(0, |last| last.tally.damaged),
    );
    let mut counter = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Counter, help, value);
    counter(
        "stoq_store_scrubbed_total",
        "Payloads and sets that the scrub has compared with their tokens.",
        state.checked,
    );
    counter("stoq_store_scrubbed_bytes_total", "Bytes that the scrub has read.", state.bytes);
    let help = "Seconds in which the scrub stood back for reads of requests.";
    counter("stoq_store_scrub_waits_total", help, state.waits);
    let help =
        "Pieces that the scrub read while a request waited for a read: only a pass past its time does so.";
    counter("stoq_store_scrub_reads_beside_total", help, state.reads_beside);
}

fn read_files(store: &Store, out: &mut Exposition) {
    let help = "Files that readers of payloads have open.";
    out.single("stoq_store_files_open", MetricKind::Gauge, help, store.files_open());
    let help = "Files that were opened again for a reader: they had been closed for other readers.";
    out.single("stoq_store_files_reopened_total", MetricKind::Counter, help, store.files_reopened());
}

fn reads(store: &Store, out: &mut Exposition) {
    let reads = store.reads();
    let help = "Blocks of payloads that are being read for answers, or wait for it.";
    out.single("stoq_store_reads_in_flight", MetricKind::Gauge, help, reads.in_flight);
    let help = "Blocks read for answers, by where they were read: from the page cache, past it, through it, or not at all.";
    out.family("stoq_store_reads_total", MetricKind::Counter, help);
    let results = [
        ("cached", reads.cached),
        ("direct", reads.direct),
        ("buffered", reads.buffered),
        ("failed", reads.failed),
    ];
    for (result, value) in results {
        out.sample(&[("result", &result)], value);
    }
}

fn writes(store: &Store, out: &mut Exposition) {
    let writes = store.writes();
    let help = "Writes of long payloads past the page cache that are on their way, or wait for it.";
    out.single("stoq_store_direct_writes_in_flight", MetricKind::Gauge, help, writes.in_flight);
    let help = "Writes of long payloads past the page cache, by what became of them.";
    out.family("stoq_store_direct_writes_total", MetricKind::Counter, help);
    for (result, value) in [("written", writes.written), ("failed", writes.failed)] {
        out.sample(&[("result", &result)], value);
    }
}

fn memory(source: &AdminSource, out: &mut Exposition) {
    let Some(stats) = source.memory() else { return };
    let mut gauge = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Gauge, help, value);
    gauge("stoq_store_memory_bytes", "Payload bytes held in memory.", stats.held_bytes);
    let help = "Memory that answers hold a part of; at most half is lent, and further reads are copied.";
    gauge("stoq_store_memory_lent_bytes", help, stats.lent_bytes);
    gauge("stoq_store_memory_coming", "Blocks that are being read into memory.", stats.coming);
    out.family(
        "stoq_store_memory_reads_total",
        MetricKind::Counter,
        "Reads of payloads, by whether memory had them.",
    );
    for (result, value) in [("hit", stats.hits), ("miss", stats.misses)] {
        out.sample(&[("result", &result)], value);
    }
    let help = "Blocks of payloads read before a request needed them: all, those then needed, and those that went unread.";
    out.family("stoq_store_read_ahead_total", MetricKind::Counter, help);
    let ahead = [("asked", stats.ahead), ("hit", stats.ahead_hits), ("wasted", stats.ahead_wasted)];
    for (result, value) in ahead {
        out.sample(&[("result", &result)], value);
    }
}
