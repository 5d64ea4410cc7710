//! A server's sessions that peers may resume.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustls::server::StoresServerSessions;

/// Sessions by their tickets, in memory, the least recently used dropped first; every call takes constant
/// time.
///
/// rustls' own cache, [`rustls::server::ServerSessionMemoryCache`], walks through all its keys for each
/// resumed session: 6 % of a server's time at thousands a second.
pub(super) struct SessionCache(Mutex<LruCache<Vec<u8>, Vec<u8>>>);

impl SessionCache {
    pub(super) fn new(len_max: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(len_max)))
    }

    fn sessions(&self) -> MutexGuard<'_, LruCache<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SessionCache {
    /// Sessions are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache").finish_non_exhaustive()
    }
}

impl StoresServerSessions for SessionCache {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.sessions().put(key, value);
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sessions().get(key).cloned()
    }

    /// A ticket is good for one connection (RFC 8446 §8.1): this prevents the replay of early data.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sessions().pop(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_once() {
        let cache = SessionCache::new(NonZeroUsize::MIN);
        assert!(cache.put(vec![1], vec![10]));
        assert_eq!(cache.get(&[1]), Some(vec![10]));
        assert_eq!(cache.take(&[1]), Some(vec![10]));
        assert_eq!(cache.take(&[1]), None);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = SessionCache::new(NonZeroUsize::new(2).unwrap());
        for key in 1..=2 {
            cache.put(vec![key], vec![key]);
        }
        cache.get(&[1]);
        cache.put(vec![3], vec![3]);
        assert_eq!(cache.get(&[2]), None);
        assert!(cache.get(&[1]).is_some() && cache.get(&[3]).is_some());
    }
}
