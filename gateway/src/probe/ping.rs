//! The round trip of a message.

use super::links::{Links, Remotes};
use super::report::Report;
use bytes::Bytes;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use stoq::application::Application;
use stoq::queue::{AppPort, ConnectionEvent, Delivery};

/// Sends a message, waits for its echo, sends the next.
#[derive(Debug)]
pub struct Ping {
    queue: u64,
    payload: Bytes,
    interval: Duration,
    count: u64,
    links: Links,
    sent: Option<Instant>,
    next: Option<Instant>,
}

impl Ping {
    /// Makes `count` round trips of `payload` to the echo application on `queue`. Waits at least `interval` after each echo.
    pub fn new(
        remotes: impl Into<Remotes>,
        queue: u64,
        payload: Bytes,
        interval: Duration,
        count: u64,
        reports: Sender<Report>,
    ) -> Self {
        let links = Links::new(remotes, usize::from(count > 0), reports);
        Self { queue, payload, interval, count, links, sent: None, next: None }
    }
}

impl Application for Ping {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.links.dial(now, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.links.heard(&delivery);
            self.links.needs("echo", &delivery);
            if let Delivery::Connection(_, ConnectionEvent::Message { .. }) = delivery
                && let Some(sent) = self.sent.take()
            {
                self.links.report(Report::RoundTrip(sent.elapsed()));
                self.next = Some(now + self.interval);
            }
        }
        if self.links.is_ready()
            && self.sent.is_none()
            && self.count > 0
            && self.next.is_none_or(|at| now >= at)
            && let [up, ..] = &self.links.up[..]
            && port.send_message(up.connection, &up.credit, self.queue, self.payload.clone()).is_ok()
        {
            self.count -= 1;
            self.sent = Some(Instant::now());
            worked = true;
        }
        worked
    }
}
