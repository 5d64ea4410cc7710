//! Sends datagrams at a rate, straight into a network queue: without a worker and connections, on one thread that spins on the clock.

use super::{Load, Pace};
use quinn_proto::Transmit;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stoq::counters::{Counter, Counters};
use stoq::datagram::{Network, NetworkInfo};
use stoq::limits::TX_SEGMENTS_LEN_MAX;
use stoq::network::Drive;

/// How long the link may take to come up, and the gateway to answer ARP or NDP.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long, at the end of the flood, the device may take to send the frames that it holds.
const LINGER: Duration = Duration::from_millis(40);
/// The wait after that: answers arrive, and the reader of a ring in memory empties it (RFC 2544 §26.1 waits as well).
const SETTLE: Duration = Duration::from_millis(250);
/// RFC 9000 §17.2: bits of the first byte.
const LONG_HEADER: u8 = 0x80;

/// The plan of a flood.
#[derive(Debug)]
pub struct Flood {
    /// The destination.
    pub gateway: SocketAddr,
    /// The datagrams.
    pub load: Load,
    /// Datagrams a second; 0 for as many as the device takes.
    pub rate_pps: f64,
    /// The number of datagrams, rounded up to whole flights; none: as many as the time allows.
    pub count: Option<u64>,
    /// The longest duration.
    pub duration: Duration,
    /// Ends it early.
    pub interrupt: Arc<AtomicBool>,
}

/// The result of a flood. Counts are of datagrams, one a frame. `offered` = `sent` + `refused`. `intended` = `offered` + `late`, and
/// datagrams that became due at the last moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FloodReport {
    /// Datagrams due at the rate; without a rate, those that were offered.
    pub intended: u64,
    /// Offered to the device in time.
    pub offered: u64,
    /// Taken by the device.
    pub sent: u64,
    /// Offered, and not taken in time: the device, or the reader of its ring, was too slow.
    pub refused: u64,
    /// Never made in time: this generator was too slow, or was not running.
    pub late: u64,
    /// Sent before the flood, to find the gateway's station. Not in `sent`.
    pub warm_up: u64,
    /// Datagrams that came back: Retry, Initial and Handshake packets, Version Negotiation.
    pub answers: u64,
    /// Datagrams that came back with a short header: stateless resets, and packets that a server sends before a handshake is complete.
    pub answers_short: u64,
    /// The duration.
    pub seconds: f64,
}

/// Why no flood could be sent.
#[derive(Debug, thiserror::Error)]
pub enum FloodError {
    /// The device is down.
    #[error("the link did not come up within {} s: is the gateway's side running?", RESOLVE.as_secs())]
    LinkDown,
    /// Nothing on the link has the gateway's address.
    #[error("{0} did not answer ARP or NDP: are both sides on one network?")]
    Unreachable(SocketAddr),
    /// The device takes nothing of this size.
    #[error("the device takes no datagram of {0} bytes: give a smaller --size, or raise its MTU")]
    Refused(usize),
}

/// Gives the network and the result.
impl Drive for Flood {
    type Output = (NetworkInfo, Result<FloodReport, FloodError>);

    fn drive<N: Network>(self, mut network: N) -> Self::Output {
        let info = network.info();
        (info, Flooding::new(self, &mut network).run())
    }
}

/// A flood on its network.
struct Flooding<'a, N> {
    network: &'a mut N,
    counters: Counters,
    flood: Flood,
    report: FloodReport,
}

impl<'a, N: Network> Flooding<'a, N> {
    fn new(flood: Flood, network: &'a mut N) -> Self {
        Self { network, counters: Counters::default(), flood, report: FloodReport::default() }
    }

