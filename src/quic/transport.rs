//! An operator's settings of QUIC, and the quinn-proto configuration made from them.

use super::release::Releasable;
use crate::limits::STREAMS_UNI_LEN_MAX;
use crate::memory;
use crate::wire::IpFamily;
use quinn_proto::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn_proto::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The IP and UDP headers, bytes: an MTU without them is the UDP payload.
const IPV4_UDP_HEADER_BYTES: u16 = 28;
const IPV6_UDP_HEADER_BYTES: u16 = 48;
/// RFC 9002 §7.2: the limit of the first ten datagrams, bytes.
const INITIAL_WINDOW_BYTES: u64 = 14_720;
/// RFC 9000 §14: the UDP payload that every QUIC path carries, bytes.
const UDP_PAYLOAD_BYTES_MIN: u16 = 1200;

/// How connections behave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuicConfig {
    /// A connection that receives nothing for this time is lost, milliseconds; 0: no bound from this side. The smaller value of both
    /// peers counts.
    pub idle_timeout_ms: u32,
    /// Send a PING on connections that are quiet for this time, milliseconds; 0 never.
    pub keep_alive_ms: u32,
    /// Flow control for one stream, bytes the peer may be ahead.
    pub stream_receive_window_bytes: u32,
    /// Flow control for a connection, bytes the peer may be ahead: at first, and at least.
    pub receive_window_bytes: u32,
    /// The largest receive window of a connection, bytes. A connection that uses its window up gets a larger one, up to four times the bytes
    /// that arrive in a round trip. A value no larger than [`QuicConfig::receive_window_bytes`] keeps that window.
    pub receive_window_max_bytes: u32,
    /// Unacknowledged bytes of a connection that are kept for sending: at first, and at least.
    pub send_window_bytes: u32,
    /// The largest send window of a connection, bytes: it grows like [`QuicConfig::receive_window_max_bytes`] says of the receive window.
    pub send_window_max_bytes: u32,
    /// The windows of all connections of a process past their first size, bytes; 0 for a quarter of the machine's memory.
    pub window_budget_bytes: u64,
    /// Messages in QUIC datagrams that wait to be read, bytes; 0 takes none.
    pub datagram_receive_buffer_bytes: u32,
    /// Congestion control.
    pub congestion_control: Congestion,
    /// Congestion window at the start, bytes; 0 for RFC 9002's ten packets.
    pub initial_congestion_window_bytes: u32,
    /// UDP payload assumed to pass before path MTU discovery, bytes: 1200 passes everywhere. `0` takes the
    /// local device's, for links whose other end carries the same.
    pub initial_udp_payload_bytes: u16,
    /// Search for a larger path MTU, up to the device's (RFC 8899).
    pub mtu_discovery: bool,
}

/// quinn-proto's congestion controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 9002 §7.
    Newreno,
    /// BBR; experimental in quinn-proto.
    Bbr,
}

/// The windows of a connection, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// The connection's receive window at first, and at least.
    pub connection_bytes: u64,
    /// The largest receive window of the connection.
    pub connection_max_bytes: u64,
    /// The receive window of each stream.
    pub stream_bytes: u64,
    /// The send window at first, and at least.
    pub send_bytes: u64,
    /// The largest send window.
    pub send_max_bytes: u64,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            idle_timeout_ms: 30_000,
            keep_alive_ms: 5_000,
            stream_receive_window_bytes: 16 << 20,
            receive_window_bytes: 64 << 20,
            receive_window_max_bytes: 640 << 20,
            send_window_bytes: 16 << 20,
            send_window_max_bytes: 640 << 20,
            window_budget_bytes: 0,
            datagram_receive_buffer_bytes: 1 << 20,
            congestion_control: Congestion::Cubic,
            initial_congestion_window_bytes: 0,
            initial_udp_payload_bytes: UDP_PAYLOAD_BYTES_MIN,
            mtu_discovery: true,
        }
    }
}

