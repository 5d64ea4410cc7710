//! The peer gateways of a running gateway: those of its configuration, which a reload changes, and the members of its fleet, which a table
//! changes without one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoq::hop::Hops;
use stoq::queue::Waker;
use stoq::worker::{NodeShared, PeerGateway, PeerGatewayList};

/// The peer gateways of a running gateway. A change of either part reaches the workers and the rules of forwarding at once.
pub(crate) struct PeerList {
    node: Arc<NodeShared>,
    /// Of each worker: one that waits for packets takes a change at once.
    wakers: Vec<Waker>,
    hops: Arc<Hops>,
    parts: Mutex<PeerParts>,
}

/// Both parts of the list.
struct PeerParts {
    configured: PeerGatewayList,
    members: Vec<PeerGateway>,
    /// Whether the members count.
    dials_members: bool,
}

impl fmt::Debug for PeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerList(..)")
    }
}

impl PeerList {
    /// The list of a node, which begins without peer gateways.
    pub(crate) fn new(node: Arc<NodeShared>, wakers: Vec<Waker>, hops: Arc<Hops>) -> Self {
        let parts =
            PeerParts { configured: PeerGatewayList::default(), members: Vec::new(), dials_members: false };
        Self { node, wakers, hops, parts: Mutex::new(parts) }
    }

    /// The node whose list it is.
    pub(crate) fn node(&self) -> &NodeShared {
        &self.node
    }

    /// Has each worker look at what was changed.
    pub(crate) fn wake(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Takes the peer gateways of a configuration, and whether the members of the fleet are others.
    pub(crate) fn configure(&self, configured: PeerGatewayList, dials_members: bool) {
        let mut parts = self.parts();
        if (&parts.configured, parts.dials_members) != (&configured, dials_members) {
            (parts.configured, parts.dials_members) = (configured, dials_members);
            self.publish(&parts);
        }
    }

    /// Takes the members of another table.
    pub(crate) fn set_members(&self, members: Vec<PeerGateway>) {
        let mut parts = self.parts();
        if parts.members != members {
            parts.members = members;
            self.publish(&parts);
        }
    }

    fn publish(&self, parts: &PeerParts) {
        let list = parts.list();
        self.hops.renew_peer_gateways(list.peer_gateways.iter().map(|peer| peer.node).collect());
        self.node.renew_peer_gateways(list);
        self.wake();
    }

    fn parts(&self) -> MutexGuard<'_, PeerParts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerParts {
    /// Both parts. What the configuration says of a gateway counts before the table.
    fn list(&self) -> PeerGatewayList {
        let PeerGatewayList { mut peer_gateways, connections_max } = self.configured.clone();
        let is_configured =
            |member: &&PeerGateway| self.configured.peer_gateways.iter().any(|peer| peer.node == member.node);
        let members = self.members.iter().filter(|member| self.dials_members && !is_configured(member));
        peer_gateways.extend(members.cloned());
        PeerGatewayList { peer_gateways, connections_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoq::hop::{Policy, Transit};
    use stoq::quic::transport::PeerControl;
    use stoq::session::QueueRoutes;
    use stoq::tls::NodeId;

    fn peer(number: u8, port: u16) -> PeerGateway {
        PeerGateway {
            node: NodeId([number; 32]),
            addresses: vec![([192, 0, 2, number], port).into()].into(),
            control: PeerControl::default(),
            is_standing: true,
        }
    }

    #[test]
    fn a_member_that_is_configured_too_is_dialed_as_configured() {
        let own = NodeId([9; 32]);
        let policy = Policy { own, transit: Transit::Gateways, budget_bytes_max: u64::MAX };
        let hops = Arc::new(Hops::new(policy, [].into()));
        let node = NodeShared::new(1, QueueRoutes::default());
        let configured = PeerGatewayList { peer_gateways: vec![peer(1, 4433)], connections_max: 32 };
        let list = PeerList::new(node, Vec::new(), hops.clone());
        list.configure(configured.clone(), true);
        list.set_members(vec![peer(1, 1), peer(2, 2)]);
        assert_eq!(list.parts().list().peer_gateways, [peer(1, 4433), peer(2, 2)]);
        assert!([1, 2].iter().all(|number| hops.is_peer_gateway(&NodeId([*number; 32]))));
        // Each part changes alone.
        list.configure(PeerGatewayList { peer_gateways: Vec::new(), ..configured.clone() }, true);
        assert_eq!(list.parts().list().peer_gateways, [peer(1, 1), peer(2, 2)]);
        list.set_members(vec![peer(2, 2)]);
        assert!(!hops.is_peer_gateway(&NodeId([1; 32])) && hops.is_peer_gateway(&NodeId([2; 32])));
        // Without trust in other nodes no member can be dialed.
        list.configure(configured.clone(), false);
        assert_eq!(list.parts().list(), configured);
    }
}
