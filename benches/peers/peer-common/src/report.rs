//! The form of a result: one JSON object.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The event that a server prints once it accepts connections, like `stoq-gateway run --json`. Scripts wait for it.
pub fn ready(listen: std::net::SocketAddr, buffers: [usize; 2]) {
    println!("{}", json!({ "event": "up", "listen": listen, "socket_buffers_bytes": buffers }));
}

/// Prints what a server has received, while it receives.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    every: Option<Duration>,
    started: Instant,
    printed: Option<Instant>,
    bytes: u64,
}

impl Meter {
    /// A meter that prints at most once in `every_ms`, and nothing without it.
    pub fn new(every_ms: Option<u64>) -> Self {
        Self { every: every_ms.map(Duration::from_millis), started: Instant::now(), printed: None, bytes: 0 }
    }

    /// Counts bytes of a stream, in order.
    pub fn add(&mut self, bytes: u64) {
        let Some(every) = self.every else { return };
        self.bytes += bytes;
        let now = Instant::now();
        if bytes > 0 && self.printed.is_none_or(|before| now - before >= every) {
            self.printed = Some(now);
            let at_s = (now - self.started).as_secs_f64();
            println!("{}", json!({ "event": "received", "at_s": at_s, "bytes": self.bytes }));
        }
    }
}

/// Goodput: the bytes that the server counted, over the time from the first send to its answer.
///
/// # Errors
/// The server counted another number of bytes than was sent.
pub fn bulk(sent: u64, counted: u64, elapsed: Duration) -> anyhow::Result<Value> {
    anyhow::ensure!(counted == sent, "the server counted {counted} bytes of {sent}");
    let seconds = elapsed.as_secs_f64();
    let rate = counted as f64 * 8.0 / seconds / 1e9;
    Ok(json!({ "operation": "bulk", "bytes": counted, "seconds": seconds, "gbit_per_s": rate }))
}

/// Prints a result with the fields that every run has.
pub fn print(mut result: Value, common: Value, as_json: bool) {
    if let (Value::Object(result), Value::Object(common)) = (&mut result, common) {
        result.extend(common);
    }
    if as_json {
        println!("{result}");
    } else {
        println!("{result:#}");
    }
}
