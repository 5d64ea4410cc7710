//! An operator's settings of QUIC, and the quinn-proto configuration made from them.

use super::congestion::{Congestion, factory};
use super::release::Releasable;
use crate::limits::{
    ACK_DELAY_MS, CONNECTIONS_PER_NODE_DEFAULT, MTU_RETRY_MS, MTU_STEP_BYTES_MIN, MTU_STEPS_LEN,
    PACKET_MS_MAX, PACKET_THRESHOLD_LEN_MAX, STREAMS_FIRST_LEN, STREAMS_UNI_LEN_MAX, WINDOW_FIRST_BYTES,
};
use crate::memory;
use crate::wire::IpFamily;
use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, Side, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The IP and UDP headers, bytes: an MTU without them is the UDP payload.
const IPV4_UDP_HEADER_BYTES: u16 = 28;
const IPV6_UDP_HEADER_BYTES: u16 = 48;
/// The first flight, datagrams, and its limit, bytes. RFC 9002 §7.2 recommends ten, since RFC 6928 measured what a burst of ten does to the buffers
/// of 2010. Here no more than ten leave at once and the others are paced, and a cold start is a round trip shorter. Google's QUIC begins
/// with as many.
const FIRST_FLIGHT_LEN: u64 = 32;
const FIRST_FLIGHT_BYTES: u64 = FIRST_FLIGHT_LEN * 1472;
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
    /// Flow control for a connection, bytes the peer may be ahead, from the time at which the peer's handshake is complete and its bytes flow,
    /// as far as the budget allows it. Before that: [`WINDOW_FIRST_BYTES`].
    pub receive_window_bytes: u32,
    /// The largest receive window of a connection, bytes. A connection that uses its window up gets a larger one, up to four times the bytes
    /// that arrive in a round trip. A value no larger than [`QuicConfig::receive_window_bytes`] keeps that window.
    pub receive_window_max_bytes: u32,
    /// Unacknowledged bytes of a connection that are kept for sending: like [`QuicConfig::receive_window_bytes`] of what is received.
    pub send_window_bytes: u32,
    /// The largest send window of a connection, bytes: it grows like [`QuicConfig::receive_window_max_bytes`] says of the receive window.
    pub send_window_max_bytes: u32,
    /// What a process promises to its peers and holds for them, bytes: windows, answers, messages; 0 for a quarter of the machine's memory. A
    /// node takes more only while it holds less than what is left.
    pub window_budget_bytes: u64,
    /// Connections that one node may have opened to this process; 0: no bound. Another one is refused.
    pub connections_per_node_max: u32,
    /// Messages in QUIC datagrams that wait to be read, bytes; 0 takes none.
    pub datagram_receive_buffer_bytes: u32,
    /// Congestion control.
    pub congestion_control: Congestion,
    /// The most that each connection sends, bits a second of Ethernet frames, whatever its congestion controller; 0 for no bound. What
    /// [`Congestion::Reserved`] sends at.
    pub rate_bits_per_s: u64,
    /// Congestion window at the start, bytes; 0 for 32 packets, of which ten leave at once.
    pub initial_congestion_window_bytes: u32,
    /// A packet is lost when one sent this many packets later was acknowledged (RFC 9002 §6.1.1), or when 9/8 of the round-trip time
    /// have passed since it was sent and a later one was acknowledged (§6.1.2). At least 3.
    pub packet_threshold: u32,
    /// The peer acknowledges every this many packets, or after [`crate::limits::ACK_DELAY_MS`], if it has the extension
    /// draft-ietf-quic-ack-frequency; otherwise every two (RFC 9000 §13.2.2). Never more than the first flight holds.
    pub packets_per_ack: u32,
    /// UDP payload assumed to pass before path MTU discovery, bytes: 1200 passes everywhere. `0` is for paths that are thought to carry
    /// what the local device carries: with [`QuicConfig::mtu_discovery`] a connection begins at 1200 and tries the device's size first,
    /// which takes one round trip; if that does not pass, it tries half-way, and else stays at 1200. Without discovery `0` assumes the
    /// device's size.
    pub initial_udp_payload_bytes: u16,
    /// Search for a larger path MTU, up to the device's (RFC 8899).
    pub mtu_discovery: bool,
    /// Seeds the cycles of [`Congestion::Model`], for runs that are repeated; `None`: each connection draws its own.
    #[serde(skip)]
    pub model_seed: Option<u64>,
}

