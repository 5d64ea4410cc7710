//! The bounds of a store, and of PUTs into it.

/// The blocks in which a store accounts for its files, bytes: those of its disk, and at least this many.
pub const STORE_BLOCK_BYTES_MIN: u64 = 4096;
/// At most this many: a network file system reports its transfer size as a block.
pub const STORE_BLOCK_BYTES_MAX: u64 = 64 * 1024;
/// What a file of a store takes besides its blocks, bytes: an inode and a name, on most disks.
pub const STORE_FILE_BYTES: u64 = 512;
/// Payloads and sets that a store holds where its configuration names no bound, and their leases.
pub const STORE_ENTRIES_LEN: u64 = 1 << 20;
/// The same, of those that are kept for one node.
pub const NODE_ENTRIES_LEN: u64 = 1 << 18;
/// The most that a configuration may name for either.
pub const STORE_ENTRIES_LEN_MAX: u64 = 1 << 32;
/// Files that the readers of a store have open: payloads and blobs that are answered, mirrored or read by a program, and their outboards. The
/// least recently read one is closed for another.
pub const READ_FILES_LEN_MAX: u64 = 512;
/// Files that a store may have open: those that are read, and two for each unfinished payload.
pub const STORE_FILES_LEN_MAX: u64 = READ_FILES_LEN_MAX + 2 * UNFINISHED_LEN_MAX;
/// Payloads and blobs that one node may have unfinished in a store: each has two open files once its first bytes are proven.
pub const NODE_UNFINISHED_LEN_MAX: u64 = 256;
/// The same, all nodes together.
pub const UNFINISHED_LEN_MAX: u64 = 2048;
/// The unfinished PUTs of one node together take at most this part of a store's capacity. A single one may take all of it.
pub const UNFINISHED_SHARE_DIVISOR_LEN: u64 = 2;
/// A look at what the disk has free is made anew once less than this is left of it, bytes: other programs write within the second for which a
/// look counts.
pub const DISK_ROOM_BYTES_MIN: u64 = 1 << 30;
/// Room in a store is taken in such steps as the bytes of a PUT are proven, bytes.
pub const ROOM_STEP_BYTES: u64 = 4 << 20;
/// A file of at least this length takes blocks of the disk in such steps ahead of the bytes that are written, bytes: those of the room that it
/// has taken.
pub const ALLOCATION_STEP_BYTES: u64 = ROOM_STEP_BYTES;
/// A payload of at least this length is written past the page cache, bytes: a shorter one stays in it for GETs that soon follow.
pub const DIRECT_WRITE_BYTES_MIN: u64 = 16 << 20;
/// Pieces of such a payload that arrive together are written once they have as many bytes as this; fewer once none waits.
pub const DIRECT_RUN_BYTES: usize = 1 << 20;
/// Writes past the page cache that are on their way: more wait for one to end.
pub const WRITES_LEN_MAX: u16 = 64;
/// Reads and writes past the page cache begin at multiples of this, in the file and in memory, bytes.
pub const PAGE_BYTES: usize = 4096;
/// Steps of PUTs that the thread which writes takes before it wakes the application for their results.
pub const WRITE_STEPS_LEN: usize = 16;
/// Between two looks for PUTs that go no further, milliseconds.
pub const PUT_LOOK_MS: u64 = 3_000;
/// A connection none of whose PUTs goes further for this time loses them, milliseconds. Only looks count: a time in which a slow disk stops
/// the store is none.
pub const PUT_STALL_MS: u64 = 30_000;
/// A PUT that goes no further while others of its connection do is refused after this time, milliseconds: [`super::CLIENT_REQUESTS_LEN`] PUTs
/// that take turns of [`super::SEND_TURN_BYTES`] have theirs within it at 1.2 Mbit/s.
pub const PUT_TURN_MS_MAX: u64 = 3_600_000;
/// Quotas of nodes that a store remembers before it forgets those of nodes for which it keeps nothing.
pub const QUOTAS_LEN_MIN: usize = 1024;
/// Changes to a store's holdings that it remembers in order.
pub const STORE_CHANGES_LEN_MAX: usize = 4096;
/// Sets with bad descriptors that a store remembers.
pub const BAD_SETS_LEN_MAX: usize = 1024;
/// Pages of its database that a store keeps in memory, bytes.
pub const DATABASE_CACHE_BYTES: usize = 64 << 20;
/// Uses of cached payloads that a store remembers in memory. When there are more, it forgets them all: what was used since then goes last.
pub const TOUCHED_LEN_MAX: usize = 1 << 16;
/// Payloads up to this length are rows of a store's database, bytes: one group, which has no hash pairs and arrives as one piece.
pub const ROW_PAYLOAD_BYTES_MAX: u64 = super::GROUP_BYTES as u64;
/// Hash pairs of a payload up to this size are a row of the database, bytes: those of payloads up to 1 MiB, which fill a page.
pub const ROW_PAIRS_BYTES_MAX: u64 = DATABASE_PAGE_BYTES - STORE_ROW_BYTES;
/// The bytes of short payloads that one row of the database has together, bytes: it fills 64 KiB of pages, with fifteen payloads of 4 KiB.
pub const PACK_BYTES_MAX: usize = (64 << 10) - STORE_ROW_BYTES as usize;
/// Payloads in such a row: its head is read whole to find one.
pub const PACK_ROWS_LEN_MAX: usize = 256;
/// What such a row takes besides the payload or the pairs, bytes.
pub const STORE_ROW_BYTES: u64 = 64;
/// A page of the database; longer rows have twice as many until they fit, bytes.
pub const DATABASE_PAGE_BYTES: u64 = 4096;
/// What the other rows of an entry take in the database of a store, bytes.
pub const STORE_ROWS_BYTES: u64 = 1024;
/// Leases that are ended at one look, and payloads that are taken over or committed together.
pub const STORE_BATCH_LEN: usize = 1024;
/// Holdings that are read together to be announced.
pub const ANNOUNCE_PAGE_LEN: usize = 256;
/// Reads of a store that io_uring has on their way: more wait for one to end.
pub const READS_LEN_MAX: u16 = 128;
/// Threads that read for a store where io_uring is forbidden.
pub const READ_THREADS_LEN_MAX: usize = 8;
/// Threads of a store that look payloads up and open their files for requests.
pub const OPEN_THREADS_LEN_MAX: usize = 8;
/// Blocks that a request for a payload has read before it needs them.
pub const READ_AHEAD_LEN: u64 = 4;
/// Of those, the blocks that are asked for together: the thread that reads wakes once for them.
pub const READ_AHEAD_STEP_LEN: u64 = 2;
/// Blocks that are read ahead at a time for all requests together; no more than a quarter of the memory tier.
pub const READ_AHEAD_LEN_MAX: usize = 32;
/// Requests of one connection that wait for the disk at a time. Its further requests begin no read, but get what is in memory.
pub const CONNECTION_READS_LEN_MAX: usize = 16;
/// Reads on their way that found no room in the memory tier: each has memory of its own for as many bytes as a request is given in a turn.
pub const UNPOOLED_READS_LEN_MAX: usize = 32;
/// Entries of a store that one LIST looks at: a page ends there, also if few of them match.
pub const LIST_LOOKS_LEN_MAX: usize = 16 * 1024;
/// Entries that are read at a time for a list, with the index locked.
pub const LIST_BATCH_LEN: usize = 64;
/// Leases that a LIST shows of each entry; STAT shows [`super::LISTED_LEASES_LEN_MAX`].
pub const LIST_LEASES_LEN_MAX: usize = 8;
/// A page of a list takes no further entry behind this many bytes: with one more it still fits into a record.
pub const LIST_PAGE_BYTES: usize = 60 * 1024;
/// What a LIST counts among the requests about leases that wait; STAT, REMOVE and RENEW count 1.
pub const LIST_WEIGHT_LEN: usize = 16;
/// Requests about leases of one node that wait at a time.
pub const NODE_LEASE_REQUESTS_LEN_MAX: usize = 64;
/// The same, of all nodes of a worker.
pub const LEASE_REQUESTS_LEN_MAX: usize = 1024;
/// The batches of a store's journal after which the database takes them over, bytes: memory has their rows until then, and those of as many
/// that are put meanwhile.
pub const STORE_JOURNAL_BYTES_MAX: u64 = 16 << 20;
/// The same, rows: short ones take more memory than they have bytes, and a search steps over those that are removed.
pub const STORE_JOURNAL_ROWS_LEN_MAX: usize = 1 << 15;
/// A journal's file grows by this much at a time, bytes: a sync of it then writes no new length of the file.
pub const STORE_JOURNAL_STEP_BYTES: u64 = 1 << 20;
/// Batches of a journal begin at multiples of this, bytes: no write touches a block that a batch before has.
pub const JOURNAL_BLOCK_BYTES: u64 = 4096;
/// Rotten rows of its database that a store remembers: any further one is found again when it is read again.
pub const ROTTEN_ROWS_LEN_MAX: usize = 1024;
/// Rows of holdings that are read together when the other tables are made anew from them, and become durable together.
pub const REBUILD_BATCH_LEN: usize = 4096;
/// Rows of a damaged database that are copied together, bytes.
pub const SALVAGE_BATCH_BYTES: usize = 8 << 20;
/// A salvage reads twice the rows that a table says it has, and this number more, before it takes its pages for a ring.
pub const SALVAGE_SPARE_LEN: u64 = 1 << 16;
