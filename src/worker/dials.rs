//! The handshakes that this side began and that are not complete, by what names them: an application's tag, or an address that an ICMP message
//! calls unreachable.

use super::conn::{Conn, Origin};
use quinn_proto::Side;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// An application with the tag of its call.
type Tagged = (usize, u64);

/// The slots of a worker's own handshakes. Addresses and tags are of this node's choice, not of peers'.
#[derive(Debug, Default)]
pub(super) struct OwnHandshakes {
    tagged: FxHashMap<Tagged, u32>,
    by_remote: BTreeSet<(IpAddr, u16, u32)>,
}

impl OwnHandshakes {
    /// A handshake begins with this address.
    pub(super) fn begin(&mut self, remote: SocketAddr, slot: u32) {
        self.by_remote.insert((remote.ip(), remote.port(), slot));
    }

    /// An application asked for it.
    pub(super) fn begin_tagged(&mut self, tagged: Tagged, slot: u32) {
        self.tagged.insert(tagged, slot);
    }

    /// The handshake that this application asked for.
    pub(super) fn tagged(&self, tagged: Tagged) -> Option<u32> {
        self.tagged.get(&tagged).copied()
    }

    /// The handshakes with this address.
    pub(super) fn with(&self, remote: SocketAddr) -> impl Iterator<Item = u32> + '_ {
        let (ip, port) = (remote.ip(), remote.port());
        self.by_remote.range((ip, port, 0)..=(ip, port, u32::MAX)).map(|&(_, _, slot)| slot)
    }

    /// A handshake with this address is over.
    fn end(&mut self, remote: SocketAddr, slot: u32) {
        self.by_remote.remove(&(remote.ip(), remote.port(), slot));
    }

    fn end_tagged(&mut self, tagged: Tagged, slot: u32) {
        // The application may have used its tag again meanwhile.
        if self.tagged(tagged) == Some(slot) {
            self.tagged.remove(&tagged);
        }
    }
}

impl Conn {
    /// Its handshake is over, if this side began it.
    pub(super) fn end_dial(&self, dials: &mut OwnHandshakes) {
        if self.quic.side() != Side::Client {
            return;
        }
        let slot = self.session.id().slot;
        dials.end(self.quic.remote_address(), slot);
        if let Origin::Application { app, tag, .. } = self.origin {
            dials.end_tagged((app, tag), slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_found_by_address_and_port_and_by_the_tag_used_last() {
        let mut dials = OwnHandshakes::default();
        let [first, other_port] = ["192.0.2.1:1", "192.0.2.1:2"].map(|text| text.parse().unwrap());
        for (remote, slot) in [(first, 3), (other_port, 4), (first, 5)] {
            dials.begin(remote, slot);
            dials.begin_tagged((0, 7), slot);
        }
        assert_eq!(dials.with(first).collect::<Vec<_>>(), [3, 5]);
        assert_eq!((dials.tagged((0, 7)), dials.tagged((1, 7))), (Some(5), None));
        dials.end(first, 3);
        dials.end_tagged((0, 7), 3);
        assert_eq!(dials.with(first).collect::<Vec<_>>(), [5]);
        assert_eq!(dials.tagged((0, 7)), Some(5));
        dials.end_tagged((0, 7), 5);
        assert_eq!(dials.tagged((0, 7)), None);
    }
}
