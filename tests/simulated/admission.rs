//! Datagrams that are refused before QUIC, compared with QUIC's own judgment.

use crate::support::identities;
use bytes::BytesMut;
use proptest::prelude::*;
use quinn_proto::{Endpoint, EndpointConfig, ServerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use stoq::quic::admission::may_be_quic;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{ClientAuth, ServerTls, server_config};
use stoq::wire::IpFamily;

proptest! {
    /// QUIC itself is the oracle: it answers none of the datagrams refused before it.
    #[test]
    fn quic_would_have_ignored_every_refused_datagram(
        datagram in proptest::collection::vec(any::<u8>(), 0..1300), as_long: bool,
    ) {
        let mut datagram = datagram;
        if as_long && let Some(first) = datagram.first_mut() {
            *first |= 0x80;
        }
        prop_assume!(!may_be_quic(&datagram));
        let tls = ServerTls::new(identities()[0].clone(), ClientAuth::Off);
        let mut config = ServerConfig::with_crypto(server_config(&tls).unwrap());
        config.transport_config(QuicConfig::default().transport(1500, IpFamily::V4, 256));
        let mut quic = EndpointConfig::default();
        quic.supported_versions(vec![1]);
        let mut endpoint = Endpoint::new(Arc::new(quic), Some(Arc::new(config)), true, None);
        let remote = SocketAddr::from(([192, 0, 2, 1], 4433));
        let event =
            endpoint.handle(Instant::now(), remote, None, None, BytesMut::from(&datagram[..]), &mut Vec::new());
        prop_assert!(event.is_none());
    }
}
