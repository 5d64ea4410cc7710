//! How many streams the peer may have open at once: a few at first, and more while it uses them.
//!
//! quinn-proto keeps an entry for every stream that the peer may open, opened or not: 34 kB for all that STOQ allows, which most connections
//! never use. So a peer may open [`crate::limits::STREAMS_FIRST_LEN`] in each direction at first, and four times as many as it has open from then on: it
//! waits for room only where it opens that many within one round trip. Of unidirectional streams, which carry the parts of long halves, a long
//! path holds many that have not arrived, and few are open: there those count that were ever opened.

use crate::limits::{REQUESTS_LEN_MAX, STREAMS_UNI_LEN_MAX};
use quinn_proto::{Connection, Dir, VarInt};

/// Lets the peer open more streams in this direction, if it has a quarter of them open, or has opened `ever` unidirectional ones so far.
#[inline]
pub(super) fn widen(conn: &mut Connection, dir: Dir, ever: u64) {
    let (open, allowed) = (conn.streams().remote_open_streams(dir), conn.max_concurrent_streams(dir));
    let (used, most) = match dir {
        Dir::Bi => (open, REQUESTS_LEN_MAX),
        Dir::Uni => (open.max(ever), STREAMS_UNI_LEN_MAX),
    };
    if let Some(wider) = wider(used, allowed, most) {
        // RFC 9000 §4.6: MAX_STREAMS tells the peer.
        conn.set_max_concurrent_streams(dir, VarInt::from_u64(wider).unwrap_or(VarInt::MAX));
    }
}

/// How many streams a peer may have that has `open` of the `allowed` ones, if that is more.
fn wider(open: u64, allowed: u64, most: u64) -> Option<u64> {
    let wider = open.min(most).saturating_mul(4).next_power_of_two().min(most);
    (wider > allowed).then_some(wider)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STREAMS_FIRST_LEN;

    #[test]
    fn a_peer_may_always_open_more_streams_than_it_has_up_to_the_bound() {
        let mut allowed = STREAMS_FIRST_LEN;
        for open in 0..=REQUESTS_LEN_MAX {
            allowed = wider(open, allowed, REQUESTS_LEN_MAX).unwrap_or(allowed);
            assert!(allowed >= (4 * open).min(REQUESTS_LEN_MAX), "{open} of {allowed} are open");
        }
        assert_eq!(allowed, REQUESTS_LEN_MAX);
        assert_eq!(
            wider(STREAMS_FIRST_LEN / 4, STREAMS_FIRST_LEN, REQUESTS_LEN_MAX),
            None,
            "it still has room"
        );
    }
}
