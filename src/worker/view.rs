//! A worker's figures, for operators.

use crate::send_limit::{LimitTimes, SendLimit};
use crate::tls::NodeId;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The figures of the worker's last survey, at most a second old.
#[derive(Debug, Default)]
pub struct Gauges {
    /// The worker's ports whose links are down, a bit each.
    pub links_down: AtomicU32,
    /// Deliveries that wait for applications, of all rings.
    pub deliveries: AtomicUsize,
    /// Commands that wait for the worker, of all rings.
    pub commands: AtomicUsize,
    /// Connection attempts that wait for their turn.
    pub attempts: AtomicUsize,
    /// Connections that peers began and whose handshakes are not complete.
    pub half_open: AtomicUsize,
    /// Those of them whose clients have not proven their addresses.
    pub half_open_unproven: AtomicUsize,
    /// Whether a client must prove its address before its handshake begins: too many other handshakes were begun and not completed.
    pub must_prove: AtomicBool,
    /// Connections with something to send that wait for the device.
    pub senders: AtomicUsize,
    /// Connections with unacknowledged packets that had no acknowledgment for [`crate::limits::UNACKNOWLEDGED_MS`].
    pub unacknowledged: AtomicUsize,
    pub(super) peer_gateways: Mutex<Vec<(NodeId, bool)>>,
}

impl Gauges {
    /// Whether the link of this port is up, by the order of [`crate::datagram::NetworkInfo::ports`].
    pub fn link_up(&self, port: usize) -> bool {
        self.links_down.load(Relaxed) & 1 << port == 0
    }

    /// Each peer gateway, and whether this worker's connection to it is up.
    pub fn peer_gateways(&self) -> Vec<(NodeId, bool)> {
        self.peer_gateways.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection, for troubleshooting.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConnectionView {
    /// The worker that owns it.
    pub worker: u16,
    /// Its place in the worker's table.
    pub slot: u32,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The peer's node ID, if it showed a certificate.
    pub node: Option<NodeId>,
    /// Whether it was opened here.
    pub outgoing: bool,
    /// Whether it leads to a peer gateway that this node dials.
    pub peer_gateway: bool,
    /// Whether its handshake is over.
    pub established: bool,
    /// Requests in flight, of both sides.
    pub requests: usize,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u64,
    /// Congestion window, bytes.
    pub window_bytes: u64,
    /// Memory of the bytes behind gaps in the peer's streams, bytes.
    pub held_bytes: u64,
    /// How far the peer may be ahead of its readers here, bytes.
    pub receive_window_bytes: u64,
    /// The bytes that may be sent without an acknowledgment; the peer's windows may allow less.
    pub send_window_bytes: u64,
    /// UDP payload that the path carries, bytes.
    pub mtu_bytes: u16,
    /// QUIC packets sent.
    pub sent_packets: u64,
    /// The sent packets that are taken for lost.
    pub lost_packets: u64,
    /// The number of times that congestion made it slow down.
    pub congestion_events: u64,
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// What keeps it from sending more now.
    pub limit: SendLimit,
    /// The time that each limit did since the connection began; as JSON in seconds.
    pub limited_s: LimitTimes,
}
