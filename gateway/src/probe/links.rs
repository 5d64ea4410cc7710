//! The connections of one probe. All of them use the first of its addresses that answers (RFC 8305).

use super::report::{ProbeError, Report};
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use stoq::client::{ClientError, CloseReason, DialFailure};
use stoq::limits::ATTEMPT_DELAY_MS;
use stoq::names::GatewayAddress;
use stoq::queue::{AppPort, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Credit, Delivery};
use stoq::record::ErrorCode;
use stoq::tls::NodeId;

/// Handshakes of one probe at once: fewer than make a gateway ask for proof of the address.
const DIALS_AT_ONCE: usize = 16;
/// Set in the tags of attempts that are made before an address has answered.
const RACE: u64 = 1 << 32;

/// A gateway's addresses, in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct Remotes {
    /// The gateway as the user wrote it.
    name: String,
    addresses: Vec<SocketAddr>,
}

impl Remotes {
    /// The addresses of a gateway, in the order in which they are tried.
    pub fn new(gateway: &GatewayAddress, addresses: Vec<SocketAddr>) -> Self {
        Self { name: gateway.to_string(), addresses }
    }
}

impl From<SocketAddr> for Remotes {
    fn from(address: SocketAddr) -> Self {
        Self { name: address.to_string(), addresses: vec![address] }
    }
}

/// A connection that is up.
#[derive(Debug)]
pub(super) struct LinkUp {
    pub(super) connection: ConnectionId,
    pub(super) node: Option<NodeId>,
    pub(super) credit: Credit,
}

/// The connections of one probe, dialed a few at a time.
#[derive(Debug)]
pub(super) struct Links {
    remotes: Remotes,
    /// The first address that answered, or the only one.
    chosen: Option<SocketAddr>,
    /// The number of addresses tried so far.
    tried: usize,
    /// When the next address is due; none: now.
    next: Option<Instant>,
    /// Every failed attempt.
    failures: Vec<DialFailure>,
    /// Commands that end the other attempts, while the ring has no room for them.
    unsent: Vec<Command>,
    wanted: usize,
    dialed: usize,
    pub(super) up: Vec<LinkUp>,
    over: bool,
    reports: Sender<Report>,
}

impl Links {
    pub(super) fn new(remotes: impl Into<Remotes>, wanted: usize, reports: Sender<Report>) -> Self {
        let remotes = remotes.into();
        Self {
            chosen: if let [only] = remotes.addresses[..] { Some(only) } else { None },
            remotes,
            tried: 0,
            next: None,
            failures: Vec::new(),
            unsent: Vec::new(),
            wanted,
            dialed: 0,
            up: Vec::new(),
            over: false,
            reports,
        }
    }

    pub(super) fn dial(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(command) = self.unsent.pop() {
            if let Err(command) = port.send(command) {
                self.unsent.push(command);
                return worked;
            }
            worked = true;
        }
        let Some(remote) = self.chosen else { return self.race(now, port) };
        while !self.over && self.dialed < self.wanted && self.dialed - self.up.len() < DIALS_AT_ONCE {
            let tag = self.dialed as u64;
            if port.send(Command::Connect { tag, remote, early: false }).is_err() {
                break;
            }
            self.dialed += 1;
            worked = true;
        }
        worked
    }

    /// Tries the next address when it is due.
    fn race(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let due = self.wanted > 0 && !self.over && self.next.is_none_or(|at| at <= now);
        let Some(&remote) = self.remotes.addresses.get(self.tried).filter(|_| due) else { return false };
        let tag = RACE | self.tried as u64;
        if port.send(Command::Connect { tag, remote, early: false }).is_err() {
            return false;
        }
        self.tried += 1;
        self.next = Some(now + Duration::from_millis(ATTEMPT_DELAY_MS));
        true
    }

