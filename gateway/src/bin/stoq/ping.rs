//! `stoq ping`.

use crate::output;
use crate::session::ClientOptions;
use bytes::Bytes;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use stoq::application::{Application, Placement};
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::node::{ApplicationHost, Hosted};
use stoq_gateway::probe::{Blast, Ping, Report, Width};

/// Round trips at the start of a long measurement that its summary leaves out: caches and congestion windows warm up in them.
const WARM_UP: usize = 1000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Round trips.
    #[arg(long, short = 'c', default_value_t = 5)]
    count: u64,
    /// Seconds between round trips; at 0 each begins when the one before has ended.
    #[arg(long, short, default_value_t = 1.0, value_name = "SECONDS")]
    interval: f64,
    /// Message size.
    #[arg(long, short, default_value_t = 64, value_name = "BYTES")]
    size: usize,
    /// The queue of the gateway's echo application.
    #[arg(long, default_value_t = 1)]
    queue: u64,
    /// Measure under load: meanwhile send messages to the discard application on this queue, over another connection.
    #[arg(long, value_name = "QUEUE")]
    load: Option<u64>,
    #[command(flatten)]
    options: ClientOptions,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let interval = Duration::try_from_secs_f64(args.interval)?;
    let session = args.options.open()?;
    let (remote, timeout, cipher, workers) =
        (session.gateway()?, session.timeout, session.cipher, session.workers);
    let addresses = session.addresses()?;
    let loaded = addresses.clone();
    let interrupt = session.interrupt.flag.clone();
    let (reports, heard) = channel();
    let (payload, queue, count) = (Bytes::from(vec![0; args.size]), args.queue, args.count);
    let make = move |worker| -> Box<dyn Application> {
        let count = if worker == 0 { count } else { 0 };
        Box::new(Ping::new(addresses.clone(), queue, payload.clone(), interval, count, reports.clone()))
    };
    let host = ApplicationHost::Node(Placement::Worker, Box::new(make));
    let mut hosted = vec![Hosted::new("ping", Vec::new(), host)];
    if let Some(queue) = args.load {
        let make = move |worker| -> Box<dyn Application> {
            let width = Width { connections: usize::from(worker == 0), streams: 1 };
            // The load ends with the process; its reports have no receiver.
            let (reports, _) = channel();
            Box::new(Blast::new(loaded.clone(), queue, MESSAGE_BYTES_MAX as usize, u64::MAX, width, reports))
        };
        hosted.push(Hosted::new(
            "load",
            Vec::new(),
            ApplicationHost::Node(Placement::Worker, Box::new(make)),
        ));
    }
    let node = session.start_node(hosted)?;
    let network = node.networks()[0].clone();
    let mut trips = Vec::new();
    let mut quiet_since = std::time::Instant::now();
    while (trips.len() as u64) < args.count {
        match heard.recv_timeout(Duration::from_millis(50)) {
            Ok(Report::RoundTrip(trip)) => {
                quiet_since = std::time::Instant::now();
                trips.push(trip);
                if !args.options.json && !args.options.quiet && interval > Duration::ZERO {
                    output::line(format_args!(
                        "{} bytes from {remote}: seq={} time={:.1} us",
                        args.size,
                        trips.len(),
                        us(trip)
                    ))?;
                }
            }
            Ok(Report::Failed(reason)) => anyhow::bail!("{remote}: {reason}"),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) if interrupt.load(std::sync::atomic::Ordering::Relaxed) => break,
            Err(RecvTimeoutError::Timeout) if quiet_since.elapsed() > timeout + interval => {
                anyhow::bail!("no answer from {remote} within {} s", timeout.as_secs_f32());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(node);
    anyhow::ensure!(!trips.is_empty(), "no answer from {remote}");
    let warm_up = if trips.len() > 10 * WARM_UP { WARM_UP } else { 0 };
    let mut sorted = trips.split_off(warm_up);
    sorted.sort_unstable();
    let at = |quantile: f64| us(sorted[((sorted.len() - 1) as f64 * quantile) as usize]);
    if args.options.json {
        let result = serde_json::json!({
            "operation": "ping", "under_load": args.load.is_some(), "round_trips": sorted.len(), "warm_up": warm_up, "bytes": args.size, "min_us": at(0.0),
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0), "network": network,
            "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        output::line(result)?;
    } else {
        let text = format!(
            "{} round trips of {} bytes{}: min {:.1}, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} us; {network}, {cipher}",
            sorted.len(),
            args.size,
            if args.load.is_some() { " under load" } else { "" },
            at(0.0),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
        output::line(text)?;
    }
    Ok(())
}

fn us(trip: Duration) -> f64 {
    trip.as_nanos() as f64 / 1e3
}
