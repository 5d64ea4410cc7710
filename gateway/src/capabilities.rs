//! Capabilities of a gateway that is not root.
//!
//! In a container, a user other than root has none of the capabilities that the engine grants the container. A program gets them by the
//! *permitted* set of its file, as far as the container's bounding set allows. A file with a permitted set and no effective set also
//! starts in a container without these capabilities. The process must then make its permitted capabilities effective itself.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::io;

/// Makes every permitted capability of this process effective. Call it before other threads start: they inherit the set.
///
/// # Errors
/// The kernel refuses. This cannot happen to a process without permitted capabilities.
pub fn take_permitted() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    if sets.effective != sets.permitted {
        sets.effective = sets.permitted;
        set_capabilities(None, sets)?;
    }
    Ok(())
}

/// Whether this thread may open raw packet sockets: as root, or by the capability.
pub fn may_use_raw_sockets() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_RAW))
}