/// How the connections to one peer differ from the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerControl {
    /// [`QuicConfig::congestion_control`].
    pub congestion_control: Option<Congestion>,
    /// [`QuicConfig::rate_bits_per_s`].
    pub rate_bits_per_s: Option<u64>,
}

/// Settings that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuicError {
    /// [`Congestion::Reserved`] without a rate.
    #[error(
        "congestion_control = \"reserved\" needs the rate that is reserved for each connection; give rate_bits_per_s, such as 1000000000 for \
         1 Gbit/s, or another congestion control"
    )]
    NoRate,
}

/// Makes the configurations of connections over one device.
#[derive(Clone, Debug)]
pub struct Transports {
    quic: QuicConfig,
    device_mtu: u16,
}

impl Transports {
    /// For connections with these settings over a device of this MTU (layer-3 bytes).
    pub fn new(quic: QuicConfig, device_mtu: u16) -> Self {
        Self { quic, device_mtu }
    }

    /// For a connection with this address, in which this node is `side`.
    pub(crate) fn to(&self, remote: SocketAddr, side: Side, control: &PeerControl) -> Arc<TransportConfig> {
        let quic = self.quic.with(control);
        let quic = if side.is_server() { quic.opening() } else { quic };
        quic.node_transport(self.device_mtu, IpFamily::of(remote.ip()))
    }
}

/// The windows of a connection, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// The connection's receive window at first, and at least.
    pub connection_bytes: u64,
    /// The receive window once the peer is known and its bytes flow.
    pub connection_opening_bytes: u64,
    /// The largest receive window of the connection.
    pub connection_max_bytes: u64,
    /// The receive window of each stream.
    pub stream_bytes: u64,
    /// The send window at first, and at least.
    pub send_bytes: u64,
    /// The send window once the peer is known and bytes flow.
    pub send_opening_bytes: u64,
    /// The largest send window.
    pub send_max_bytes: u64,
}

impl Windows {
    /// Those of a connection in which this node is `side`. A peer that this node dialed gets the configured windows at once.
    pub fn of(&self, side: Side) -> Self {
        if side.is_server() {
            return *self;
        }
        let (connection_bytes, send_bytes) = (self.connection_opening_bytes, self.send_opening_bytes);
        Self { connection_bytes, send_bytes, ..*self }
    }
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
            connections_per_node_max: CONNECTIONS_PER_NODE_DEFAULT,
            datagram_receive_buffer_bytes: 1 << 20,
            congestion_control: Congestion::Model,
            rate_bits_per_s: 0,
            initial_congestion_window_bytes: 0,
            packet_threshold: PACKET_THRESHOLD_LEN_MAX,
            packets_per_ack: 10,
            initial_udp_payload_bytes: UDP_PAYLOAD_BYTES_MIN,
            mtu_discovery: true,
            model_seed: None,
        }
    }
}

impl QuicConfig {
    /// The quinn-proto configuration for connections of one family over a device of this MTU (layer-3 bytes), whose peers may open this
    /// number of bidirectional streams at once.
    pub fn transport(&self, device_mtu: u16, family: IpFamily, max_requests: u64) -> Arc<TransportConfig> {
        self.transport_of(device_mtu, family, (max_requests, STREAMS_UNI_LEN_MAX))
    }

