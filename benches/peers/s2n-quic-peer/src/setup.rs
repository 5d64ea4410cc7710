//! The socket, and the settings and counters of connections.

use peer_common::cli::Tuning;
use peer_common::socket;
use s2n_quic::provider::congestion_controller::{Cubic, cubic};
use s2n_quic::provider::event::{ConnectionInfo, ConnectionMeta, Subscriber, events};
use s2n_quic::provider::io::tokio::Provider as Io;
use s2n_quic::provider::limits::Limits;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that a stream takes before its writer has to wait.
const SEND_BUFFER_BYTES: u32 = 16 << 20;
/// Headers of IP and UDP: s2n-quic counts packets with them.
const HEADER_BYTES_V4: u16 = 28;
const HEADER_BYTES_V6: u16 = 48;

/// The socket with the buffers it got: receive, then send. GSO and GRO are on by default.
pub(crate) fn io(address: SocketAddr, tuning: Tuning) -> anyhow::Result<(Io, [usize; 2])> {
    let (socket, buffers) = socket::bind(address, tuning.socket_buffer)?;
    let mtu = tuning.mtu + if address.is_ipv4() { HEADER_BYTES_V4 } else { HEADER_BYTES_V6 };
    let io = Io::builder()
        .with_rx_socket(socket)?
        .with_max_mtu(mtu)?
        .with_initial_mtu(mtu)?
        .with_base_mtu(mtu)?
        .build()?;
    Ok((io, buffers))
}

/// The settings of connections.
pub(crate) fn limits(tuning: Tuning) -> anyhow::Result<Limits> {
    let limits = Limits::new()
        .with_data_window(tuning.connection_window())?
        .with_unidirectional_data_window(tuning.stream_window())?
        .with_max_send_buffer_size(SEND_BUFFER_BYTES)?;
    Ok(limits)
}

pub(crate) fn congestion(tuning: Tuning) -> Cubic {
    cubic::Builder::default().with_initial_congestion_window(tuning.initial_window).build()
}

/// Counters of a connection, with its cipher and key exchange.
#[derive(Clone, Default)]
pub(crate) struct Counters(Arc<Counted>);

#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) datagrams_sent: AtomicU64,
    pub(crate) send_calls: AtomicU64,
    pub(crate) packets_lost: AtomicU64,
    pub(crate) cipher: OnceLock<String>,
    pub(crate) key_exchange: OnceLock<String>,
}

impl std::ops::Deref for Counters {
    type Target = Counted;

    fn deref(&self) -> &Counted {
        &self.0
    }
}

impl Subscriber for Counters {
    type ConnectionContext = ();

    fn create_connection_context(&mut self, _: &ConnectionMeta, _: &ConnectionInfo<'_>) {}

    fn on_packet_lost(&mut self, (): &mut (), _: &ConnectionMeta, _: &events::PacketLost<'_>) {
        self.packets_lost.fetch_add(1, Ordering::Relaxed);
    }

    fn on_platform_tx(&mut self, _: &events::EndpointMeta, event: &events::PlatformTx) {
        self.datagrams_sent.fetch_add(event.count as u64, Ordering::Relaxed);
        self.send_calls.fetch_add(event.syscalls as u64, Ordering::Relaxed);
    }

    fn on_key_update(&mut self, (): &mut (), _: &ConnectionMeta, event: &events::KeyUpdate) {
        if let events::KeyType::OneRtt { .. } = event.key_type {
            let _ = self.cipher.set(format!("{:?}", event.cipher_suite));
        }
    }

    fn on_key_exchange_group(
        &mut self,
        (): &mut (),
        _: &ConnectionMeta,
        event: &events::KeyExchangeGroup<'_>,
    ) {
        let _ = self.key_exchange.set(event.chosen_group_name.to_owned());
    }
}
