//! Bounds of the checks that workers give to verify threads.

use super::GROUP_BYTES;

/// Verify threads of a node.
pub const VERIFY_THREADS_LEN_MAX: usize = 64;
/// Pieces of one worker that verify threads have at once, and that one thread has of all workers.
pub const GROUP_CHECKS_LEN_MAX: usize = 64;
/// Their bytes, of one worker.
pub const GROUP_CHECKS_BYTES_MAX: usize = 4 << 20;
/// A piece that a verify thread has had for longer is checked by its worker, milliseconds: some thousand times what a group takes.
pub const GROUP_CHECK_LATE_MS: u64 = 10;

const _: () = assert!(GROUP_CHECKS_BYTES_MAX >= GROUP_CHECKS_LEN_MAX * GROUP_BYTES);
