//! The rights of peers, from the configuration to the library's table, and to people.

use crate::config::{AllowConfig, ClientAuthConfig, GatewayConfig, PeersConfig, RightsConfig, allowed_by};
use crate::tls;
use std::fmt;
use std::sync::Arc;
use stoq::hop::Transit;
use stoq::rights::{NamedPeers, Right, Rights, RightsSection};
use stoq::tls::{NodeId, TlsError};

/// What each peer may do.
///
/// # Errors
/// The certificates of an authority cannot be read.
pub(crate) fn table(config: &GatewayConfig) -> Result<Rights, TlsError> {
    let section = |section: &RightsConfig| {
        let authorities = section.authorities.iter().map(|file| tls::authorities(&config.tls, file));
        let peers =
            NamedPeers { authorities: authorities.collect::<Result<_, TlsError>>()?, ..section.named() };
        Ok::<_, TlsError>(RightsSection { peers, grant: Arc::new(section.grant()) })
    };
    Ok(Rights::new(config.rights.iter().map(section).collect::<Result<_, _>>()?))
}

/// Logs what each peer may do.
pub(crate) fn log(config: &GatewayConfig) {
    if config.rights.is_empty() {
        tracing::info!("rights: every peer that may connect may do everything; [[rights]] gives peers less");
    }
    for section in &config.rights {
        let peers = NamedBriefly(section);
        tracing::info!(section = section.name, %peers, "rights: {}", allowed_by(&section.grant()));
    }
}

/// The peers of a section, by their number and class.
struct NamedBriefly<'a>(&'a RightsConfig);

impl fmt::Display for NamedBriefly<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RightsConfig { node_ids, authorities, peers, .. } = self.0;
        let nodes = (!node_ids.is_empty()).then(|| format!("{} by node ID", node_ids.len()));
        let files = authorities.iter().map(|file| format!("those of {}", file.display()));
        let class = peers.map(|peers| match peers {
            PeersConfig::Authenticated => "all others with a certificate".to_owned(),
            PeersConfig::Anyone => "all others".to_owned(),
        });
        let all: Vec<_> = nodes.into_iter().chain(files).chain(class).collect();
        f.write_str(&all.join(", "))
    }
}

/// Why a section has no effect, or not all of it, and the fix.
pub(crate) fn without_effect(
    config: &GatewayConfig,
    section: &RightsConfig,
) -> Option<(&'static str, &'static str)> {
    let is_named = !section.node_ids.is_empty() || !section.authorities.is_empty();
    let certified = is_named || section.peers == Some(PeersConfig::Authenticated);
    if certified && config.trust.client_auth == ClientAuthConfig::Off {
        let found = "it names peers by their certificates, and clients show none";
        return Some((found, "trust.client_auth: \"required\" or \"optional\""));
    }
    let is_listed = matches!(section.allow, AllowConfig::Listed(_));
    let transits = is_listed && section.grant().allowed.contains(Right::Transit);
    (transits && config.hops.transit.transit() == Transit::Nobody).then_some((
        "it allows transit, and hops.transit allows it to no peer",
        "hops.transit: name the peers, or allow no transit",
    ))
}

/// The peer gateways that may certainly do nothing here.
pub(crate) fn unnamed_peer_gateways(config: &GatewayConfig) -> Vec<NodeId> {
    let names_others = |section: &RightsConfig| !section.authorities.is_empty() || section.peers.is_some();
    if config.rights.is_empty() || config.rights.iter().any(names_others) {
        return Vec::new();
    }
    let is_named = |node: &NodeId| config.rights.iter().any(|section| section.node_ids.contains(node));
    config.gateway.iter().map(|peer_gateway| peer_gateway.node_id).filter(|node| !is_named(node)).collect()
}
