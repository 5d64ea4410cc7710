//! What a measurement found.

use serde::Serialize;
use std::time::Duration;
use stoq::send_limit::LimitTimes;

/// Round trips, microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trips {
    /// How many there were.
    pub count: usize,
    /// The shortest.
    pub min_us: f64,
    /// Half of them were shorter.
    pub p50_us: f64,
    /// 99 of 100 were shorter.
    pub p99_us: f64,
}

impl Trips {
    /// Of these times, in any order.
    pub fn of(mut trips: Vec<Duration>) -> Self {
        trips.sort_unstable();
        let last = trips.len().saturating_sub(1) as f64;
        let at = |quantile: f64| {
            trips.get((last * quantile) as usize).map_or(0.0, |trip| trip.as_nanos() as f64 / 1e3)
        };
        Self { count: trips.len(), min_us: at(0.0), p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// The way from the client to the gateway.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ForthReport {
    /// Payload that arrived, bits a second, over the last two thirds of the load.
    pub bits_per_s: f64,
    /// Payload bytes that arrived in all.
    pub bytes: u64,
    /// How long the load lasted, seconds.
    pub seconds: f64,
    /// Round trips of small messages on another connection meanwhile.
    pub round_trips: Trips,
    /// QUIC packets that the load's connection sent in that part, and those of them that it took for lost.
    pub sent_packets: u64,
    /// See [`ForthReport::sent_packets`].
    pub lost_packets: u64,
    /// Packets taken for lost before that part: while the controller looks for the rate, it may overflow the buffer.
    pub start_lost_packets: u64,
    /// The share of sent packets that were taken for lost, 0 to 1.
    pub loss: f64,
    /// Times in that part that congestion made it slow down.
    pub congestion_events: u64,
    /// The congestion window at the end, bytes.
    pub congestion_window_bytes: u64,
    /// The send window at the end, bytes.
    pub send_window_bytes: u64,
    /// How long each limit kept the connection from sending more, of that part.
    pub limited_s: LimitTimes,
}

/// The way from the gateway to the client, loaded by echoes: the way forth carries the same bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BackReport {
    /// Payload that arrived, bits a second, over the last two thirds of the load.
    pub bits_per_s: f64,
    /// Whether the way forth, which brings what is echoed, may be what bounds this rate.
    pub is_bounded_by_forth: bool,
    /// Payload bytes that arrived in all.
    pub bytes: u64,
    /// How long the load lasted, seconds.
    pub seconds: f64,
    /// Round trips of small messages on another connection meanwhile.
    pub round_trips: Trips,
    /// The most memory of bytes behind gaps that was seen: above 0, packets were lost or overtaken on the way back.
    pub held_bytes_max: u64,
    /// The receive window at the end, bytes.
    pub receive_window_bytes: u64,
}

/// Where a key is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdviceSide {
    /// In this client's configuration.
    Client,
    /// In the gateway's.
    Gateway,
}

/// A key of `[quic]` with its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Where.
    pub side: AdviceSide,
    /// The key.
    pub key: &'static str,
    /// The value, as it is written in the file.
    pub value: String,
    /// Why.
    pub why: String,
}

/// A path.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PathReport {
    /// The controller of the client's connections.
    pub congestion_control: &'static str,
    /// The bound of their rate, bits a second of Ethernet frames; 0: none.
    pub rate_bits_per_s: u64,
    /// Round trips without load.
    pub idle: Trips,
    /// UDP payload that the path carries, as far as it was searched, bytes.
    pub udp_payload_bytes: u16,
    /// The way to the gateway.
    pub forth: ForthReport,
    /// The way from it.
    pub back: BackReport,
    /// What the client cannot see, and where it is seen.
    pub not_visible: &'static [&'static str],
    /// What to set; empty: nothing.
    pub advice: Vec<Advice>,
}

/// See [`PathReport::not_visible`].
pub(super) const NOT_VISIBLE: &[&str] = &[
    "loss on the way back: the gateway counts it, in its /debug/connections",
    "what limits the gateway's sending: likewise",
    "reordering on either way: QUIC tolerates it, up to packet_threshold packets, and counts none",
];
