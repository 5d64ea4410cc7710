//! `stoq bench`: goodput to and from a gateway, without disks.

use crate::output::{self, EndedEarly, Interrupted, Usage, gbit_per_s};
use crate::route::RouteArgs;
use crate::session::{ClientOptions, ClientSetup};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::client::{ClientError, Prepared};
use stoq::datagram::NetworkInfo;
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::node::{ApplicationHost, Hosted};
use stoq::send_limit::LimitTimes;
use stoq::stages::Sampled;
use stoq::token::{AnyToken, Ranges};
use stoq_gateway::durations::Seconds;
use stoq_gateway::probe::{Blast, Pull, Pulled, Push, Pushed, PushedPayload, Report, Width, inspect};

/// The queues of a gateway's applications where --queue names no other: of its store as for `stoq put`, and of its discard application.
const STORE_QUEUE: u64 = 0;
const DISCARD_QUEUE: u64 = 2;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Payload bytes to send, over all connections and streams.
    #[arg(long, default_value_t = 4_000_000_000)]
    bytes: u64,
    /// Bytes of one message.
    #[arg(long, default_value_t = MESSAGE_BYTES_MAX as usize)]
    size: usize,
    /// The queue of the gateway's discard application, or with --keep of its seed application [default: 2, or 0 with --keep].
    #[arg(long)]
    queue: Option<u64>,
    /// Instead put payloads of --bytes in all to the discard application, which checks and drops them. With `verify = false` in the
    /// gateway's configuration it drops them unchecked.
    #[arg(long, conflicts_with = "get")]
    put: bool,
    /// With --put: the bytes of a payload. Each stream puts one payload after another [default: one payload on each stream].
    #[arg(long, requires = "put", value_name = "BYTES")]
    payload: Option<u64>,
    /// With --put: have the gateway's store keep the payloads, which are of random bytes, for this time: 90s, 45m, 12h, 30d. Prints the
    /// time of a PUT too, until the gateway says that it keeps the payload.
    #[arg(long, requires = "put", value_name = "TIME")]
    keep: Option<Seconds>,
    /// Instead fetch this payload on every stream, check every byte and drop it. Given several times, each stream has the next payload.
    #[arg(long, value_name = "TOKEN")]
    get: Vec<AnyToken>,
    /// With --get: do not check the answer, to see the cost of checking.
    #[arg(long, requires = "get")]
    unverified: bool,
    /// With --get: fetch only the first 16 KiB, this number of times one after another, and print their times.
    #[arg(long, requires = "get", value_name = "TIMES", alias = "trips")]
    round_trips: Option<u64>,
    /// Connections, spread over the workers; 0 is one a worker.
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Streams at once on each connection. The messages of each stream go to a queue of its own, counted from --queue; all must belong
    /// to one discard application.
    #[arg(long, default_value_t = 1)]
    streams: u64,
    #[command(flatten)]
    route: RouteArgs,
    /// Give up after this number of seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", alias = "limit")]
    time_limit: u64,
    #[command(flatten)]
    options: ClientOptions,
}

impl Args {
    fn queue(&self) -> u64 {
        self.queue.unwrap_or(if self.keep.is_some() { STORE_QUEUE } else { DISCARD_QUEUE })
    }
}

/// The result of all workers together.
struct Measured {
    bytes: u64,
    messages: u64,
    elapsed: Duration,
    trips: Vec<Duration>,
    /// The gateway's words about payloads that it dropped.
    dropped: Option<String>,
    connections: usize,
    network: NetworkInfo,
    /// Each worker's time by stage.
    stages: Vec<Sampled>,
    /// How long each limit kept the client's connections from sending more.
    limited: LimitTimes,
}

type Probe = Box<dyn Application>;

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let session = args.options.open()?;
    match &args.get[..] {
        [] if args.put => put(&args, session),
        [] => messages(&args, session),
        tokens => get(&args, session, tokens),
    }
}