    /// The same for a node's connections: their sessions let peers open more streams.
    pub(crate) fn node_transport(&self, device_mtu: u16, family: IpFamily) -> Arc<TransportConfig> {
        self.transport_of(device_mtu, family, (STREAMS_FIRST_LEN, STREAMS_FIRST_LEN))
    }

    fn transport_of(
        &self,
        device_mtu: u16,
        family: IpFamily,
        (bidirectional, unidirectional): (u64, u64),
    ) -> Arc<TransportConfig> {
        let largest = self.largest_payload(device_mtu, family).min(self.timely_payload());
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
            .max_concurrent_bidi_streams(VarInt::from_u64(bidirectional).unwrap_or(VarInt::MAX))
            .max_concurrent_uni_streams(VarInt::from_u64(unidirectional).unwrap_or(VarInt::MAX))
            .initial_mtu(self.first_payload(largest))
            .min_mtu(UDP_PAYLOAD_BYTES_MIN)
            .mtu_discovery_config(self.mtu_discovery.then(|| self.discovery(largest)))
            .datagram_receive_buffer_size(match self.datagram_receive_buffer_bytes {
                0 => None,
                bytes => Some(bytes as usize),
            })
            .enable_segmentation_offload(true);
        let payload = self.expected_payload(largest);
        self.set_losses_and_acks(&mut transport, payload);
        self.set_congestion(&mut transport, self.first_window(payload));
        Arc::new(transport)
    }

    /// The most bytes that leave in [`PACKET_MS_MAX`] at the connection's own rate, if it has one.
    fn timely_payload(&self) -> u16 {
        let bytes = self.rate_bits_per_s / 8 * PACKET_MS_MAX / 1000;
        match self.rate_bits_per_s {
            0 => u16::MAX,
            _ => u16::try_from(bytes).unwrap_or(u16::MAX).max(UDP_PAYLOAD_BYTES_MIN),
        }
    }

    /// The same with the windows of a connection whose peer is not known yet: the worker makes them larger.
    pub fn opening(&self) -> Self {
        let first = |bytes: u32| bytes.min(WINDOW_FIRST_BYTES as u32);
        Self {
            receive_window_bytes: first(self.receive_window_bytes),
            send_window_bytes: first(self.send_window_bytes),
            ..self.clone()
        }
    }

