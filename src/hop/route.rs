//! Routes: the gateways that a request passes.

use crate::limits::HOPS_LEN_MAX;
use crate::record::Hop;
use crate::tls::NodeId;
use crate::varint;
use smallvec::SmallVec;

/// The gateways that a request passes, in order; the last one answers it. Each must be a peer gateway of the
/// one before (protocol §5).
///
/// The connected gateway is the first: it is put in front where the route does not begin with it.
///
/// ```
/// use stoq::hop::Route;
/// use stoq::tls::NodeId;
///
/// let route = Route::new([NodeId([1; 32]), NodeId([2; 32])])?.with_cache(true).with_budget(1 << 30);
/// assert_eq!(route.nodes().len(), 2);
/// // A route that comes back to a gateway is refused there, so it is refused here.
/// assert!(Route::new([NodeId([1; 32]), NodeId([2; 32]), NodeId([1; 32])]).is_err());
/// # Ok::<_, stoq::hop::RouteError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    nodes: SmallVec<[NodeId; HOPS_LEN_MAX]>,
    cache: bool,
    budget_bytes: u64,
}

/// Why a route is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It names no gateway.
    #[error("a route names at least one gateway")]
    Empty,
    /// More gateways than the protocol allows, including the connected one.
    #[error(
        "a route has at most {HOPS_LEN_MAX} gateways, including the connected one; this one has {0}; leave some out"
    )]
    TooLong(usize),
    /// A gateway occurs in it twice.
    #[error("the route visits {0} twice; name it once")]
    Twice(NodeId),
    /// The connected peer showed no certificate, so no route can begin with it.
    #[error(
        "the connected peer has no node ID, so no request can be routed through it; give that gateway a certificate"
    )]
    Nameless,
}

impl Route {
    /// A route through these gateways.
    ///
    /// # Errors
    /// [`RouteError`] for no gateway, too many, or one that occurs twice.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Result<Self, RouteError> {
        let nodes: SmallVec<_> = nodes.into_iter().collect();
        check(&nodes)?;
        Ok(Self { nodes, cache: false, budget_bytes: varint::MAX })
    }

    /// Lets the gateways on the route answer from their stores, and keep the answers that they forward.
    #[must_use]
    pub fn with_cache(self, cache: bool) -> Self {
        Self { cache, ..self }
    }

    /// Bounds the bytes of the request and its answer together; no bound by default. At most 2^62 - 1.
    #[must_use]
    pub fn with_budget(self, budget_bytes: u64) -> Self {
        Self { budget_bytes: budget_bytes.min(varint::MAX), ..self }
    }

    /// The gateways.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The same route, beginning with `first`, the peer that the request is sent to.
    ///
    /// # Errors
    /// [`RouteError::Nameless`] if the peer showed no certificate; another if the longer route is
    /// refused.
    pub fn starting_at(&self, first: Option<NodeId>) -> Result<Self, RouteError> {
        let first = first.ok_or(RouteError::Nameless)?;
        let mut route = self.clone();
        if route.nodes.first() != Some(&first) {
            route.nodes.insert(0, first);
        }
        check(&route.nodes)?;
        Ok(route)
    }

    /// The record for one request, with a nonce of its own.
    pub fn hop(&self) -> Hop {
        Hop {
            cache: self.cache,
            hop_limit: self.nodes.len() as u8,
            nonce: rand::random(),
            budget_bytes: self.budget_bytes,
            cursor: 0,
            route: self.nodes.clone(),
        }
    }
}

fn check(nodes: &[NodeId]) -> Result<(), RouteError> {
    if nodes.is_empty() {
        return Err(RouteError::Empty);
    }
    if nodes.len() > HOPS_LEN_MAX {
        return Err(RouteError::TooLong(nodes.len()));
    }
    super::first_repeated(nodes).map_or(Ok(()), |twice| Err(RouteError::Twice(twice)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn hop(nodes: &[NodeId], first: NodeId) -> Hop {
        Route::new(nodes.iter().copied()).unwrap().starting_at(Some(first)).unwrap().hop()
    }

    #[test]
    fn the_connected_gateway_stands_in_front_once() {
        assert_eq!(hop(&[B], A).route[..], [A, B]);
        assert_eq!(hop(&[A, B], A).route[..], [A, B]);
        let hop = hop(&[B], A);
        assert_eq!((hop.cursor, hop.hop_limit, hop.budget_bytes, hop.cache), (0, 2, (1 << 62) - 1, false));
        let mut body = Vec::new();
        hop.emit(&mut body);
        assert_eq!(Hop::parse(&body), Ok(hop));
    }

    #[test]
    fn every_request_has_a_nonce_of_its_own() {
        assert_ne!(hop(&[B], A).nonce, hop(&[B], A).nonce);
    }

    #[test]
    fn a_route_that_cannot_be_is_refused() {
        assert_eq!(Route::new([]), Err(RouteError::Empty));
        assert_eq!(Route::new([A, B, A]), Err(RouteError::Twice(A)));
        let long: Vec<_> = (0..9).map(|n| NodeId([n; 32])).collect();
        assert_eq!(Route::new(long.iter().copied()), Err(RouteError::TooLong(9)));
        let full = Route::new(long[..8].iter().copied()).unwrap();
        assert!(full.starting_at(Some(long[0])).is_ok());
        assert_eq!(full.starting_at(Some(long[8])), Err(RouteError::TooLong(9)));
        assert_eq!(full.starting_at(None), Err(RouteError::Nameless));
        let back = Route::new([B, A]).unwrap();
        assert_eq!(back.starting_at(Some(A)), Err(RouteError::Twice(A)));
    }
}
