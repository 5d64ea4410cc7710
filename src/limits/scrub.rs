//! Bounds of the scrub of a store, and of the repair of what it finds.

/// Bytes that the scrub reads before it looks again whether a request waits for a read.
pub const SCRUB_TURN_BYTES: usize = 1 << 20;
/// The rate of the scrub, bytes a second, unless another is configured.
pub const SCRUB_BYTES_PER_S: u64 = 64 << 20;
/// The lowest rate that may be configured, bytes a second: a terabyte in eleven days.
pub const SCRUB_BYTES_PER_S_MIN: u64 = 1 << 20;
/// The highest: no disk is faster, bytes a second.
pub const SCRUB_BYTES_PER_S_MAX: u64 = 1 << 40;
/// The time within which the scrub reads everything, unless another is configured, seconds.
pub const SCRUB_S: u64 = 30 * 86_400;
/// The longest that may be configured, seconds.
pub const SCRUB_S_MAX: u64 = 3650 * 86_400;
/// What a payload counts for in this rate beside its bytes: a disk must look for each.
pub const SCRUB_ENTRY_BYTES: u64 = 64 << 10;
/// What a row of the database counts for in this rate: a search for its key, besides its bytes.
pub const SCRUB_ROW_BYTES: usize = 2 << 10;
/// Rows of the database that are looked at in one piece.
pub const ROWS_WALK_LEN: usize = 256;
/// How long the scrub waits before it looks again whether a request waits for a read, milliseconds.
pub const SCRUB_WAIT_MS: u64 = 5;
/// Between two notes of the scrub's place in the store, seconds.
pub const SCRUB_NOTE_S: u64 = 60;
/// Lost payloads and sets that are fetched from other holders at once.
pub const REPAIRS_LEN_MAX: usize = 4;
/// Between two rounds through all that is lost, seconds.
pub const REPAIR_INTERVAL_S: u64 = 60;
/// Tokens remembered as told of in the log because they could not be fetched; past it, all are told of anew.
pub const LOST_TOLD_LEN_MAX: usize = 4096;
