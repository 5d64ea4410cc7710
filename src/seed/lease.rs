//! How long a payload or set is kept, and for which peer.

use super::config::StoreConfig;
use crate::tls::NodeId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// The lease of a payload or set. Each node has its own, and what is held goes with the last. Versions before the database had one, in a file of
/// JSON beside the payload, `<64 hex>.meta`: the keys `expires_s`, `owner` (the 52 characters of a node ID), `cached` and `clock`, and the
/// payload's length in bytes, `length`. Every key is optional. Without the file, the payload is kept without end and without an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When the lease ends, seconds since the Unix epoch; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// The node that asked for it, whose quota pays for it; `None`: no quota does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<NodeId>,
    /// Kept only as long as there is room: a payload that passed through, and was neither put nor mirrored.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cached: bool,
    /// The epoch of the store's clock in which the lease was granted; 0: granted by a version without epochs. The file's `expires_s` is by
    /// the clock of that epoch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock: u32,
}

/// The contents of a lease's file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LeaseFile {
    #[serde(flatten)]
    pub(super) lease: Lease,
    /// The payload's length, bytes; `None` for a set, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) length: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references.
fn is_false(value: &bool) -> bool {
    !value
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references.
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Lease {
    /// Kept for `owner` until `expires_s`.
    pub const fn until(expires_s: Option<u64>, owner: Option<NodeId>) -> Self {
        Self { expires_s, owner, cached: false, clock: 0 }
    }

    /// Kept while there is room, and no longer than until `expires_s`.
    pub const fn cached(expires_s: Option<u64>) -> Self {
        Self { expires_s, owner: None, cached: true, clock: 0 }
    }

    /// Whether the lease has ended at `now_s`, seconds since the Unix epoch.
    pub fn is_expired(&self, now_s: u64) -> bool {
        self.expires_s.is_some_and(|expires_s| expires_s <= now_s)
    }

    /// The lease that results when `asked` is added. No lease gets shorter; the node that asked for the longest one pays.
    #[must_use]
    pub fn extended_by(self, asked: Self) -> Self {
        let end = |lease: Self| lease.expires_s.unwrap_or(u64::MAX);
        match (self.cached, asked.cached) {
            (true, false) => asked,
            (false, true) => self,
            _ if end(asked) > end(self) => asked,
            _ => self,
        }
    }

    /// The same lease, granted in this epoch of the store's clock.
    #[must_use]
    pub const fn in_epoch(self, clock: u32) -> Self {
        Self { clock, ..self }
    }
}

impl LeaseFile {
    #[cfg(test)]
    fn to_bytes(&self) -> Vec<u8> {
        // These fields always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// An error of the disk; [`io::ErrorKind::InvalidData`] for a file that is no lease.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl StoreConfig {
    /// The end of a lease of `lease_s` seconds that is asked for at `now_s`, seconds since the Unix epoch; 0 asks for the
    /// default. `None`: it has no end.
    pub fn expiry(&self, lease_s: u64, now_s: u64) -> Option<u64> {
        let asked = if lease_s == 0 { self.lease_default_s } else { lease_s };
        let granted = match (asked, self.lease_max_s) {
            (0, 0) => return None,
            (asked, 0) => asked,
            (0, max) => max,
            (asked, max) => asked.min(max),
        };
        Some(now_s.saturating_add(granted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_a_default_and_a_bound() {
        let config = |lease_default_s, lease_max_s| StoreConfig {
            lease_default_s,
            lease_max_s,
            ..StoreConfig::default()
        };
        for (default, max, asked, expiry) in [
            (0, 0, 0, None),
            (0, 0, 7, Some(107)),
            (5, 0, 0, Some(105)),
            (5, 0, 7, Some(107)),
            (0, 6, 0, Some(106)),
            (5, 6, 7, Some(106)),
            (7, 6, 0, Some(106)),
            (0, 0, u64::MAX, Some(u64::MAX)),
        ] {
            assert_eq!(config(default, max).expiry(asked, 100), expiry, "{default} {max} {asked}");
        }
    }

    #[test]
    fn no_lease_gets_shorter() {
        let a = Some(NodeId([1; 32]));
        let b = Some(NodeId([2; 32]));
        let held = Lease::until(Some(10), a);
        assert_eq!(held.extended_by(Lease::until(Some(5), b)), held);
        assert_eq!(held.extended_by(Lease::until(Some(10), b)), held, "the first pays");
        assert_eq!(held.extended_by(Lease::until(Some(11), b)), Lease::until(Some(11), b));
        assert_eq!(held.extended_by(Lease::until(None, b)), Lease::until(None, b));
        assert_eq!(held.extended_by(Lease::cached(None)), held);
        assert_eq!(Lease::cached(None).extended_by(held), held, "a cached payload is kept from now on");
        assert_eq!(Lease::default().extended_by(held), Lease::default());
    }

    #[test]
    fn a_lease_is_read_back_as_it_was_written_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.meta");
        assert_eq!(LeaseFile::read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let owned = Lease::until(Some(u64::MAX), Some(NodeId([7; 32])));
        for lease in [Lease::default(), Lease::cached(Some(1)), owned, owned.in_epoch(3)] {
            for length in [None, Some(5)] {
                fs::write(&path, LeaseFile { lease, length }.to_bytes()).unwrap();
                let read = LeaseFile::read(&path).unwrap();
                assert_eq!((read.lease, read.length), (lease, length));
            }
        }
        // A file of an earlier version.
        fs::write(&path, b"{\"expires_s\":7}").unwrap();
        assert_eq!(LeaseFile::read(&path).unwrap().lease, Lease::until(Some(7), None));
        for broken in [&b""[..], b"{\"expires_s\":", b"[]"] {
            fs::write(&path, broken).unwrap();
            assert_eq!(LeaseFile::read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
