//! `stoq bench`: goodput to and from a gateway, without disks.

use crate::output::gbit_per_s;
use crate::route::RouteArgs;
use crate::session::Options;
use anyhow::Context;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use stoq::application::Placement;
use stoq::client::{ClientError, Prepared, PutOptions};
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::node::{Host, Hosted};
use stoq::probe::{Blast, Pull, Pulled, Report};
use stoq::record::ErrorCode;
use stoq::token::{AnyToken, Ranges};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Payload bytes to send, over all workers.
    #[arg(long, default_value_t = 4_000_000_000)]
    bytes: u64,
    /// Bytes of one message.
    #[arg(long, default_value_t = MESSAGE_BYTES_MAX as usize)]
    size: usize,
    /// The queue of the gateway's discard application.
    #[arg(long, default_value_t = 2)]
    queue: u64,
    /// Put one payload of --bytes to the discard application instead, which checks and drops it.
    #[arg(long, conflicts_with = "get")]
    put: bool,
    /// Fetch this payload instead, check every byte and drop it.
    #[arg(long, value_name = "TOKEN")]
    get: Option<AnyToken>,
    /// With --get: read the answer without checking it, to see what checking costs.
    #[arg(long, requires = "get")]
    unverified: bool,
    /// With --get: only the first 16 KiB, so many times, one after the other: the time of each.
    #[arg(long, requires = "get", value_name = "TIMES")]
    trips: Option<u64>,
    #[command(flatten)]
    route: RouteArgs,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.get {
        Some(token) => get(&args, token),
        None if args.put => put(&args),
        None => messages(&args),
    }
}

/// One payload from memory to an application that checks and drops it.
fn put(args: &Args) -> anyhow::Result<()> {
    let payload = Prepared::bytes(vec![0x5a; usize::try_from(args.bytes).context("--bytes: too many")?]);
    let online = args.options.open()?.start()?;
    let options =
        PutOptions { queue: args.queue, route: args.route.route(&online.gateways)?, ..PutOptions::default() };
    let elapsed = online.run(async |peer| {
        let started = Instant::now();
        match peer.put(&payload, options, |_| {}).await {
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::NotFound => {
                Ok(started.elapsed())
            }
            Err(error) => Err(error.into()),
            Ok(_) => anyhow::bail!(
                "queue {} keeps what is put: give the queue of a discard application",
                args.queue
            ),
        }
    })?;
    let rate = gbit_per_s(payload.length, elapsed);
    let (network, workers, cipher) = (online.client.network(), online.workers, online.cipher);
    if args.options.json {
        let result = serde_json::json!({
            "operation": "put-discard", "bytes": payload.length, "verified": true, "seconds": elapsed.as_secs_f64(),
            "gbit_per_s": rate, "network": network, "workers": workers, "cipher": cipher.name(),
            "version": env!("CARGO_PKG_VERSION"),
        });
        println!("{result}");
    } else {
        let bytes = payload.length;
        println!(
            "{bytes} bytes put, checked and dropped: {rate:.2} Gbit/s; {network}, {workers} worker(s), {cipher}"
        );
    }
    Ok(())
}

