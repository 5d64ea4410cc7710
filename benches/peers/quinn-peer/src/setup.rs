//! The socket, the transport and TLS: one set of choices for both sides.

use peer_common::cli::Tuning;
use peer_common::identity::Identity;
use peer_common::socket;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;

const SEND_WINDOW: u64 = 64 << 20;
const MIN_MTU_MAX: u16 = 1452;

/// An endpoint on `address`, with the socket buffers it got: receive, then send.
pub(crate) fn endpoint(
    address: SocketAddr,
    server: Option<ServerConfig>,
    tuning: Tuning,
) -> anyhow::Result<(Endpoint, [usize; 2])> {
    let (socket, buffers) = socket::bind(address, tuning.socket_buffer)?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(tuning.mtu)?;
    let endpoint = Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?;
    Ok((endpoint, buffers))
}

/// The settings of connections.
pub(crate) fn transport(tuning: Tuning) -> anyhow::Result<Arc<TransportConfig>> {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(tuning.initial_window.into());
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(tuning.mtu)
        .min_mtu(tuning.mtu.min(MIN_MTU_MAX))
        .mtu_discovery_config(None)
        .stream_receive_window(VarInt::from_u64(tuning.stream_window())?)
        .receive_window(VarInt::from_u64(tuning.connection_window())?)
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(cubic))
        .enable_segmentation_offload(true);
    Ok(Arc::new(transport))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// A server's TLS.
pub(crate) fn server_tls(identity: &Identity) -> anyhow::Result<QuicServerConfig> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(tls.try_into()?)
}

/// A client's TLS that trusts this certificate (PEM) and no other.
pub(crate) fn client_tls(certificate: &str) -> anyhow::Result<QuicClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tls.try_into()?)
}
