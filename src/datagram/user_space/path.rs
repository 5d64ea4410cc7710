//! Prebuilt headers by destination: the last destination first, then a map.

use crate::limits::PATHS_LEN_MAX;
use crate::wire::udp::UdpTemplate;
use quinn_proto::Transmit;
use rustc_hash::FxHashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The destination, and the source address if the caller chose one.
type Key = (SocketAddr, Option<IpAddr>);

/// The path to one destination.
pub(super) struct Path {
    /// Its headers.
    pub(super) template: UdpTemplate,
    /// The time from which the neighbor must be looked up again.
    pub(super) recheck_at: Instant,
    /// The neighbors' generation when this path was built.
    pub(super) generation: u64,
}

/// The paths in use, bounded: past [`PATHS_LEN_MAX`], all are dropped and built again as they are used.
#[derive(Default)]
pub(super) struct Paths {
    paths: Vec<Path>,
    index: FxHashMap<Key, usize>,
    last: Option<(Key, usize)>,
}

impl Paths {
    /// Selects the path to `transmit`'s destination. Returns whether there is one that is still valid.
    #[inline]
    pub(super) fn select(&mut self, transmit: &Transmit, now: Instant, generation: u64) -> bool {
        let key = key(transmit);
        let at = match self.last {
            Some((last, at)) if last == key => at,
            _ => match self.index.get(&key) {
                Some(&at) => {
                    self.last = Some((key, at));
                    at
                }
                None => return false,
            },
        };
        let path = &self.paths[at];
        path.generation == generation && now < path.recheck_at
    }

    /// The path that was selected or inserted last.
    #[inline]
    pub(super) fn selected(&self) -> Option<&Path> {
        self.last.map(|(_, at)| &self.paths[at])
    }

    /// Keeps and selects the path to `transmit`'s destination.
    pub(super) fn insert(&mut self, transmit: &Transmit, path: Path) {
        let key = key(transmit);
        if let Some(&at) = self.index.get(&key) {
            self.paths[at] = path;
            self.last = Some((key, at));
            return;
        }
        if self.paths.len() >= PATHS_LEN_MAX {
            self.paths.clear();
            self.index.clear();
        }
        let at = self.paths.len();
        self.paths.push(path);
        self.index.insert(key, at);
        self.last = Some((key, at));
    }
}

#[inline]
fn key(transmit: &Transmit) -> Key {
    (transmit.destination, transmit.src_ip)
}
