//! The time of day, for what a fleet's directory says.

use std::time::SystemTime;

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |at| at.as_secs())
}
