//! The parts of a configuration that a reload puts into effect. The start of a gateway and a reload make them by the same code.

use crate::admin::Facts;
use crate::config::{FleetConfig, GatewayConfig, SeedConfig};
use crate::descriptors;
use crate::faults::started;
use crate::rights;
use crate::tls::{self, KeyLogger};
use anyhow::Context;
use quinn_proto::crypto::rustls::QuicClientConfig;
use std::sync::Arc;
use stoq::hop::Policy;
use stoq::names::{Places, Resolver};
use stoq::node::NodeConfig;
use stoq::quic::fleet_settings::FleetSettings;
use stoq::quic::qlog::Qlog;
use stoq::seed::StoreConfig;
use stoq::tls::{Identity, NodeId};
use stoq::worker::{PeerGateway, PeerGatewayList};

/// The facts of the admin endpoint that a reload may change.
///
/// # Errors
/// A certificate that cannot be read.
pub(crate) fn facts(config: &GatewayConfig, identity: &Identity) -> anyhow::Result<Facts> {
    Ok(Facts {
        fingerprint: config.fingerprint.clone(),
        certificate: identity.summary()?,
        issuers: identity.summaries()?.split_off(1),
        peer_gateways: config
            .gateway
            .iter()
            .map(|peer_gateway| (peer_gateway.node_id, peer_gateway.name.clone()))
            .collect(),
        rights: config.rights.iter().map(|section| Arc::new(section.grant())).collect(),
    })
}

/// The part of a node's configuration that a reload changes, and the node's identity.
/// `fleet` is the gateway's part in a fleet, if it is in one.
pub(crate) fn node(
    config: &GatewayConfig,
    fleet: Option<FleetSettings>,
    key_log: KeyLogger,
) -> anyhow::Result<(NodeConfig, Identity)> {
    let (server, identity) = tls::server(&config.tls, &config.identity, &config.trust, key_log.clone())?;
    let peer_gateway = config.gateway.iter();
    let resolver = started("resolves names", Resolver::start())?;
    let (sample, capacity_bytes) = (config.qlog.sample, config.qlog.capacity_bytes);
    let directory = config.qlog.directory.as_deref();
    let qlog = directory.map(|directory| {
        Qlog::start(directory, sample, capacity_bytes)
            .with_context(|| format!("qlog.directory: {} cannot be used", directory.display()))
    });
    let node = NodeConfig {
        server: Some(server),
        fleet,
        handover: config.fleet.as_ref().and_then(FleetConfig::handover),
        restart_secret: identity.restart_secret().cloned(),
        client: client_tls(config, key_log)?,
        peer_gateways: PeerGatewayList {
            peer_gateways: peer_gateway
                .map(|peer_gateway| PeerGateway {
                    node: peer_gateway.node_id,
                    addresses: Places::new(peer_gateway.addresses.clone(), &resolver),
                    control: peer_gateway.control(),
                    is_standing: true,
                })
                .collect(),
            connections_max: config.hops.connections_max,
        },
        quic: config.quic.clone(),
        qlog: qlog.transpose()?,
        rights: Arc::new(rights::table(config)?),
        ..NodeConfig::default()
    };
    Ok((node, identity))
}

/// The policy of forwarding.
pub(crate) fn policy(config: &GatewayConfig, own: NodeId) -> Policy {
    Policy {
        own,
        transit: config.hops.transit.transit(),
        budget_bytes_max: config.hops.budget_max_bytes.unwrap_or(u64::MAX),
    }
}

/// The store's bounds and leases. Its files are those that the limit of the process leaves.
pub(crate) fn kept(config: &GatewayConfig, seed: &SeedConfig) -> StoreConfig {
    StoreConfig {
        files_max: Some(descriptors::for_store(config, descriptors::limits().0)),
        capacity_bytes: seed.capacity_bytes,
        quota_bytes: seed.quota_bytes,
        capacity_entries: Some(seed.capacity_entries),
        quota_entries: Some(seed.quota_entries),
        lease_default_s: seed.lease_default_s,
        lease_max_s: seed.lease_max_s,
        scrub_s: seed.scrub_days.saturating_mul(86_400),
        scrub_bytes_per_s: Some(seed.scrub_bytes_per_s),
    }
}

/// The TLS configuration of connections to peer gateways, if there may be any.
fn client_tls(config: &GatewayConfig, key_log: KeyLogger) -> anyhow::Result<Option<Arc<QuicClientConfig>>> {
    if config.gateway.is_empty() && !config.dials_members() {
        return Ok(None);
    }
    Ok(Some(tls::client(&config.tls, Some(&config.identity), &config.trust, key_log)?))
}
