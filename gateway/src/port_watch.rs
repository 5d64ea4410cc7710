//! Checks the ports of a running gateway once a second: whether each is there, its link, the kernel's interface under it, and whether any peer
//! acknowledges packets. A port may report packets as sent and lose all of them.

use crate::faults::started;
use crate::panics;
use crate::periodic::Periodic;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{INTERFACE_INTERVAL_MS, UNHEARD_S};
use stoq::network::{DeviceView, LostPort, MemifMismatch, OpenPort};
use stoq::nic::interface::{Interface, InterfaceState, InterfaceView};
use stoq::worker::WorkerStatus;

/// A running watch. Dropping it ends it.
pub struct PortWatch {
    lost: Arc<OnceLock<LostPort>>,
    _thread: Periodic,
}

impl PortWatch {
    /// Watches the ports of this device, named so, whose workers show these statuses. When a port is lost, the gateway ends: only a new start
    /// opens the port again.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        device: DeviceView,
        names: Vec<String>,
        statuses: Vec<Arc<WorkerStatus>>,
    ) -> anyhow::Result<Self> {
        let mut hearing = Hearing::default();
        let mut links: Vec<_> = names.iter().map(|_| Link::default()).collect();
        let lost = Arc::<OnceLock<_>>::default();
        let noted = lost.clone();
        let watch = move || {
            if let Some(found) = device.lost().filter(|_| noted.get().is_none()) {
                tracing::error!("{found}");
                let _ = noted.set(found);
                panics::end();
            }
            for (at, (name, link)) in names.iter().zip(&mut links).enumerate() {
                let port = device.ports().get(at);
                match port.and_then(OpenPort::interface) {
                    Some(interface) => look(interface),
                    None => {
                        link.look(name, statuses.iter().all(|status| status.gauges.link_up(at)));
                        link.compare(name, port.and_then(OpenPort::mismatch));
                    }
                }
            }
            let acks = statuses.iter().map(|status| status.counters.get(Counter::QuicNewAcks));
            let waiting = statuses.iter().map(|status| status.gauges.unacknowledged.load(Relaxed));
            hearing.look(acks.sum(), waiting.sum());
        };
        let thread = Periodic::start("stoq-port", Duration::from_millis(INTERFACE_INTERVAL_MS), watch);
        Ok(Self { lost, _thread: started("watches the port", thread)? })
    }

    /// The end of the port, if that is why the gateway ends.
    pub fn lost(&self) -> Option<LostPort> {
        self.lost.get().cloned()
    }

    /// Where the end of the port is noted. The first one stays.
    pub fn noted(&self) -> Arc<OnceLock<LostPort>> {
        self.lost.clone()
    }
}

/// The link of a port without an interface of the kernel.
#[derive(Debug, Default)]
struct Link {
    /// Whether it was up; `None` before the first look.
    was_up: Option<bool>,
    /// What was told of the queues of a memif's other side, while it is so.
    mismatch: Option<MemifMismatch>,
}

impl Link {
    /// Logs a change, and a link that is down at the first look. Returns true when it logs.
    fn look(&mut self, device: &str, is_up: bool) -> bool {
        let before = self.was_up.replace(is_up).unwrap_or(true);
        match (before, is_up) {
            (true, false) => tracing::warn!(device, "the link of the port is down"),
            (false, true) => tracing::info!(device, "the link of the port is up"),
            _ => return false,
        }
        true
    }

    /// Logs that the other side of a memif has other queues. Returns true when it logs.
    fn compare(&mut self, device: &str, mismatch: Option<MemifMismatch>) -> bool {
        if std::mem::replace(&mut self.mismatch, mismatch) == mismatch {
            return false;
        }
        match mismatch {
            Some(MemifMismatch::Fewer { shared, own }) => tracing::warn!(
                device,
                "the other side of the memif has {shared} of this side's {own} queues: the others receive nothing and send by the first; \
                 give both sides as many (network.queues, by default workers.count)"
            ),
            Some(MemifMismatch::Refused { own }) => tracing::warn!(
                device,
                "the server of the memif ends each connection before the link is up, as one with fewer than this client's {own} queues does: \
                 set network.queues to the server's number"
            ),
            None => return false,
        }
        true
    }
}

