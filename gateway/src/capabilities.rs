//! Capabilities of a gateway that is not root.
//!
//! A container engine gives an ordinary user none of the capabilities that it grants the container: they reach a program only
//! by its file's *permitted* set, and only as far as the container's bounding set goes. A file that carries them as permitted
//! alone starts in a container without them too; what it was permitted it must then take up itself, here.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::io;

/// Takes up every capability that this process is permitted. Before other threads start: they inherit.
///
/// # Errors
/// What the kernel refuses; a process that is permitted nothing is refused nothing.
pub fn take_permitted() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    if sets.effective != sets.permitted {
        sets.effective = sets.permitted;
        set_capabilities(None, sets)?;
    }
    Ok(())
}

/// Whether this thread may open raw packet sockets: as root, or because it was given the capability.
pub fn may_use_raw_sockets() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_RAW))
}