/// Starts a probe on each worker that has connections, and waits for their reports.
fn measure(
    args: &Args,
    session: ClientSetup,
    make: impl Fn(Width, usize, &Sender<Report>) -> Probe + Send + 'static,
) -> anyhow::Result<Measured> {
    let (remote, workers, timeout) = (session.gateway()?.to_string(), session.workers, session.timeout);
    let interrupt = session.interrupt.flag.clone();
    let connections = if args.connections == 0 { workers } else { args.connections };
    let (reports, heard) = channel();
    let streams = args.streams as usize;
    let make = move |worker: usize| {
        let own = connections / workers + usize::from(worker < connections % workers);
        make(Width { connections: own, streams }, connections * streams, &reports)
    };
    let node = session.start_node(vec![Hosted::new(
        "bench",
        Vec::new(),
        ApplicationHost::Node(Placement::Worker, Box::new(make)),
    )])?;
    let network = node.networks()[0].clone();
    let (bytes, messages, elapsed, trips, dropped) = (0, 0, Duration::ZERO, Vec::new(), None);
    let mut measured = Measured {
        bytes,
        messages,
        elapsed,
        trips,
        dropped,
        connections,
        network,
        stages: Vec::new(),
        limited: LimitTimes::default(),
    };
    let begun = Instant::now();
    let (mut is_reached, mut over) = (false, 0);
    while over < workers.min(connections) {
        match heard.recv_timeout(Duration::from_millis(50)) {
            Ok(Report::Goodput { bytes, messages, elapsed }) => {
                over += 1;
                measured.bytes += bytes;
                measured.messages += messages;
                measured.elapsed = measured.elapsed.max(elapsed);
            }
            Ok(Report::RoundTrips(trips)) => measured.trips.extend(trips),
            Ok(Report::Dropped(how)) => measured.dropped = Some(how),
            Ok(Report::Failed(error)) => return Err(error.into()),
            Ok(Report::Reached) => is_reached = true,
            Ok(Report::Connected | Report::RoundTrip(_)) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(EndedEarly.into()),
            Err(RecvTimeoutError::Timeout) => {
                if interrupt.load(Ordering::Relaxed) {
                    return Err(Interrupted.into());
                }
                if !is_reached && begun.elapsed() > timeout {
                    return Err(ClientError::Timeout { remote, limit: timeout }.into());
                }
                let is_late = begun.elapsed() > Duration::from_secs(args.time_limit);
                anyhow::ensure!(!is_late, "no result within {} s: {}", args.time_limit, hint(args));
            }
        }
    }
    measured.stages = node.statuses().iter().map(|status| status.counters.stages.sampled()).collect();
    measured.limited = inspect::limited(&inspect::connections(node.statuses()));
    drop(node);
    measured.trips.sort_unstable();
    Ok(measured)
}

/// A likely reason why there is no result.
fn hint(args: &Args) -> String {
    if args.get.is_empty() && args.keep.is_none() {
        return format!("does the gateway have a discard application on queue {}?", args.queue());
    }
    "give a longer --time-limit".into()
}

impl Measured {
    fn us(&self, quantile: f64) -> f64 {
        let last = self.trips.len().saturating_sub(1) as f64;
        self.trips.get((last * quantile) as usize).map_or(0.0, |trip| trip.as_nanos() as f64 / 1e3)
    }

    /// What limited the client's sending. A client that fetches sends next to nothing: what limits the gateway is shown there.
    fn limits_in_words(&self, args: &Args) -> String {
        if !args.get.is_empty() {
            return String::new();
        }
        format!("; limited by {}", inspect::in_words(&self.limited))
    }

    /// Prints the result: one line of text, or JSON with the operation's own fields.
    fn print(
        &self,
        args: &Args,
        (workers, cipher): (usize, &str),
        operation: &str,
        particular: serde_json::Value,
        text: &str,
    ) -> anyhow::Result<()> {
        let rate = gbit_per_s(self.bytes, self.elapsed);
        if !args.options.json {
            let (n, m) = (self.connections, args.streams);
            let text = format!(
                "{text}: {rate:.2} Gbit/s; {n} connection(s) of {m} stream(s), {}, {workers} worker(s), {cipher}{}",
                self.network,
                self.limits_in_words(args)
            );
            return Ok(output::result(text, "the goodput was measured")?);
        }
        let mut result = serde_json::json!({
            "operation": operation, "bytes": self.bytes, "seconds": self.elapsed.as_secs_f64(), "gbit_per_s": rate,
            "connections": self.connections, "streams": args.streams, "network": self.network, "workers": workers,
            "cipher": cipher, "version": env!("CARGO_PKG_VERSION"),
            "stages": self.stages, "limited_s": self.limited,
        });
        if let (Some(result), serde_json::Value::Object(more)) = (result.as_object_mut(), particular) {
            result.extend(more);
        }
        Ok(output::result(result, "the goodput was measured")?)
    }
}

