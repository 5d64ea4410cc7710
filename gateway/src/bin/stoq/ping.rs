//! `stoq ping`.

use crate::output::{self, EndedEarly, Interrupted};
use crate::session::{ClientOptions, ClientSetup};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::client::ClientError;
use stoq::datagram::NetworkInfo;
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::node::{ApplicationHost, Hosted, MakeApplication};
use stoq::tls::CipherSuite;
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
    let (cipher, workers) = (session.cipher, session.workers);
    let waiting = Waiting {
        remote: session.gateway()?.to_string(),
        timeout: session.timeout,
        interval,
        interrupt: session.interrupt.flag.clone(),
    };
    let (reports, heard) = channel();
    let hosted = hosted(&args, &session, interval, &reports)?;
    drop(reports);
    let node = session.start_node(hosted)?;
    let network = node.networks()[0].clone();
    let (trips, is_interrupted) = waiting.trips(&args, &heard)?;
    drop(node);
    if trips.is_empty() && is_interrupted {
        return Err(Interrupted.into());
    }
    output::line(summary(&args, trips, &network, workers, cipher))?;
    if is_interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

/// The application that measures, and the one that loads the path meanwhile.
fn hosted(
    args: &Args,
    session: &ClientSetup,
    interval: Duration,
    reports: &Sender<Report>,
) -> anyhow::Result<Vec<Hosted>> {
    let remotes = session.remotes()?;
    let (reports, loaded) = (reports.clone(), remotes.clone());
    let (payload, queue, count) = (Bytes::from(vec![0; args.size]), args.queue, args.count);
    let make = move |worker: usize| -> Box<dyn Application> {
        let count = if worker == 0 { count } else { 0 };
        Box::new(Ping::new(remotes.clone(), queue, payload.clone(), interval, count, reports.clone()))
    };
    let on_workers =
        |name, make| Hosted::new(name, Vec::new(), ApplicationHost::Node(Placement::Worker, make));
    let mut hosted = vec![on_workers("ping", Box::new(make) as MakeApplication)];
    if let Some(queue) = args.load {
        let make = move |worker| -> Box<dyn Application> {
            let width = Width { connections: usize::from(worker == 0), streams: 1 };
            // The load ends with the process; its reports have no receiver.
            let (reports, _) = channel();
            Box::new(Blast::new(loaded.clone(), queue, MESSAGE_BYTES_MAX as usize, u64::MAX, width, reports))
        };
        hosted.push(on_workers("load", Box::new(make)));
    }
    Ok(hosted)
}

/// What ends the wait for round trips.
struct Waiting {
    remote: String,
    timeout: Duration,
    interval: Duration,
    interrupt: Arc<AtomicBool>,
}

impl Waiting {
    /// The round trips until all are made, and whether a signal ended them before.
    fn trips(self, args: &Args, heard: &Receiver<Report>) -> anyhow::Result<(Vec<Duration>, bool)> {
        let Self { remote, timeout, interval, interrupt } = self;
        let mut trips = Vec::new();
        let (mut is_reached, mut quiet_since) = (false, Instant::now());
        while (trips.len() as u64) < args.count {
            match heard.recv_timeout(Duration::from_millis(50)) {
                Ok(Report::RoundTrip(trip)) => {
                    quiet_since = Instant::now();
                    trips.push(trip);
                    if !args.options.json && !args.options.quiet && interval > Duration::ZERO {
                        let (bytes, seq, time) = (args.size, trips.len(), us(trip));
                        output::line(format_args!(
                            "{bytes} bytes from {remote}: seq={seq} time={time:.1} us"
                        ))?;
                    }
                }
                Ok(Report::Reached) => (is_reached, quiet_since) = (true, Instant::now()),
                Ok(Report::Failed(error)) => return Err(error.into()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if interrupt.load(Ordering::Relaxed) => {
                    return Ok((trips, true));
                }
                Err(RecvTimeoutError::Timeout) if quiet_since.elapsed() > timeout + interval => {
                    let (queue, limit) = (args.queue, timeout);
                    anyhow::ensure!(is_reached, ClientError::Timeout { remote, limit });
                    let seconds = limit.as_secs_f32();
                    anyhow::bail!(
                        "no echo from {remote} within {seconds} s: does the gateway have an echo application on queue {queue}?"
                    );
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(EndedEarly.into()),
            }
        }
        Ok((trips, false))
    }
}

/// The result as text, or as one JSON object.
fn summary(
    args: &Args,
    mut trips: Vec<Duration>,
    network: &NetworkInfo,
    workers: usize,
    cipher: CipherSuite,
) -> String {
    let warm_up = if trips.len() > 10 * WARM_UP { WARM_UP } else { 0 };
    let mut sorted = trips.split_off(warm_up);
    sorted.sort_unstable();
    let at = |quantile: f64| {
        let last = sorted.len().saturating_sub(1) as f64;
        sorted.get((last * quantile) as usize).copied().map_or(0.0, us)
    };
    if args.options.json {
        let result = serde_json::json!({
            "operation": "ping", "under_load": args.load.is_some(), "round_trips": sorted.len(), "warm_up": warm_up, "bytes": args.size, "min_us": at(0.0),
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0), "network": network,
            "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        return result.to_string();
    }
    format!(
        "{} round trips of {} bytes{}: min {:.1}, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} us; {network}, {cipher}",
        sorted.len(),
        args.size,
        if args.load.is_some() { " under load" } else { "" },
        at(0.0),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

fn us(trip: Duration) -> f64 {
    trip.as_nanos() as f64 / 1e3
}