    /// How far a peer may be ahead of the readers of its streams, and this side ahead of the peer's acknowledgments.
    pub fn windows(&self) -> Windows {
        Windows {
            connection_bytes: WINDOW_FIRST_BYTES.min(self.receive_window_bytes.into()),
            connection_opening_bytes: self.receive_window_bytes.into(),
            connection_max_bytes: self.receive_window_max_bytes.max(self.receive_window_bytes).into(),
            stream_bytes: self.stream_receive_window_bytes.into(),
            send_bytes: WINDOW_FIRST_BYTES.min(self.send_window_bytes.into()),
            send_opening_bytes: self.send_window_bytes.into(),
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

    /// The UDP payload that the path is thought to carry, on a device that carries `largest`, bytes.
    fn expected_payload(&self, largest: u16) -> u16 {
        match self.initial_udp_payload_bytes {
            0 => largest,
            mtu => mtu.clamp(UDP_PAYLOAD_BYTES_MIN, largest),
        }
    }

    /// The UDP payload at the start, bytes. A handshake whose packets do not pass takes a probe timeout for each flight, the first of
    /// which is a second: what discovery can find out soon is not risked.
    fn first_payload(&self, largest: u16) -> u16 {
        match self.initial_udp_payload_bytes {
            0 if self.mtu_discovery => UDP_PAYLOAD_BYTES_MIN,
            _ => self.expected_payload(largest),
        }
    }

    /// The search for a larger size. quinn-proto probes the middle of what is left, until the next step is smaller than the minimum
    /// change; then it probes the upper end, if that is not nearer than the minimum change.
    fn discovery(&self, largest: u16) -> MtuDiscoveryConfig {
        let range = largest - self.first_payload(largest);
        let minimum_change = match self.initial_udp_payload_bytes {
            // A little more than half of the range: the upper end is the first probe. If it fails, the middle is far enough below it to be
            // the second, and the last.
            0 => range / 2 + 1,
            _ => (range / MTU_STEPS_LEN).max(MTU_STEP_BYTES_MIN),
        };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery
            .upper_bound(largest)
            .minimum_change(minimum_change)
            .black_hole_cooldown(Duration::from_millis(MTU_RETRY_MS));
        discovery
    }

    /// The congestion window at the start: never below RFC 9002's, since quinn-proto sends no packet larger than the window.
    fn first_window(&self, payload: u16) -> u64 {
        let payload = u64::from(payload);
        // RFC 9002 §7.2: of two datagrams at least, where they are larger than those of Ethernet.
        let default = (FIRST_FLIGHT_LEN * payload).min((2 * payload).max(FIRST_FLIGHT_BYTES));
        // quinn-proto sends while less than the window is in flight: a byte more, and the last of the datagrams goes too.
        (default + 1).max(self.initial_congestion_window_bytes.into())
    }

    /// When a packet counts as lost, and how often the peer acknowledges.
    fn set_losses_and_acks(&self, transport: &mut TransportConfig, payload: u16) {
        let threshold = self.packet_threshold.clamp(3, PACKET_THRESHOLD_LEN_MAX);
        // An acknowledgment that waits for more packets than the first flight holds comes only after the delay.
        let first_flight = self.first_window(payload) / u64::from(payload);
        let packets = u64::from(self.packets_per_ack).clamp(2, first_flight.max(2));
        // §6.2.1: a peer that acknowledges before packets can be deemed lost need not look for missing ones, which costs it time for each packet.
        let reordering = if packets < u64::from(threshold) { 0 } else { threshold - 1 };
        let mut acks = AckFrequencyConfig::default();
        // draft-ietf-quic-ack-frequency §4: how many packets a peer may receive without an immediate acknowledgment.
        acks.ack_eliciting_threshold(VarInt::from_u32(packets as u32 - 1))
            .max_ack_delay(Some(Duration::from_millis(ACK_DELAY_MS)))
            .reordering_threshold(VarInt::from_u32(reordering));
        transport.packet_threshold(threshold).ack_frequency_config(Some(acks));
    }

    fn set_congestion(&self, transport: &mut TransportConfig, initial_congestion_window_bytes: u64) {
        let rate = self.rate_bits_per_s;
        let factory =
            factory(self.congestion_control, initial_congestion_window_bytes, rate, self.model_seed);
        let rate_bits_per_s = (rate > 0).then_some(rate);
        let mtu_min = UDP_PAYLOAD_BYTES_MIN;
        transport.congestion_controller_factory(Arc::new(Releasable { factory, mtu_min, rate_bits_per_s }));
    }

    /// The same with a peer's own settings.
    pub fn with(&self, control: &PeerControl) -> Self {
        let mut quic = self.clone();
        quic.congestion_control = control.congestion_control.unwrap_or(quic.congestion_control);
        quic.rate_bits_per_s = control.rate_bits_per_s.unwrap_or(quic.rate_bits_per_s);
        quic
    }

    /// Checks settings against each other.
    ///
    /// # Errors
    /// A pair that cannot work, and what to write instead.
    pub fn check(&self) -> Result<(), QuicError> {
        match self.congestion_control {
            Congestion::Reserved if self.rate_bits_per_s == 0 => Err(QuicError::NoRate),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_of_a_slow_connection_leaves_in_time() {
        let payload =
            |rate_bits_per_s| QuicConfig { rate_bits_per_s, ..QuicConfig::default() }.timely_payload();
        assert_eq!(
            [100_000, 1_000_000, 10_000_000_000].map(payload),
            [UDP_PAYLOAD_BYTES_MIN, 6250, u16::MAX]
        );
        assert_eq!(payload(0), u16::MAX, "no rate, no bound");
    }
}