/// A payload fetched, and dropped as it comes.
fn get(args: &Args, token: AnyToken) -> anyhow::Result<()> {
    let session = args.options.open()?;
    let (remote, cipher, workers) = (session.gateway()?, session.cipher, session.workers);
    let interrupt = session.interrupt.flag.clone();
    let route = args.route.route(&session.gateways)?;
    let (reports, heard) = channel();
    let (ranges, times) = match args.trips {
        Some(times) => (Ranges::covering(0..1)?, times.max(1)),
        None => (Ranges::all(), 1),
    };
    let verified = !args.unverified;
    let pulled = Pulled { token, ranges, route, verified, times };
    let make = move |worker| -> Box<dyn stoq::application::Application> {
        let times = if worker == 0 { times } else { 0 };
        Box::new(Pull::new(remote, Pulled { times, ..pulled.clone() }, reports.clone()))
    };
    let host = Host::Node(Placement::Worker, Box::new(make));
    let hosted = Hosted { name: "bench".into(), queues: Vec::new(), store: false, replay_safe: false, host };
    let node = session.start_node(vec![hosted])?;
    let network = node.networks()[0].clone();
    let deadline = Instant::now() + Duration::from_secs(args.limit);
    let mut trips = Vec::new();
    let (bytes, elapsed) = loop {
        match heard.recv_timeout(Duration::from_millis(50)) {
            Ok(Report::RoundTrip(trip)) => trips.push(trip),
            Ok(Report::Goodput { bytes, elapsed, .. }) => break (bytes, elapsed),
            Ok(Report::Failed(reason)) => anyhow::bail!("{remote}: {reason}"),
            Ok(Report::Connected) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the probe ended"),
            Err(RecvTimeoutError::Timeout) => {
                anyhow::ensure!(!interrupt.load(Ordering::Relaxed), "interrupted");
                anyhow::ensure!(Instant::now() < deadline, "not over within {} s", args.limit);
            }
        }
    };
    drop(node);
    let rate = gbit_per_s(bytes, elapsed);
    trips.sort_unstable();
    let at = |quantile: f64| trips[((trips.len() - 1) as f64 * quantile) as usize].as_nanos() as f64 / 1e3;
    let (p50, p99) = (at(0.5), at(0.99));
    if args.options.json {
        let result = serde_json::json!({
            "operation": if args.trips.is_some() { "get-trips" } else { "get-drop" }, "token": token.to_string(), "bytes": bytes,
            "verified": verified, "round_trips": trips.len(), "p50_us": p50, "p99_us": p99,
            "seconds": elapsed.as_secs_f64(), "gbit_per_s": rate, "network": network, "workers": workers,
            "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        println!("{result}");
    } else if args.trips.is_some() {
        let count = trips.len();
        println!(
            "{count} fetches of 16 KiB: p50 {p50:.1}, p99 {p99:.1} us; {network}, {workers} worker(s), {cipher}"
        );
    } else {
        let checked = if verified { "every one checked" } else { "hashes included, none checked" };
        println!(
            "{bytes} bytes fetched and dropped, {checked}: {rate:.2} Gbit/s; {network}, {workers} worker(s), {cipher}"
        );
    }
    Ok(())
}

/// Messages, counted by the far side.
fn messages(args: &Args) -> anyhow::Result<()> {
    let sizes = 1..=MESSAGE_BYTES_MAX as usize;
    anyhow::ensure!(sizes.contains(&args.size), "a message has 1 to {MESSAGE_BYTES_MAX} bytes here");
    let session = args.options.open()?;
    let (remote, cipher, workers) = (session.gateway()?, session.cipher, session.workers);
    let interrupt = session.interrupt.flag.clone();
    let (reports, heard) = channel();
    let (size, queue, share) = (args.size, args.queue, args.bytes / workers as u64);
    let make = move |_| -> Box<dyn stoq::application::Application> {
        Box::new(Blast::new(remote, queue, size, share, reports.clone()))
    };
    let host = Host::Node(Placement::Worker, Box::new(make));
    let node = session.start_node(vec![Hosted {
        name: "bench".into(),
        queues: Vec::new(),
        store: false,
        replay_safe: false,
        host,
    }])?;
    let network = node.networks()[0].clone();
    let deadline = Instant::now() + Duration::from_secs(args.limit);
    let (mut done, mut bytes, mut messages, mut longest) = (0, 0, 0, Duration::ZERO);
    while done < workers {
        match heard.recv_timeout(Duration::from_millis(50)) {
            Ok(Report::Goodput { bytes: counted, messages: m, elapsed }) => {
                done += 1;
                bytes += counted;
                messages += m;
                longest = longest.max(elapsed);
            }
            Ok(Report::Failed(reason)) => anyhow::bail!("{remote}: {reason}"),
            Err(RecvTimeoutError::Timeout) => {
                anyhow::ensure!(!interrupt.load(Ordering::Relaxed), "interrupted");
                anyhow::ensure!(Instant::now() < deadline, "not over within {} s", args.limit);
            }
            _ => {}
        }
    }
    drop(node);
    anyhow::ensure!(bytes == share * workers as u64, "the gateway counted {bytes} bytes of {}", args.bytes);
    let rate = gbit_per_s(bytes, longest);
    if args.options.json {
        let result = serde_json::json!({
            "operation": "message", "bytes": bytes, "messages": messages, "message_bytes": args.size,
            "seconds": longest.as_secs_f64(), "gbit_per_s": rate, "network": network, "workers": workers,
            "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        println!("{result}");
    } else {
        println!(
            "{bytes} bytes in {messages} messages, counted by the gateway: {rate:.2} Gbit/s; {network}, {workers} \
             worker(s), {cipher}"
        );
    }
    Ok(())
}
