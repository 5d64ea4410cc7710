//! Looks at the port of a running gateway once a second: at the kernel's interface under it, and at whether anybody hears what the
//! gateway sends. A port may claim to send, and lose everything.

use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{INTERFACE_INTERVAL_MS, UNHEARD_S};
use stoq::network::DeviceView;
use stoq::nic::interface::{Interface, InterfaceState, InterfaceView};
use stoq::worker::WorkerStatus;

/// A running watch; it ends when dropped.
pub struct PortWatch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PortWatch {
    /// Watches this device, whose workers show these statuses.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(device: DeviceView, statuses: Vec<Arc<WorkerStatus>>) -> anyhow::Result<Self> {
        let (end, ended) = channel();
        let mut hearing = Hearing::default();
        let watch = move || {
            let interval = Duration::from_millis(INTERFACE_INTERVAL_MS);
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                if let Some(interface) = device.interface() {
                    look(interface);
                }
                let acks = statuses.iter().map(|status| status.counters.get(Counter::QuicNewAcks));
                let waiting = statuses.iter().map(|status| status.gauges.unacknowledged.load(Relaxed));
                hearing.look(acks.sum(), waiting.sum());
            }
        };
        let thread = std::thread::Builder::new().name("stoq-port".into()).spawn(watch);
        Ok(Self {
            end: Some(end),
            thread: Some(thread.context("cannot start the thread that watches the port")?),
        })
    }
}

impl Drop for PortWatch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the port panicked");
        }
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
            "the port's interface has another name: network.device must name it before the next start"
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

/// Whether any peer acknowledges what is sent.
#[derive(Debug, Default)]
struct Hearing {
    acks: u64,
    /// Looks since the last acknowledgment at which some connection waited for one.
    unheard: u32,
    /// Looks since then at which none did.
    idle: u32,
}

impl Hearing {
    /// Looks once a second; gives true when it says that nobody hears. Connections that give up and are tried again add up.
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
    fn silence_is_told_once_and_an_acknowledgment_ends_it() {
        let mut hearing = Hearing::default();
        assert!(!hearing.look(5, 3));
        let told = (0..100).filter(|_| hearing.look(5, 3)).count();
        assert_eq!(told, 1);
        assert!(!hearing.look(6, 3));
        assert!((1..UNHEARD_S).all(|_| !hearing.look(6, 1)));
        assert!(hearing.look(6, 1));
    }

    #[test]
    fn connections_that_give_up_and_are_tried_again_add_up() {
        let mut hearing = Hearing::default();
        let told = (0..60).filter(|second| hearing.look(0, usize::from(second % 10 > 3))).count();
        assert_eq!(told, 1);
    }

    #[test]
    fn quiet_peers_and_a_peer_that_died_long_ago_are_no_silence() {
        let mut hearing = Hearing::default();
        assert!((0..1000).all(|_| !hearing.look(9, 0)));
        // One that dies now and then, and is forgotten in between.
        for _ in 0..10 {
            assert!((1..UNHEARD_S).all(|_| !hearing.look(9, 1)));
            assert!((0..UNHEARD_S).all(|_| !hearing.look(9, 0)));
        }
    }
}
