//! The rows: paths with names.

use super::path::{Buffer, Disturbance, Flow, Path, Transfer};
use std::fmt;
use std::time::Duration;

/// A path with a name, and what should be reached on it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) path: Path,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) aim: Option<Aim>,
}

/// What should be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// This share of the link.
    Link(f64),
    /// Jain's index of the flows.
    Jain(f64),
    /// This share of the link for each flow.
    Each(f64),
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(share) => write!(f, "{share:.2}"),
            Self::Jain(index) => write!(f, "Jain {index:.2}"),
            Self::Each(share) => write!(f, "each {share:.2}"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Path { rate_bits_per_s, rtt, buffer, loss, warm, measured, .. } = &self.path;
        write!(f, "{:<24} {} Gbit/s × {} ms, ", self.name, rate_bits_per_s / 1e9, rtt.as_secs_f64() * 1e3)?;
        match buffer {
            Buffer::Products(products) => write!(f, "buffer {products} products")?,
            Buffer::Packets(packets) => write!(f, "buffer {packets} packets")?,
            Buffer::Bytes(bytes) => write!(f, "buffer {bytes} bytes")?,
        }
        write!(
            f,
            ", loss {} %, measured {:.1} s after {:.1} s",
            loss * 100.0,
            measured.as_secs_f64(),
            warm.as_secs_f64()
        )?;
        self.aim.map_or(Ok(()), |aim| write!(f, ", aim {aim}"))
    }
}

impl Row {
    pub(crate) fn new(name: &str, path: Path) -> Self {
        Self { name: name.into(), path, transfers: Transfer::ALL.into(), aim: None }
    }

    fn aim(self, share: f64) -> Self {
        Self { aim: Some(Aim::Link(share)), ..self }
    }

    /// Flows that share it; they are compared by messages.
    fn flows(name: &str, flows: Vec<Flow>, aim: Aim) -> Self {
        let mut path = path(1.0, 50.0);
        let last = flows.iter().map(|flow| flow.start_s).fold(0.0, f64::max);
        (path.warm, path.measured) = (Duration::from_secs_f64(last + 10.0), Duration::from_secs(10));
        path.flows = flows;
        Self { name: name.into(), path, transfers: vec![Transfer::Message], aim: Some(aim) }
    }
}

fn path(gbit_s: f64, rtt_ms: f64) -> Path {
    Path::new(gbit_s * 1e9, Duration::from_secs_f64(rtt_ms / 1e3))
}

/// A row of 1 Gbit/s × 50 ms.
fn one(name: &str, aim: f64, change: impl FnOnce(&mut Path)) -> Row {
    let mut path = path(1.0, 50.0);
    path.measured = Duration::from_secs(3);
    change(&mut path);
    Row::new(name, path).aim(aim)
}

fn lossy(name: &str, gbit_s: f64, rtt_ms: f64, percent: f64, aim: f64) -> Row {
    let mut path = path(gbit_s, rtt_ms);
    path.loss = percent / 100.0;
    // Losses by chance differ more from second to second.
    path.measured = path.measured.max(Duration::from_secs(if gbit_s > 1.0 { 2 } else { 5 }));
    Row::new(name, path).aim(aim)
}

/// Every row, in the order of the table.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = [0.1, 5.0, 20.0, 50.0, 100.0, 200.0]
        .into_iter()
        .map(|rtt_ms| Row::new(&format!("10G-{rtt_ms}ms"), path(10.0, rtt_ms)).aim(0.95))
        .collect();
    for (percent, aim) in [(0.01, 0.95), (0.1, 0.90), (1.0, 0.80)] {
        rows.push(lossy(&format!("10G-100ms-{percent}%"), 10.0, 100.0, percent, aim));
    }
    rows.push(one("1G-50ms", 0.95, |_| ()));
    for (percent, aim) in [(0.01, 0.95), (0.1, 0.95), (1.0, 0.90)] {
        rows.push(lossy(&format!("1G-50ms-{percent}%"), 1.0, 50.0, percent, aim));
    }
    let held = |micros| (0.01, Duration::from_micros(micros));
    rows.push(one("reorder-1%-0.1ms", 0.95, |path| path.reordering = held(100)));
    rows.push(one("reorder-1%-2ms", 0.95, |path| path.reordering = held(2000)));
    rows.push(one("buffer-0.1", 0.90, |path| path.buffer = Buffer::Products(0.1)));
    rows.push(one("buffer-100p", 0.85, |path| path.buffer = Buffer::Packets(100.0)));
    rows.push(one("burst-30", 0.90, |path| path.burst = (1e-4, 30.0)));
    rows.push(one("outage-2s", 0.90, |path| {
        let out = (Duration::from_secs(2), Disturbance::Outage(Duration::from_secs(2)));
        // Full again 3 s after its end.
        (path.disturbance, path.warm) = (Some(out), Duration::from_secs(7));
    }));
    rows.push(one("back-1:100", 0.95, |path| path.back = 0.01));
    rows.push(one("back-1:1000", 0.85, |path| path.back = 0.001));
    let mut satellite = lossy("satellite-0.1%", 1.0, 600.0, 0.1, 0.85);
    (satellite.path.warm, satellite.path.measured) = (Duration::from_secs(10), Duration::from_secs(10));
    rows.push(satellite);
    for count in [2, 4, 8] {
        let flows = (0..count).map(|flow| Flow { start_s: f64::from(flow), controller: None }).collect();
        rows.push(Row::flows(&format!("fair-{count}"), flows, Aim::Jain(0.95)));
    }
    for (name, ours, cubic) in [("beside-cubic-ours-first", 0.0, 1.0), ("beside-cubic-cubic-first", 1.0, 0.0)]
    {
        let ours = Flow { start_s: ours, controller: None };
        let cubic = Flow { start_s: cubic, controller: Some("cubic".into()) };
        rows.push(Row::flows(name, vec![ours, cubic], Aim::Each(0.3)));
    }
    rows.push(one("initial-mtu-0", 0.95, |path| {
        (path.mtu, path.path_mtu, path.initial_udp_payload_bytes) = (9000, 1500, Some(0));
        path.warm = Duration::from_secs(4);
    }));
    rows.push(one("mtu-hole", 0.90, |path| {
        path.set_mtu(9000);
        // Found within 2 s, full a second later.
        path.disturbance = Some((Duration::from_secs(2), Disturbance::Hole(1500)));
        path.warm = Duration::from_secs(5);
    }));
    let mut jumbo = path(10.0, 100.0);
    jumbo.set_mtu(9000);
    rows.push(Row::new("jumbo", jumbo).aim(0.95));
    rows
}
