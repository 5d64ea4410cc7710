//! The parts of a simulated world, and the defaults of each.

use super::DISCARD;
use super::liar::Lie;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use stoq::hop::Transit;
use stoq::nic::simulated::{LinkConfig, SimulatedLink};
use stoq::node::{HandoverConfig, NodeConfig};
use stoq::quic::fleet_settings::FleetSettings;
use stoq::quic::transport::{PeerControl, QuicConfig};
use stoq::rights::Rights;
use stoq::seed::{ClockReading, Clocks, StoreConfig};
use stoq::session::SilenceLimits;

/// The parts of a world.
pub(crate) struct Setup {
    pub(crate) link: LinkConfig,
    pub(crate) gateway_quic: QuicConfig,
    pub(crate) client_quic: QuicConfig,
    pub(crate) gateway_workers: usize,
    /// The queues of the gateways' device, if they are fewer: its flows are then spread in software.
    pub(crate) gateway_queues: Option<usize>,
    /// A second switch, on which gateways and clients have a second port each: 10.78.0.1 beside 10.77.0.1. There it has a queue for each worker.
    pub(crate) second: Option<SimulatedLink>,
    pub(crate) clients: usize,
    pub(crate) client_workers: usize,
    pub(crate) store: StoreConfig,
    /// Gateways; the first is [`super::World::gateway`].
    pub(crate) gateways: usize,
    /// The pairs of gateways that are peer gateways of each other, counted from 0.
    pub(crate) peer_gateways: Vec<(usize, usize)>,
    /// How their connections differ from the others.
    pub(crate) peer_control: PeerControl,
    pub(crate) transit: Transit,
    /// What the peers of the gateways may ask for.
    pub(crate) rights: Arc<Rights>,
    /// Whether gateways keep passing payloads whose routes allow it.
    pub(crate) cache: bool,
    /// Gateways whose store lies about this payload.
    pub(crate) liars: Vec<(usize, Lie, Bytes)>,
    /// The first gateway's part in a fleet.
    pub(crate) fleet: Option<FleetSettings>,
    /// The parts of all gateways in a fleet. Clients then reach [`super::anycast_v4`] and [`super::anycast_v6`] by a router at [`super::ROUTER_MAC`].
    pub(crate) anycast: Vec<FleetSettings>,
    /// The gateways' device: a part of their MAC.
    pub(crate) device: u8,
    /// Whether gateways and clients give datagrams over IPv4 a UDP checksum.
    pub(crate) udp_checksum: bool,
    /// The gateways' wall clock.
    pub(crate) clock: WallClock,
    /// The smallest jump of the clock: frames that arrive within it arrive together.
    pub(crate) step: Duration,
    /// The queues that take messages in early data.
    pub(crate) replay_safe: Vec<u64>,
    /// How long the clients let their peers be silent.
    pub(crate) silence: SilenceLimits,
    /// How far the windows of a process may grow in all, bytes.
    pub(crate) window_budget_bytes: u64,
    pub(crate) seeds: Seeds,
}

/// Seeds of the endpoints' random choices, one after another; none: each endpoint asks the system.
#[derive(Clone, Default)]
pub(crate) struct Seeds(Option<Arc<AtomicU64>>);

impl Seeds {
    #[allow(dead_code, reason = "the worlds are repeated by seeds")]
    pub(crate) fn from(first: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(first))))
    }

    /// Whether there are seeds: the world is to be repeated.
    pub(super) fn are_given(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn next(&self) -> Option<[u8; 32]> {
        let seed = self.0.as_ref()?.fetch_add(1, Relaxed);
        Some(*blake3::hash(&seed.to_le_bytes()).as_bytes())
    }
}

impl Setup {
    /// The queues of a gateway's device, and the workers that use them.
    pub(super) fn gateway_device(&self) -> (usize, usize) {
        (self.gateway_queues.unwrap_or(self.gateway_workers), self.gateway_workers)
    }

    /// A gateway's part in a fleet.
    pub(super) fn of_fleet(&self, index: usize) -> NodeConfig {
        let fleet = self.anycast.get(index).or_else(|| self.fleet.as_ref().filter(|_| index == 0)).cloned();
        let handover = (!self.anycast.is_empty()).then(HandoverConfig::default);
        NodeConfig { fleet, handover, ..NodeConfig::default() }
    }

    /// Gateways in a row, each the peer gateway of the next.
    pub(crate) fn line(gateways: usize) -> Self {
        let peer_gateways = (1..gateways).map(|index| (index - 1, index)).collect();
        Self { gateways, peer_gateways, ..Self::default() }
    }

    /// Gateways in a ring.
    pub(crate) fn ring(gateways: usize) -> Self {
        let peer_gateways = (0..gateways).map(|index| (index, (index + 1) % gateways)).collect();
        Self { gateways, peer_gateways, ..Self::default() }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            link: LinkConfig { delay: Duration::from_micros(500), ..LinkConfig::default() },
            gateway_quic: QuicConfig::default(),
            client_quic: QuicConfig::default(),
            gateway_workers: 1,
            gateway_queues: None,
            second: None,
            clients: 1,
            client_workers: 1,
            store: StoreConfig::default(),
            gateways: 1,
            peer_gateways: Vec::new(),
            peer_control: PeerControl::default(),
            transit: Transit::Authenticated,
            rights: Arc::default(),
            cache: false,
            liars: Vec::new(),
            fleet: None,
            anycast: Vec::new(),
            device: 0,
            udp_checksum: true,
            clock: WallClock::default(),
            step: Duration::from_nanos(1),
            replay_safe: vec![DISCARD],
            silence: SilenceLimits::default(),
            window_budget_bytes: 0,
            seeds: Seeds::default(),
        }
    }
}

/// A wall clock that follows the virtual time and may be set.
#[derive(Clone)]
pub(crate) struct WallClock {
    start: Instant,
    ahead_s: Arc<AtomicI64>,
}

impl Default for WallClock {
    fn default() -> Self {
        Self { start: Instant::now(), ahead_s: Arc::default() }
    }
}

impl WallClock {
    /// The first time that it shows, seconds since the Unix epoch.
    const START_S: i64 = 2_000_000_000;
    /// The uptime at that moment, seconds.
    const UP_S: u64 = 1000;

    /// Sets the clock this many seconds ahead.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.ahead_s.store(seconds, Relaxed);
    }

    pub(super) fn clocks(&self) -> Clocks {
        let Self { start, ahead_s } = self.clone();
        Clocks::new(move |now| {
            let since_s = now.saturating_duration_since(start).as_secs();
            let unix_s = Self::START_S + since_s as i64 + ahead_s.load(Relaxed);
            ClockReading { unix_s: unix_s.max(0) as u64, up_s: Self::UP_S + since_s }
        })
    }
}
