//! A node's identity, its trust, its peer gateways, and the peers for which it forwards.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use stoq::hop::Transit;
use stoq::names::GatewayAddress;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::PeerControl;
use stoq::tls::{CipherSuite, NodeId};

/// A certificate and its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// PEM: the certificate, then intermediates if its authority is not trusted directly.
    pub certificate: PathBuf,
    /// PEM: the PKCS#8 private key, readable only by its owner.
    pub key: PathBuf,
}

/// A node's trust: authorities, node IDs or both. With both, a peer must satisfy both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustConfig {
    /// PEM: certificates of the authorities.
    pub ca: Option<PathBuf>,
    /// Node IDs, as `stoq identity show` prints them.
    pub node_ids: Vec<NodeId>,
    /// For a gateway: whether clients must show a certificate.
    pub client_auth: ClientAuthConfig,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthConfig {
    /// A client without a trusted certificate gets no connection.
    #[default]
    Required,
    /// A certificate is checked when shown.
    Optional,
    /// A certificate is never requested.
    Off,
}

/// Another gateway: for a gateway one of its peer gateways, for a client one that it may name in routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerGatewayConfig {
    /// Its name on the command line and in logs; the wire knows no names.
    pub name: Option<String>,
    /// Its node ID.
    pub node_id: NodeId,
    /// Its addresses, of both families, or names; tried in turn. A client gives none for a gateway that it
    /// reaches through others.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// Of a gateway's file: the congestion control of the connections to it; none: `quic.congestion_control`.
    pub congestion_control: Option<Congestion>,
    /// Of a gateway's file: the most that a connection to it sends, bits a second; none: `quic.rate_bits_per_s`; 0: no bound.
    pub rate_bits_per_s: Option<u64>,
}

impl PeerGatewayConfig {
    /// How connections to it differ from the others.
    pub fn control(&self) -> PeerControl {
        PeerControl { congestion_control: self.congestion_control, rate_bits_per_s: self.rate_bits_per_s }
    }
}

/// Forwarding of requests (protocol §5).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HopsConfig {
    /// The peers for which it forwards: `"nobody"`, `"gateways"`, `"authenticated"` (peers with a trusted certificate), `"anyone"`,
    /// or a list of node IDs.
    pub transit: TransitConfig,
    /// The most bytes of one forwarded request, both directions together; none: the asker's budget alone.
    pub budget_max_bytes: Option<u64>,
    /// Keep forwarded payloads whose requests allow it in the seed store. By default they are kept if the store has a `capacity_bytes`.
    pub cache: Option<bool>,
    /// Connections to peer gateways that a worker keeps at once; a new one replaces the one least recently used.
    pub connections_max: usize,
}

impl Default for HopsConfig {
    fn default() -> Self {
        Self {
            transit: TransitConfig::Class(TransitClass::Authenticated),
            budget_max_bytes: None,
            cache: None,
            connections_max: stoq::limits::PEER_GATEWAY_CONNECTIONS_DEFAULT,
        }
    }
}

/// The peers for which a gateway forwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`transit` is \"nobody\", \"gateways\", \"authenticated\", \"anyone\", or a list of node IDs"
)]
pub enum TransitConfig {
    /// A class of peers.
    Class(TransitClass),
    /// These nodes.
    Nodes(Vec<NodeId>),
}

/// A class of peers to forward for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransitClass {
    /// No peer.
    Nobody,
    /// Configured peer gateways.
    Gateways,
    /// Peers that showed a trusted certificate.
    Authenticated,
    /// Every peer that may connect.
    Anyone,
}

impl TransitConfig {
    /// As the policy of hops.
    pub fn transit(&self) -> Transit {
        match self {
            Self::Class(TransitClass::Nobody) => Transit::Nobody,
            Self::Class(TransitClass::Gateways) => Transit::Gateways,
            Self::Class(TransitClass::Authenticated) => Transit::Authenticated,
            Self::Class(TransitClass::Anyone) => Transit::Anyone,
            Self::Nodes(nodes) => Transit::Listed(nodes.iter().copied().collect()),
        }
    }
}

/// TLS policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Only X25519MLKEM768; peers without it are refused.
    pub require_post_quantum: bool,
    /// Accept certificates with classical (ECDSA, Ed25519) signatures.
    pub allow_classical_peers: bool,
    /// The AEAD that is offered first.
    pub cipher: CipherSuite,
    /// Take early data (0-RTT) for requests that are harmless when replayed: small FETCHes, LOCATE, messages
    /// for queues that are marked `replay_safe`.
    pub early_data: bool,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            require_post_quantum: true,
            allow_classical_peers: false,
            cipher: CipherSuite::Aes128Gcm,
            early_data: true,
        }
    }
}