impl QuicConfig {
    /// The quinn-proto configuration for connections of one family over a device of this MTU (layer-3 bytes).
    pub fn transport(&self, device_mtu: u16, family: IpFamily, max_requests: u64) -> Arc<TransportConfig> {
        let largest = self.largest_payload(device_mtu, family);
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(match self.idle_timeout_ms {
                0 => None,
                ms => Some(IdleTimeout::from(VarInt::from_u32(ms))),
            })
            .keep_alive_interval(match self.keep_alive_ms {
                0 => None,
                ms => Some(Duration::from_millis(ms.into())),
            })
            .stream_receive_window(VarInt::from_u32(self.stream_receive_window_bytes))
            .receive_window(VarInt::from_u32(self.receive_window_bytes))
            .send_window(self.send_window_bytes.into())
            .max_concurrent_bidi_streams(VarInt::from_u64(max_requests).unwrap_or(VarInt::MAX))
            .max_concurrent_uni_streams(VarInt::from_u64(STREAMS_UNI_LEN_MAX).unwrap_or(VarInt::MAX))
            .initial_mtu(self.first_payload(largest))
            .mtu_discovery_config(self.mtu_discovery.then(|| {
                let mut discovery = MtuDiscoveryConfig::default();
                discovery.upper_bound(largest);
                discovery
            }))
            .datagram_receive_buffer_size(match self.datagram_receive_buffer_bytes {
                0 => None,
                bytes => Some(bytes as usize),
            })
            .enable_segmentation_offload(true);
        self.set_congestion(&mut transport, self.first_window(self.first_payload(largest)));
        Arc::new(transport)
    }

    /// How far a peer may be ahead of the readers of its streams, and this side ahead of the peer's acknowledgments.
    pub fn windows(&self) -> Windows {
        Windows {
            connection_bytes: self.receive_window_bytes.into(),
            connection_max_bytes: self.receive_window_max_bytes.max(self.receive_window_bytes).into(),
            stream_bytes: self.stream_receive_window_bytes.into(),
            send_bytes: self.send_window_bytes.into(),
            send_max_bytes: self.send_window_max_bytes.max(self.send_window_bytes).into(),
        }
    }

    /// See [`QuicConfig::window_budget_bytes`]; 0 is resolved.
    pub fn window_budget_bytes(&self) -> u64 {
        match self.window_budget_bytes {
            0 => memory::of_machine() / 4,
            bytes => bytes,
        }
    }

    /// The largest UDP payload that a device of this MTU carries in one family, bytes.
    pub fn largest_payload(&self, device_mtu: u16, family: IpFamily) -> u16 {
        let headers = match family {
            IpFamily::V4 => IPV4_UDP_HEADER_BYTES,
            IpFamily::V6 => IPV6_UDP_HEADER_BYTES,
        };
        device_mtu.saturating_sub(headers).max(UDP_PAYLOAD_BYTES_MIN)
    }

    /// The UDP payload assumed before path MTU discovery, on a device that carries `largest`, bytes.
    fn first_payload(&self, largest: u16) -> u16 {
        match self.initial_udp_payload_bytes {
            0 => largest,
            mtu => mtu.clamp(UDP_PAYLOAD_BYTES_MIN, largest),
        }
    }

    /// The congestion window at the start: never below RFC 9002's, since quinn-proto sends no packet larger than the window.
    fn first_window(&self, payload: u16) -> u64 {
        let payload = u64::from(payload);
        // RFC 9002 §7.2: ten datagrams, limited to the larger of 14,720 bytes and two datagrams.
        let default = (10 * payload).min((2 * payload).max(INITIAL_WINDOW_BYTES));
        default.max(self.initial_congestion_window_bytes.into())
    }

    fn set_congestion(&self, transport: &mut TransportConfig, initial_congestion_window_bytes: u64) {
        macro_rules! controller {
            ($config:ident) => {{
                let mut config = $config::default();
                config.initial_window(initial_congestion_window_bytes);
                transport.congestion_controller_factory(Arc::new(Releasable(Arc::new(config))));
            }};
        }
        match self.congestion_control {
            Congestion::Cubic => controller!(CubicConfig),
            Congestion::Newreno => controller!(NewRenoConfig),
            Congestion::Bbr => controller!(BbrConfig),
        }
    }
}
