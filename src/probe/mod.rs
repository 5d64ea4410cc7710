//! Applications that measure a gateway from its client's side: the round trip of a small message, the goodput of messages, of
//! payloads put and of payloads fetched, over one connection or many. They run on the worker's own thread, so that what they
//! show is the transport and not the scheduler.

mod blast;
mod ping;
mod pull;
mod push;

pub use blast::Blast;
pub use ping::Ping;
pub use pull::{Pull, Pulled};
pub use push::Push;

use crate::queue::{AppPort, Command, ConnectionEvent, ConnectionId, Credit, Delivery};
use crate::tls::NodeId;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Handshakes of one probe at once: more than a gateway takes without asking for proof of the address would only wait there.
const DIALS_AT_ONCE: usize = 16;

/// What a probe reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// All connections are up.
    Connected,
    /// One round trip.
    RoundTrip(Duration),
    /// All bytes have arrived: at the far application, by its own count, or here.
    Goodput {
        /// Payload bytes.
        bytes: u64,
        /// Messages, or requests.
        messages: u64,
        /// From the first byte's sending, on whichever connection, to the last answer.
        elapsed: Duration,
    },
    /// What the far application says of a payload that it did not keep.
    Dropped(String),
    /// The probe is over before its end.
    Failed(String),
}

/// How wide a probe is.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// Connections of this worker; with none the probe does nothing.
    pub connections: usize,
    /// Streams at once on each.
    pub streams: usize,
}

impl Width {
    /// One stream on one connection.
    pub const ONE: Self = Self { connections: 1, streams: 1 };

    /// Streams on all connections.
    pub fn lanes(self) -> usize {
        self.connections * self.streams
    }
}

/// A connection that is up.
#[derive(Debug)]
struct Up {
    connection: ConnectionId,
    node: Option<NodeId>,
    credit: Credit,
}

/// The connections of one probe, dialled a few at a time.
#[derive(Debug)]
struct Links {
    remote: SocketAddr,
    wanted: usize,
    dialled: usize,
    up: Vec<Up>,
    over: bool,
    reports: Sender<Report>,
}

impl Links {
    fn new(remote: SocketAddr, wanted: usize, reports: Sender<Report>) -> Self {
        Self { remote, wanted, dialled: 0, up: Vec::new(), over: false, reports }
    }

    fn dial(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while !self.over && self.dialled < self.wanted && self.dialled - self.up.len() < DIALS_AT_ONCE {
            let tag = self.dialled as u64;
            if port.send(Command::Connect { tag, remote: self.remote, early: false }).is_err() {
                break;
            }
            self.dialled += 1;
            worked = true;
        }
        worked
    }

    fn heard(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Connection(connection, ConnectionEvent::Connected { node, credit, .. }) => {
                self.up.push(Up { connection: *connection, node: *node, credit: credit.clone() });
                if self.is_ready() {
                    self.report(Report::Connected);
                }
            }
            Delivery::ConnectFailed { reason, .. }
            | Delivery::Connection(_, ConnectionEvent::Closed { reason }) => self.fail(reason.clone()),
            _ => {}
        }
    }

    /// Every connection is up, and none was lost.
    fn is_ready(&self) -> bool {
        !self.over && self.wanted > 0 && self.up.len() == self.wanted
    }

    fn fail(&mut self, reason: String) {
        self.over = true;
        self.report(Report::Failed(reason));
    }

    /// A receiver that is gone wants no more reports.
    fn report(&self, report: Report) {
        let _ = self.reports.send(report);
    }
}
