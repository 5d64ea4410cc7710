//! Prebuilt headers by destination: the last destination first, then a map.

use crate::limits::PATHS_LEN_MAX;
use crate::wire::udp::UdpTemplate;
use quinn_proto::Transmit;
use std::collections::HashMap;
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
///
/// Peers choose their addresses, so the map's hash has a random key: without one, addresses that collide make each look-up a
/// walk over all of them.
#[derive(Default)]
pub(super) struct Paths {
    paths: Vec<Path>,
    index: HashMap<Key, usize>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::hash::BuildHasher;
    use std::net::Ipv6Addr;

    /// The last bits of a hash choose the place in a map.
    const PLACES_LEN: u64 = 1024;

    fn key(i: u128) -> Key {
        let base = u128::from("fd00::".parse::<Ipv6Addr>().unwrap());
        (SocketAddr::new(Ipv6Addr::from(base + i).into(), 4433), None)
    }

    #[test]
    fn addresses_that_collide_in_a_hash_without_a_key_are_spread_by_the_map() {
        let unkeyed = rustc_hash::FxBuildHasher;
        let colliding: Vec<Key> =
            (0..).map(key).filter(|key| unkeyed.hash_one(key) % PLACES_LEN == 7).take(256).collect();
        let paths = Paths::default();
        let mut places: BTreeMap<u64, usize> = BTreeMap::new();
        for key in &colliding {
            *places.entry(paths.index.hasher().hash_one(key) % PLACES_LEN).or_default() += 1;
        }
        let longest = places.values().max().copied();
        assert!(longest.is_some_and(|len| len <= 16), "{longest:?} of {} at one place", colliding.len());
    }
}
