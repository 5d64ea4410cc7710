//! Gateways by name, and routes through them.

use crate::output::Usage;
use stoq::client::Route;
use stoq::names::GatewayAddress;
use stoq::tls::NodeId;
use stoq_gateway::config::PeerGatewayConfig;

/// Options of the tools whose requests may be routed.
#[derive(clap::Args)]
pub(crate) struct RouteArgs {
    /// Route through these gateways, in order; the last one answers. Node IDs, or names of [[gateway]]
    /// sections in the configuration file. The connected gateway is put in front where it is not the first.
    #[arg(long, value_name = "GATEWAY,…", value_delimiter = ',')]
    via: Vec<String>,
    /// Let the gateways on the way answer from their stores, and keep the payloads that they forward.
    #[arg(long, requires = "via")]
    cache: bool,
}

impl RouteArgs {
    pub(crate) fn route(&self, gateways: &Gateways) -> anyhow::Result<Option<Route>> {
        if self.via.is_empty() {
            return Ok(None);
        }
        let nodes = self.via.iter().map(|text| gateways.node(text)).collect::<Result<Vec<_>, _>>()?;
        let route = Route::new(nodes).map_err(|error| Usage(format!("--via: {error}")))?;
        Ok(Some(route.with_cache(self.cache)))
    }
}

/// A gateway on the command line.
#[derive(Clone)]
pub(crate) enum Named {
    /// By one of these addresses; its node ID, if the command line names that.
    At(Vec<GatewayAddress>, Option<NodeId>),
    /// Without a known address: through the connected gateway.
    Through(NodeId),
}

/// The configured gateways.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateways(pub(crate) Vec<PeerGatewayConfig>);

impl Gateways {
    /// The node ID that this text is, or whose configured name it is.
    pub(crate) fn node(&self, text: &str) -> Result<NodeId, Usage> {
        if let Some(known) = self.0.iter().find(|known| known.name.as_deref() == Some(text)) {
            return Ok(known.node_id);
        }
        text.parse().map_err(|error| {
            let names: Vec<_> = self.0.iter().filter_map(|known| known.name.as_deref()).collect();
            let known = if names.is_empty() { "none".into() } else { names.join(", ") };
            Usage(format!(
                "{text:?} is neither a node ID nor a name in a [[gateway]] section (names: {known}): {error}; an option that takes addresses \
                 takes the name of a host with its port, such as {text}:4433"
            ))
        })
    }

    /// Finds a gateway by its configured name, its node ID or its address.
    pub(crate) fn find(&self, text: &str) -> Result<Named, Usage> {
        let known = self.0.iter().any(|known| known.name.as_deref() == Some(text));
        if !known && GatewayAddress::is_meant_by(text) {
            let address =
                text.parse().map_err(|error: stoq::names::AddressError| Usage(error.to_string()))?;
            return Ok(Named::At(vec![address], None));
        }
        let node = self.node(text)?;
        Ok(match self.addresses(node) {
            [] => Named::Through(node),
            addresses => Named::At(addresses.to_vec(), Some(node)),
        })
    }

    /// A node's configured addresses.
    pub(crate) fn addresses(&self, node: NodeId) -> &[GatewayAddress] {
        self.0.iter().find(|known| known.node_id == node).map_or(&[], |known| &known.addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways() -> Gateways {
        let peer_gateway = |name: &str, id| PeerGatewayConfig {
            name: Some(name.into()),
            node_id: NodeId([id; 32]),
            congestion_control: None,
            rate_bits_per_s: None,
            addresses: vec![format!("192.0.2.{id}").parse().unwrap()],
        };
        Gateways(vec![peer_gateway("north", 1), peer_gateway("south", 2)])
    }

    #[test]
    fn a_route_takes_names_and_node_ids() {
        let other = NodeId([3; 32]);
        let args = RouteArgs { via: vec!["south".into(), other.to_string()], cache: true };
        let route = args.route(&gateways()).unwrap().unwrap();
        assert_eq!(route.nodes(), [NodeId([2; 32]), other]);
        assert_eq!(gateways().addresses(NodeId([2; 32])), ["192.0.2.2:4433".parse().unwrap()]);
        assert!(gateways().addresses(other).is_empty());
        let none = RouteArgs { via: Vec::new(), cache: false };
        assert_eq!(none.route(&gateways()).unwrap(), None);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = gateways().node("west").unwrap_err().to_string();
        assert!(error.contains("west") && error.contains("north, south"), "{error}");
        let twice = RouteArgs { via: vec!["north".into(), "north".into()], cache: false };
        assert!(twice.route(&gateways()).unwrap_err().to_string().contains("twice"));
    }
}