    fn run(mut self) -> Result<FloodReport, FloodError> {
        self.resolve()?;
        let lost_before = self.lost();
        let started = Instant::now();
        let end = started + self.flood.duration;
        let mut pace = Pace::new(self.flood.rate_pps, started);
        let (mut now, mut given, mut stuck) = (started, 0, 0);
        let count = self.flood.count.unwrap_or(u64::MAX);
        while now < end && given < count && !self.flood.interrupt.load(Ordering::Relaxed) {
            // While the device is full, no datagrams are made: a queue here would hide that the device does not take them.
            if stuck == 0 {
                self.report.late += pace.give_up(now);
                let due = pace.due(now, (count - given).min(TX_SEGMENTS_LEN_MAX as u64));
                if due > 0 {
                    let made = self.give(now, due as usize);
                    pace.made(made);
                    given += made;
                }
            } else {
                self.report.refused += pace.give_up(now);
            }
            stuck = self.turn(now);
            now = Instant::now();
        }
        self.report.seconds = (now - started).as_secs_f64();
        // A pause at the end makes datagrams late, too.
        let left = pace.give_up(now);
        *(if stuck == 0 { &mut self.report.late } else { &mut self.report.refused }) += left;
        let intended = pace.intended(now);
        let linger = now + LINGER;
        while stuck > 0 && now < linger {
            stuck = self.turn(now);
            now = Instant::now();
        }
        let lost = self.lost() - lost_before + stuck as u64;
        let settled = now + SETTLE;
        while now < settled {
            self.turn(now);
            now = Instant::now();
        }
        let report = &mut self.report;
        report.sent = given - lost.min(given);
        report.refused += lost.min(given);
        report.offered = report.sent + report.refused;
        report.intended = intended.unwrap_or(report.offered);
        Ok(self.report)
    }

    /// Waits for the link, and finds the gateway's station by one datagram of the load.
    fn resolve(&mut self) -> Result<(), FloodError> {
        let deadline = Instant::now() + RESOLVE;
        let mut now = Instant::now();
        while !self.network.link_up() {
            if now >= deadline || self.flood.interrupt.load(Ordering::Relaxed) {
                return Err(FloodError::LinkDown);
            }
            self.turn(now);
            now = Instant::now();
        }
        self.report.warm_up = self.give(now, 1);
        while self.counters.get(Counter::TxBytes) == 0 {
            if self.counters.get(Counter::DropTooBig) > 0 {
                let (_, len) = self.flood.load.next(1);
                return Err(FloodError::Refused(len));
            }
            if now >= deadline || self.lost() > 0 || self.flood.interrupt.load(Ordering::Relaxed) {
                return Err(FloodError::Unreachable(self.flood.gateway));
            }
            self.turn(now);
            now = Instant::now();
        }
        while now < deadline && self.turn(now) > 0 {
            now = Instant::now();
        }
        Ok(())
    }

    /// Makes about `want` datagrams and gives them to the network. Returns their number.
    fn give(&mut self, now: Instant, want: usize) -> u64 {
        let (bytes, segment) = self.flood.load.next(want);
        let transmit = Transmit {
            destination: self.flood.gateway,
            ecn: None,
            size: bytes.len(),
            segment_size: Some(segment),
            src_ip: None,
        };
        self.network.send(now, &self.counters, &transmit, bytes);
        (bytes.len() / segment) as u64
    }

    /// Receives datagrams, and gives waiting frames to the device. Returns the number of frames that the device has not taken.
    fn turn(&mut self, now: Instant) -> usize {
        let (report, counters) = (&mut self.report, &self.counters);
        self.network.receive(now, counters, |datagram| match datagram.payload.first() {
            Some(first) if first & LONG_HEADER == 0 => report.answers_short += 1,
            _ => report.answers += 1,
        });
        if self.network.poll_timeout().is_some_and(|at| at <= now) {
            self.network.handle_timeout(now, counters);
        }
        self.network.flush(now, counters)
    }