/// Logs what changed.
fn look(interface: &Interface) {
    let Some((before, now)) = interface.look() else { return };
    let InterfaceView { name, state, mtu } = &now;
    if before.name != *name {
        tracing::warn!(
            before = before.name,
            name,
            "the port's interface has a new name; write it into network.device before the next start"
        );
    }
    if before.mtu != *mtu && mtu.is_some() {
        tracing::warn!(name, before = before.mtu, mtu, "the port's interface has another MTU");
    }
    match now.fault() {
        Some(fault) if before.state != *state => tracing::error!("{fault}"),
        None if before.state != InterfaceState::Up => tracing::info!(name, "the port's interface is up"),
        _ => {}
    }
}

/// Finds out whether any peer acknowledges packets.
#[derive(Debug, Default)]
struct Hearing {
    acks: u64,
    /// Seconds since the last acknowledgment in which some connection waited for one.
    unheard: u32,
    /// The last consecutive seconds in which no connection waited for one.
    idle: u32,
}

impl Hearing {
    /// To be called once a second, with the acknowledgments so far and the connections that wait for one. Returns true when it logs that no
    /// peer acknowledges. The seconds of a connection that gives up and of its next attempts add up.
    fn look(&mut self, acks: u64, waiting: usize) -> bool {
        if std::mem::replace(&mut self.acks, acks) != acks {
            if self.unheard >= UNHEARD_S {
                tracing::info!("peers acknowledge again what this gateway sends");
            }
            (self.unheard, self.idle) = (0, 0);
            return false;
        }
        if waiting == 0 {
            self.idle += 1;
            if self.idle >= UNHEARD_S {
                self.unheard = 0;
            }
            return false;
        }
        self.idle = 0;
        self.unheard = self.unheard.saturating_add(1);
        let says = self.unheard == UNHEARD_S;
        if says {
            tracing::warn!(
                connections = waiting,
                seconds = UNHEARD_S,
                "no peer acknowledges what this gateway sends: either these peers are gone, or the port or the path loses \
                 every packet though the device counts it as sent"
            );
        }
        says
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_link_is_logged_once() {
        let mut link = Link::default();
        let told = [false, false, true, true, true, false, false, true].map(|is_up| link.look("port", is_up));
        assert_eq!(told, [true, false, true, false, false, true, false, true]);
        assert!(!Link::default().look("port", true), "a port that is up at the start");
    }

    #[test]
    fn other_queues_of_a_memif_are_told_once_a_connection() {
        let fewer = |shared| Some(MemifMismatch::Fewer { shared, own: 4 });
        let refused = Some(MemifMismatch::Refused { own: 4 });
        let mut link = Link::default();
        let looks = [None, fewer(1), fewer(1), None, fewer(1), fewer(2), refused, refused, None];
        let told = looks.map(|mismatch| link.compare("port", mismatch));
        assert_eq!(told, [false, true, false, false, true, true, true, false, false]);
    }

    #[test]
    fn silence_is_logged_once_and_an_acknowledgment_ends_it() {
        let mut hearing = Hearing::default();
        assert!(!hearing.look(5, 3));
        let told = (0..100).filter(|_| hearing.look(5, 3)).count();
        assert_eq!(told, 1);
        assert!(!hearing.look(6, 3));
        assert!((1..UNHEARD_S).all(|_| !hearing.look(6, 1)));
        assert!(hearing.look(6, 1));
    }

    #[test]
    fn silent_seconds_of_repeated_attempts_add_up() {
        let mut hearing = Hearing::default();
        let told = (0..60).filter(|second| hearing.look(0, usize::from(second % 10 > 3))).count();
        assert_eq!(told, 1);
    }

    #[test]
    fn idle_connections_and_a_peer_that_dies_now_and_then_are_not_silence() {
        let mut hearing = Hearing::default();
        assert!((0..1000).all(|_| !hearing.look(9, 0)));
        // A peer that dies now and then, with idle time between.
        for _ in 0..10 {
            assert!((1..UNHEARD_S).all(|_| !hearing.look(9, 1)));
            assert!((0..UNHEARD_S).all(|_| !hearing.look(9, 0)));
        }
    }
}
