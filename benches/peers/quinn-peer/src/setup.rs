//! The socket, the transport and TLS: one set of choices for both sides.

use crate::Tuning;
use anyhow::Context;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::sync::Arc;

/// The name in the certificate.
pub(crate) const SERVER_NAME: &str = "quinn-peer";
/// The only cipher suite offered.
pub(crate) const CIPHER: &str = "TLS_AES_128_GCM_SHA256";
/// The only key exchange offered. STOQ's is post-quantum; it costs the handshake, not the bytes after it.
pub(crate) const KEY_EXCHANGE: &str = "X25519";

const STREAM_RECEIVE_WINDOW: u32 = 64 << 20;
const RECEIVE_WINDOW: u32 = 128 << 20;
const SEND_WINDOW: u64 = 64 << 20;
const MIN_MTU_MAX: u16 = 1452;

/// An endpoint on `address`, with the socket buffers it got: receive, then send.
pub(crate) fn endpoint(
    address: SocketAddr,
    server: Option<ServerConfig>,
    tuning: Tuning,
) -> anyhow::Result<(Endpoint, [usize; 2])> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_recv_buffer_size(tuning.socket_buffer)?;
    socket.set_send_buffer_size(tuning.socket_buffer)?;
    socket.bind(&address.into()).with_context(|| format!("cannot bind {address}"))?;
    // The kernel keeps twice what is asked for, for its own bookkeeping, and reports that.
    let buffers = [socket.recv_buffer_size()? / 2, socket.send_buffer_size()? / 2];
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(tuning.mtu)?;
    let endpoint = Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))?;
    Ok((endpoint, buffers))
}

/// How connections behave.
pub(crate) fn transport(tuning: Tuning) -> Arc<TransportConfig> {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(tuning.initial_window);
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(tuning.mtu)
        .min_mtu(tuning.mtu.min(MIN_MTU_MAX))
        .mtu_discovery_config(None)
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(cubic))
        .enable_segmentation_offload(true);
    Arc::new(transport)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// A server's TLS with a certificate made now.
pub(crate) fn server_tls() -> anyhow::Result<(QuicServerConfig, CertificateDer<'static>)> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.into()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    Ok((tls.try_into()?, certificate))
}

/// A client's TLS that trusts this certificate and no other.
pub(crate) fn client_tls(certificate: CertificateDer<'static>) -> anyhow::Result<QuicClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tls.try_into()?)
}