/// Payloads from memory to an application that drops them, or to one that keeps them.
fn put(args: &Args, session: ClientSetup) -> anyhow::Result<()> {
    let on = (session.workers, session.cipher.name());
    let streams = (if args.connections == 0 { on.0 } else { args.connections }) as u64 * args.streams;
    let share = args.bytes / streams;
    let len = args.payload.unwrap_or(share);
    let times = if args.payload.is_none() { 1 } else { share / len };
    if times == 0 {
        return Err(Usage(format!(
            "--bytes: {} are fewer than a payload of {len} on each of {streams} streams; give at least {}",
            args.bytes,
            len.saturating_mul(streams)
        ))
        .into());
    }
    let payload = payload(usize::try_from(len)?, args.keep)?;
    let pushed = Pushed { queue: args.queue(), payload, route: args.route.route(&session.gateways)?, times };
    let remotes = session.remotes()?;
    let measured = measure(args, session, move |width, _, reports| {
        Box::new(Push::new(remotes.clone(), pushed.clone(), width, reports.clone()))
    })?;
    let (bytes, puts) = (measured.bytes, measured.messages);
    let Some(how) = &measured.dropped else {
        let rate = puts as f64 / measured.elapsed.as_secs_f64();
        let (p50, p99) = (measured.us(0.5), measured.us(0.99));
        let text = format!(
            "{bytes} bytes in {puts} PUTs, all kept by the gateway: {rate:.0} PUTs a second, p50 {p50:.1}, p99 {p99:.1} us"
        );
        let particular = serde_json::json!({
            "puts": puts, "payload_bytes": len, "puts_per_s": rate, "p50_us": p50, "p99_us": p99,
        });
        return measured.print(args, on, "put-keep", particular, &text);
    };
    let text = format!("{bytes} bytes in {puts} PUTs, {how}");
    let particular = serde_json::json!({ "puts": puts, "payload_bytes": len, "answer": how });
    measured.print(args, on, "put-discard", particular, &text)
}

/// A payload of this length to be dropped, or payloads to be kept.
fn payload(len: usize, keep: Option<Seconds>) -> Result<PushedPayload, Usage> {
    let mut payload = Vec::new();
    payload.try_reserve_exact(len).map_err(|_| {
        Usage(format!(
            "--bytes: a payload of {len} bytes does not fit into memory; give fewer, or more --streams"
        ))
    })?;
    if let Some(Seconds(lease_s)) = keep {
        return Ok(PushedPayload::Kept { len, lease_s });
    }
    payload.resize(len, 0x5a);
    Ok(PushedPayload::Dropped(Arc::new(Prepared::bytes(payload))))
}

/// Payloads fetched, and dropped on arrival.
fn get(args: &Args, session: ClientSetup, tokens: &[AnyToken]) -> anyhow::Result<()> {
    let (remotes, on) = (session.remotes()?, (session.workers, session.cipher.name()));
    let route = args.route.route(&session.gateways)?;
    let (ranges, times) = match args.round_trips {
        Some(times) => (Ranges::covering(0..1)?, times),
        None => (Ranges::all(), 1),
    };
    let verified = !args.unverified;
    let pulled = Pulled { tokens: tokens.to_vec(), ranges, route, verified, times };
    let measured = measure(args, session, move |width, _, reports| {
        Box::new(Pull::new(remotes.clone(), pulled.clone(), width, reports.clone()))
    })?;
    let (count, p50, p99) = (measured.trips.len(), measured.us(0.5), measured.us(0.99));
    let checked = if verified { "every one checked" } else { "hashes included, none checked" };
    let (operation, text) = match args.round_trips {
        Some(_) => ("get-trips", format!("{count} fetches of 16 KiB: p50 {p50:.1}, p99 {p99:.1} us")),
        None => ("get-drop", format!("{} bytes fetched and dropped, {checked}", measured.bytes)),
    };
    let token: Vec<_> = tokens.iter().map(AnyToken::to_string).collect();
    let token = token.join(" ");
    let particular = match args.round_trips {
        Some(_) => serde_json::json!({
            "token": token, "verified": verified, "round_trips": count, "p50_us": p50, "p99_us": p99,
        }),
        None => serde_json::json!({ "token": token, "verified": verified }),
    };
    measured.print(args, on, operation, particular, &text)
}

/// Messages, counted by the gateway's application.
fn messages(args: &Args, session: ClientSetup) -> anyhow::Result<()> {
    if args.route.route(&session.gateways)?.is_some() {
        return Err(Usage(
            "--via: messages go to the connected gateway alone; --put and --get are routed".into(),
        )
        .into());
    }
    let (remotes, on) = (session.remotes()?, (session.workers, session.cipher.name()));
    let (size, queue, bytes) = (args.size, args.queue(), args.bytes);
    let measured = measure(args, session, move |width, streams, reports| {
        let share = bytes / streams as u64 * width.total_streams() as u64;
        Box::new(Blast::new(remotes.clone(), queue, size, share, width, reports.clone()))
    })?;
    let streams = measured.connections as u64 * args.streams;
    let sent = bytes / streams * streams;
    anyhow::ensure!(
        measured.bytes == sent,
        "the gateway counted {} bytes of {sent}; measure again, and report this if it stays",
        measured.bytes
    );
    let text = format!("{} bytes in {} messages, counted by the gateway", measured.bytes, measured.messages);
    let particular = serde_json::json!({ "messages": measured.messages, "message_bytes": size });
    measured.print(args, on, "message", particular, &text)
}