    /// Datagrams that were given to the network and never left it.
    fn lost(&self) -> u64 {
        const LOST: [Counter; 7] = [
            Counter::DropNoRoute,
            Counter::DropNeighborQueueFull,
            Counter::DropNeighborUnreachable,
            Counter::DropNoBuffer,
            Counter::DropTxStalled,
            Counter::DropTooBig,
            Counter::DropSocketError,
        ];
        LOST.iter().map(|&counter| self.counters.get(counter)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::Mix;
    use stoq::datagram::NetworkKind;
    use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
    use stoq::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};

    fn station(link: &SimulatedLink, host: u8) -> UserSpace<SimulatedNic> {
        let nic = link.add_station([2, 0, 0, 0, 0, host], 1).remove(0);
        let config = InterfaceConfig {
            addresses: vec![format!("10.77.0.{host}/24").parse().unwrap()],
            next_hop_v4: None,
            next_hop_v6: None,
            vlan: None,
            udp_port: 4433,
            udp_checksum: true,
        };
        UserSpace::new(nic, &config, NetworkKind::Simulated).unwrap()
    }

    #[test]
    fn a_flood_with_a_count_offers_exactly_that_number_of_datagrams() {
        for (rate_pps, count) in [(0.0, 1000), (1e6, 1), (1e6, 130)] {
            let (report, seen) = flooded(Flood { count: Some(count), ..flood(rate_pps, 60_000) });
            assert_eq!((report.offered, report.sent + report.warm_up), (count, seen), "{report:?}");
        }
    }

    fn flood(rate_pps: f64, millis: u64) -> Flood {
        Flood {
            gateway: SocketAddr::from(([10, 77, 0, 1], 4433)),
            load: Load::garbage(Mix::new(&[(64, 64)], false, false, 1500).unwrap()),
            rate_pps,
            count: None,
            duration: Duration::from_millis(millis),
            interrupt: Arc::default(),
        }
    }

    /// Floods another host on a real-time link. Returns the report, and the number of datagrams that the host received.
    fn flooded(flood: Flood) -> (FloodReport, u64) {
        let link = SimulatedLink::new(LinkConfig { queue_len_max: 1 << 20, ..LinkConfig::default() });
        let (mut near, mut far) = (station(&link, 2), station(&link, 1));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let far = scope.spawn(|| {
                let (counters, mut seen, mut last) = (Counters::default(), 0, false);
                loop {
                    let now = Instant::now();
                    let taken = far.receive(now, &counters, |datagram| {
                        assert_eq!(datagram.payload.len(), 18);
                        seen += 1;
                    });
                    far.flush(now, &counters);
                    if taken == 0 && std::mem::replace(&mut last, over.load(Ordering::Acquire)) {
                        return seen;
                    }
                }
            });
            let report = Flooding::new(flood, &mut near).run().unwrap();
            over.store(true, Ordering::Release);
            (report, far.join().unwrap())
        })
    }

    #[test]
    fn a_flood_at_a_rate_sends_at_that_rate_and_counts_every_datagram() {
        let (report, seen) = flooded(flood(20_000.0, 200));
        assert_eq!(report.sent + report.warm_up, seen);
        assert_eq!((report.offered, report.refused, report.warm_up), (report.sent, 0, 1));
        assert!(report.intended >= 4000 && report.intended >= report.sent + report.late);
        // At most one burst may have become due at the last moment.
        assert!(report.intended - report.sent - report.late <= 64, "{report:?}");
    }

    #[test]
    fn a_flood_without_a_rate_sends_as_much_as_the_device_takes() {
        let (report, seen) = flooded(flood(0.0, 50));
        assert_eq!((report.sent + 1, report.late, report.intended), (seen, 0, report.offered));
        assert!(report.sent > 0);
    }

    #[test]
    fn an_absent_gateway_is_an_error_and_not_a_flood() {
        let link = SimulatedLink::new(LinkConfig::default());
        let result = Flooding::new(flood(1000.0, 50), &mut station(&link, 2)).run();
        assert!(matches!(result, Err(FloodError::Unreachable(_))), "{result:?}");
    }
}
