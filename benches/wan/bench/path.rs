//! A path between two sites, and the transfer over it.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use stoq::nic::simulated::LinkConfig;

/// IPv4, UDP and QUIC with its tag, bytes of a packet that are no payload.
const HEADERS_BYTES: f64 = 60.0;
/// The Ethernet header, bytes of a frame beside its packet.
const ETHERNET_BYTES: u64 = 14;
/// Preamble, frame check sequence and gap (IEEE 802.3), bytes.
const OVERHEAD_BYTES: u64 = 24;

/// The direction and the kind of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transfer {
    /// The client puts a payload.
    Put,
    /// The client gets one.
    Get,
    /// The client sends messages of 64 KiB on one queue.
    Message,
}

impl Transfer {
    pub(crate) const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Message];

    /// Whether the client has the bytes.
    pub(super) fn client_sends(self) -> bool {
        matches!(self, Self::Put | Self::Message)
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Message => "message",
        })
    }
}

impl FromStr for Transfer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|transfer| transfer.to_string() == text);
        found.with_context(|| format!("{text:?} is no transfer: put, get or message"))
    }
}

/// What the bottleneck holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Buffer {
    /// Products of rate and round-trip time.
    Products(f64),
    /// Packets of the path's MTU.
    Packets(f64),
    Bytes(f64),
}

/// One of the connections that share the path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Flow {
    /// When it begins, seconds.
    pub(crate) start_s: f64,
    /// Its congestion control; none: that of the benchmark.
    pub(crate) controller: Option<String>,
}

/// What happens to the path for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Disturbance {
    /// Nothing passes, either way, for this long.
    Outage(Duration),
    /// From then on only packets up to this size pass, bytes.
    Hole(u16),
}

/// A path between two sites. "Forth" is the way of the bytes that are transferred.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path {
    pub(crate) rate_bits_per_s: f64,
    pub(crate) rtt: Duration,
    pub(crate) buffer: Buffer,
    /// Probability of losing a frame forth.
    pub(crate) loss: f64,
    /// Probability that a run of losses begins, and its mean length, frames.
    pub(crate) burst: (f64, f64),
    /// Probability of holding a frame back, and for how long at most.
    pub(crate) reordering: (f64, Duration),
    /// The way back's rate over that forth. Its buffer has as many bytes as that forth.
    pub(crate) back: f64,
    pub(crate) back_loss: f64,
    /// The devices' largest packet, and the path's, bytes.
    pub(crate) mtu: u16,
    pub(crate) path_mtu: u16,
    /// [`stoq::quic::transport::QuicConfig::initial_udp_payload_bytes`]; none: the default.
    pub(crate) initial_udp_payload_bytes: Option<u16>,
    pub(crate) disturbance: Option<(Duration, Disturbance)>,
    pub(crate) flows: Vec<Flow>,
    /// What passes before measuring begins, and how long it takes.
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

impl Path {
    /// A path of this rate and round-trip time, with a buffer of one product and no losses.
    pub(crate) fn new(rate_bits_per_s: f64, rtt: Duration) -> Self {
        let (warm, measured) = spans(rtt);
        Self {
            rate_bits_per_s,
            rtt,
            buffer: Buffer::Products(1.0),
            loss: 0.0,
            burst: (0.0, 1.0),
            reordering: (0.0, Duration::ZERO),
            back: 1.0,
            back_loss: 0.0,
            mtu: 1500,
            path_mtu: 1500,
            initial_udp_payload_bytes: None,
            disturbance: None,
            flows: vec![Flow { start_s: 0.0, controller: None }],
            warm,
            measured,
        }
    }

    pub(crate) fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
        (self.warm, self.measured) = spans(rtt);
    }

    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        (self.mtu, self.path_mtu) = (mtu, mtu);
    }

    pub(super) fn end(&self) -> Duration {
        self.warm + self.measured
    }

    /// The largest packet at the end of a run, bytes.
    fn last_mtu(&self) -> u16 {
        let path = self.path_mtu.min(self.mtu);
        match self.disturbance {
            Some((_, Disturbance::Hole(mtu))) => mtu.min(path),
            _ => path,
        }
    }

    /// What the link carries as payload, bits a second.
    pub(super) fn full_bits_per_s(&self) -> f64 {
        let mtu = f64::from(self.last_mtu());
        self.rate_bits_per_s * (mtu - HEADERS_BYTES) / (mtu + (ETHERNET_BYTES + OVERHEAD_BYTES) as f64)
    }

    /// The product of rate and round-trip time, bytes.
    pub(super) fn product_bytes(&self) -> f64 {
        self.rate_bits_per_s * self.rtt.as_secs_f64() / 8.0
    }

    /// A payload that no run comes to the end of, bytes.
    pub(super) fn content_bytes(&self) -> u64 {
        let most = self.rate_bits_per_s / 8.0 * self.end().as_secs_f64();
        (most as u64).next_power_of_two().max(64 << 20)
    }

    fn buffer_bytes(&self) -> u64 {
        let packet = f64::from(self.path_mtu) + (ETHERNET_BYTES + OVERHEAD_BYTES) as f64;
        let bytes = match self.buffer {
            Buffer::Products(products) => products * self.product_bytes(),
            Buffer::Packets(packets) => packets * packet,
            Buffer::Bytes(bytes) => bytes,
        };
        // No router holds less than a burst.
        bytes.max(20.0 * packet) as u64
    }

    /// The way forth.
    pub(super) fn forth(&self, seed: u64) -> LinkConfig {
        LinkConfig {
            loss: self.loss,
            burst: self.burst.0,
            burst_len: self.burst.1,
            reordering: self.reordering.0,
            reordering_delay: self.reordering.1,
            ..self.quiet(seed, 1.0)
        }
    }

    /// The way back.
    pub(super) fn back(&self, seed: u64) -> LinkConfig {
        LinkConfig { loss: self.back_loss, ..self.quiet(seed, self.back) }
    }

    /// A way that loses nothing by chance.
    pub(super) fn quiet(&self, seed: u64, share: f64) -> LinkConfig {
        LinkConfig {
            seed,
            mtu: self.mtu,
            delay: self.rtt / 2,
            bandwidth_bits_per_s: Some((self.rate_bits_per_s * share) as u64),
            buffer_bytes: Some(self.buffer_bytes()),
            overhead_bytes: OVERHEAD_BYTES,
            path_mtu: (self.path_mtu < self.mtu).then_some(self.path_mtu),
            ..LinkConfig::default()
        }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.rate_bits_per_s < 1e5 || self.rate_bits_per_s * self.back < 1e4 {
            bail!("a path carries at least 100 kbit/s forth and 10 kbit/s back");
        }
        if self.measured.is_zero() {
            bail!("--seconds is 0: nothing would be measured");
        }
        if self.path_mtu < 1280 || self.mtu < 1280 || self.mtu > 9600 {
            bail!("an MTU is 1280 to 9600");
        }
        let chances = [self.loss, self.burst.0, self.reordering.0, self.back_loss];
        if chances.iter().any(|chance| !(0.0..=1.0).contains(chance)) {
            bail!("a probability is 0 to 1, or 0% to 100%");
        }
        Ok(())
    }
}

/// A path must be full within 3 s of a cold start, within 20 round trips where that is less; then it is measured.
fn spans(rtt: Duration) -> (Duration, Duration) {
    let warm = (rtt * 20).clamp(Duration::from_millis(500), Duration::from_secs(3));
    (warm, (rtt * 10).max(Duration::from_secs(1)))
}
