//! The identities of the nodes, and their trust.

use std::sync::OnceLock;
use stoq::hop::Route;
use stoq::tls::{FalconAlgorithm, Identity, NodeId, Trust};

/// The most gateways of a world.
pub(crate) const GATEWAYS_MAX: usize = 4;

/// The identities of the first gateway, of the clients, and of the other gateways, made once: making them costs more than a scenario.
pub(crate) fn identities() -> &'static [Identity; 1 + GATEWAYS_MAX] {
    static MADE: OnceLock<[Identity; 1 + GATEWAYS_MAX]> = OnceLock::new();
    MADE.get_or_init(|| {
        ["gateway", "client", "gateway 1", "gateway 2", "gateway 3"]
            .map(|name| Identity::generate(FalconAlgorithm::FalconPadded512, name, &[], 1).unwrap().identity)
    })
}

/// The identity of a gateway, counted from 0.
pub(crate) fn gateway_identity(index: usize) -> &'static Identity {
    &identities()[if index == 0 { 0 } else { index + 1 }]
}

/// The node ID of a gateway, counted from 0.
pub(crate) fn gateway_node(index: usize) -> NodeId {
    gateway_identity(index).node_id()
}

/// A route through these gateways, counted from 0.
pub(crate) fn route(gateways: &[usize]) -> Route {
    Route::new(gateways.iter().map(|&gateway| gateway_node(gateway))).unwrap()
}

/// The trust of every node in every other.
pub(crate) fn trust() -> Trust {
    Trust::pinned(identities().iter().map(Identity::node_id)).unwrap()
}