    pub(super) fn heard(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Connection(connection, ConnectionEvent::Connected { tag, node, credit, .. }) => {
                if let Some(tag) = tag.filter(|tag| tag & RACE != 0)
                    && !self.won(tag)
                {
                    return self.unsent.push(Command::On(*connection, ConnectionCommand::Disconnect));
                }
                self.up.push(LinkUp { connection: *connection, node: *node, credit: credit.clone() });
                if self.up.len() == 1 {
                    self.report(Report::Reached);
                }
                if self.is_ready() {
                    self.report(Report::Connected);
                }
            }
            Delivery::ConnectFailed { tag, reason } if tag & RACE != 0 => self.lost(*tag, reason),
            Delivery::ConnectFailed { reason, .. } => {
                let failed = self.chosen.map(|address| DialFailure { address, reason: reason.clone() });
                self.failures.extend(failed);
                self.unconnected();
            }
            Delivery::Connection(connection, ConnectionEvent::Closed { reason })
                if self.up.iter().any(|up| up.connection == *connection) =>
            {
                if let Some(remote) = self.chosen {
                    self.fail(ClientError::Lost { remote, reason: reason.clone() });
                }
            }
            _ => {}
        }
    }

    /// Fails where the peer takes no messages on the queue of an application of this kind, which the probe needs.
    pub(super) fn needs(&mut self, kind: &'static str, delivery: &Delivery) {
        if let &Delivery::Connection(_, ConnectionEvent::MessagesStopped { queue, code }) = delivery {
            self.fail(match code {
                ErrorCode::NotAuthorized => ProbeError::Unallowed(queue),
                _ => ProbeError::Untaken { queue, code, kind },
            });
        }
    }

    /// Chooses the address of this attempt and ends the others. False if an address is chosen already.
    fn won(&mut self, tag: u64) -> bool {
        if self.chosen.is_some() {
            return false;
        }
        self.chosen = self.remotes.addresses.get((tag & !RACE) as usize).copied();
        self.dialed = 1;
        let others = (0..self.tried as u64).map(|at| RACE | at).filter(|&other| other != tag);
        self.unsent.extend(others.map(|tag| Command::Abandon { tag }));
        true
    }

    fn lost(&mut self, tag: u64, reason: &CloseReason) {
        if self.chosen.is_some() {
            return;
        }
        self.next = None;
        if let Some(&address) = self.remotes.addresses.get((tag & !RACE) as usize) {
            self.failures.push(DialFailure { address, reason: reason.clone() });
        }
        if self.failures.len() == self.remotes.addresses.len() {
            self.unconnected();
        }
    }

    /// No connection came up.
    fn unconnected(&mut self) {
        let (remote, failures) = (self.remotes.name.clone(), std::mem::take(&mut self.failures));
        self.fail(ClientError::Connect { remote, failures });
    }

    /// Every connection is up, and none was lost.
    pub(super) fn is_ready(&self) -> bool {
        !self.over && self.wanted > 0 && self.up.len() == self.wanted
    }

    pub(super) fn fail(&mut self, error: impl Into<ProbeError>) {
        self.over = true;
        self.report(Report::Failed(error.into()));
    }

    /// Drops the report if its receiver has gone.
    pub(super) fn report(&self, report: Report) {
        let _ = self.reports.send(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn_proto::Side;
    use std::sync::mpsc::{Receiver, channel};
    use stoq::queue::{Sleeper, WorkerPort, rings};

    const LOST: ConnectionId = ConnectionId { worker: 0, slot: 1, generation: 1 };
    const WON: ConnectionId = ConnectionId { worker: 0, slot: 2, generation: 1 };

    struct Bench {
        links: Links,
        app: AppPort,
        worker: WorkerPort,
        heard: Receiver<Report>,
    }

    fn bench(wanted: usize) -> Bench {
        let (reports, heard) = channel();
        let addresses = (1..=2).map(|host| SocketAddr::from(([192, 0, 2, host], 4433))).collect();
        let remotes = Remotes::new(&"gateway.example".parse().unwrap(), addresses);
        let (app, worker) = rings(Sleeper::default().waker());
        Bench { links: Links::new(remotes, wanted, reports), app, worker, heard }
    }

    impl Bench {
        fn dialed(&mut self, now: Instant) -> Option<(u64, u8)> {
            self.links.dial(now, &mut self.app);
            match self.worker.command()? {
                Command::Connect { tag, remote: SocketAddr::V4(at), .. } => Some((tag, at.ip().octets()[3])),
                other => panic!("{other:?}"),
            }
        }

        fn up(&mut self, connection: ConnectionId, tag: u64) {
            let connected = ConnectionEvent::Connected {
                tag: Some(tag),
                side: Side::Client,
                node: None,
                peer_gateway: false,
                remote: SocketAddr::from(([192, 0, 2, 1], 4433)),
                credit: Credit::default(),
            };
            self.links.heard(&Delivery::Connection(connection, connected));
        }
    }

    #[test]
    fn every_connection_uses_the_first_address_that_answers() {
        let mut now = Instant::now();
        let mut bench = bench(2);
        let (slow, first) = bench.dialed(now).unwrap();
        assert_eq!((first, bench.dialed(now)), (1, None));
        now += Duration::from_millis(ATTEMPT_DELAY_MS);
        let (fast, second) = bench.dialed(now).unwrap();
        assert_eq!(second, 2);
        bench.up(WON, fast);
        bench.links.dial(now, &mut bench.app);
        assert!(matches!(bench.worker.command(), Some(Command::Abandon { tag }) if tag == slow));
        let (rest, at) = bench.dialed(now).unwrap();
        assert_eq!(at, 2);
        // Another attempt that connects nevertheless is closed, and its end is no failure.
        bench.up(LOST, slow);
        bench.links.dial(now, &mut bench.app);
        assert!(matches!(bench.worker.command(), Some(Command::On(LOST, ConnectionCommand::Disconnect))));
        bench
            .links
            .heard(&Delivery::Connection(LOST, ConnectionEvent::Closed { reason: CloseReason::Local }));
        assert!(matches!(bench.heard.try_recv(), Ok(Report::Reached)));
        assert!(bench.heard.try_recv().is_err());
        bench.up(ConnectionId { slot: 3, ..WON }, rest);
        assert!(matches!(bench.heard.try_recv(), Ok(Report::Connected)));
    }

    #[test]
    fn a_failure_of_every_address_names_each_reason() {
        let now = Instant::now();
        let mut bench = bench(1);
        for reason in [CloseReason::TimedOut, CloseReason::Version] {
            let (tag, _) = bench.dialed(now).unwrap();
            bench.links.heard(&Delivery::ConnectFailed { tag, reason });
        }
        let Ok(Report::Failed(error)) = bench.heard.try_recv() else { panic!("no failure is reported") };
        let told = format!(
            "cannot connect to gateway.example:4433: 192.0.2.1:4433: {}; 192.0.2.2:4433: {}",
            CloseReason::TimedOut,
            CloseReason::Version
        );
        assert_eq!(error.to_string(), told);
        assert_eq!(bench.dialed(now), None);
    }
}
