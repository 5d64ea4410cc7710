//! Load over connections, by applications on ordinary workers.

use crate::Setup;
use anyhow::Context;
use quinn_proto::crypto::rustls::QuicClientConfig;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::client::ClientError;
use stoq::network::{OpenNetwork, Running};
use stoq::node::{ApplicationHost, Hosted, Node, NodeConfig};
use stoq::tls::client_config;
use stoq_gateway::faults::EndedEarly;
use stoq_gateway::pktgen::{MessageStream, Storm, StormPlan, StormReport, StreamPlan, StreamReport};
use stoq_gateway::tls;

/// The time that a run may take beyond its own before it counts as hung.
const GRACE: Duration = Duration::from_secs(40);

#[derive(clap::Args)]
pub(crate) struct Storming {
    /// Handshakes in flight, each worker.
    #[arg(long, default_value_t = 32, value_name = "N")]
    concurrency: usize,
    /// The number of handshakes of each worker.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Resume sessions where the gateway allows it: then only the first handshakes are full ones.
    #[arg(long)]
    resume: bool,
    /// How long the handshakes in flight may take at the end.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    patience: f64,
    /// The queue of the gateway's discard application.
    #[arg(long, default_value_t = 2)]
    queue: u64,
}

#[derive(clap::Args)]
pub(crate) struct Streaming {
    /// Connections, each worker.
    #[arg(long, default_value_t = 16, value_name = "N")]
    connections: usize,
    /// Bytes of each message.
    #[arg(long, default_value_t = 1024, value_name = "BYTES")]
    size: usize,
    /// End after this number of messages, each worker.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How long the connections may take to come up, and the gateway to count the messages in flight at the
    /// end.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    patience: f64,
    /// The queue of the gateway's discard application.
    #[arg(long, default_value_t = 2)]
    queue: u64,
}

pub(crate) fn handshakes(setup: Setup, storming: &Storming) -> anyhow::Result<()> {
    let Storming { concurrency, count, resume, patience, queue } = *storming;
    let patience = Duration::from_secs_f64(patience);
    let config = &setup.config;
    let mut client = tls::client_tls(&config.tls, config.identity.as_ref(), &config.trust)?;
    if !resume {
        client.session_cache_len = 0;
    }
    let trust = client.trust.clone();
    client.key_log = tls::key_log_file()?;
    let client = client_config(&client)?;
    let workers = usize::from(setup.config.workers.count);
    let (gateway, share, duration) = (setup.gateway, setup.rate / workers as f64, setup.duration(count));
    let plan =
        StormPlan { remote: gateway, queue, rate_per_s: share, concurrency, count, duration, patience };
    let make =
        move |reports: Sender<StormReport>| -> Box<dyn Application> { Box::new(Storm::new(plan, reports)) };
    let (network, mut reports) = run(&setup, client, make, duration + patience)?;
    let mut trips: Vec<_> = reports.iter().flat_map(|report| &report.trips).copied().collect();
    trips.sort_unstable();
    let at = |quantile: f64| match trips.len() {
        0 => None,
        len => Some(trips[((len - 1) as f64 * quantile) as usize].as_nanos() as f64 / 1e3),
    };
    let sum = |of: fn(&StormReport) -> u64| reports.iter().map(of).sum::<u64>();
    let (intended, begun, completed) = (sum(|r| r.intended), sum(|r| r.begun), sum(|r| r.completed));
    let (failed, unfinished) = (sum(|r| r.failed), sum(|r| r.unfinished));
    let seconds = reports.iter().map(|report| report.elapsed).max().unwrap_or_default().as_secs_f64();
    // A resumed handshake shows no certificate.
    let full = trust.judged();
    let per_s = completed as f64 / seconds.max(1e-9);
    let failure = reports.iter_mut().find_map(|report| report.failure.take());
    let result = serde_json::json!({
        "mode": "handshakes", "rate_per_s": setup.rate, "concurrency": concurrency, "resume": resume, "full": full, "seconds": seconds,
        "intended": intended, "offered": begun, "completed": completed, "failed": failed, "unfinished": unfinished,
        "failure": failure.as_ref().map(ToString::to_string), "handshakes_per_s": per_s, "p50_us": at(0.5), "p99_us": at(0.99), "network": network,
        "workers": workers, "cipher": setup.config.tls.cipher.name(), "version": env!("CARGO_PKG_VERSION"),
    });
    let text = format!(
        "{completed} handshakes, {full} of them full, in {seconds:.2} s, {per_s:.0} a second; {intended} intended, {begun} begun, {failed} failed, \
         {unfinished} unfinished; p50 {:.0}, p99 {:.0} us; {network}",
        at(0.5).unwrap_or_default(),
        at(0.99).unwrap_or_default()
    );
    setup.print(&result, &text)?;
    if completed > 0 || begun == 0 {
        return Ok(());
    }
    let silent = || ClientError::Timeout { remote: gateway.to_string(), limit: patience };
    Err(anyhow::Error::from(failure.unwrap_or_else(silent)).context("no handshake was completed"))
}

pub(crate) fn goodput(setup: Setup, streaming: &Streaming) -> anyhow::Result<()> {
    let Streaming { connections, size, count, patience, queue } = *streaming;
    let patience = Duration::from_secs_f64(patience);
    let config = &setup.config;
    let key_log = tls::key_log_file()?;
    let client = tls::client(&config.tls, config.identity.as_ref(), &config.trust, key_log)?;
    let workers = usize::from(setup.config.workers.count);
    let (remote, rate_per_s, duration) = (setup.gateway, setup.rate / workers as f64, setup.duration(count));
    let plan =
        StreamPlan { remote, queue, message_bytes: size, connections, rate_per_s, count, duration, patience };
    let make = move |reports: Sender<StreamReport>| -> Box<dyn Application> {
        Box::new(MessageStream::new(plan, reports))
    };
    let (network, mut reports) = run(&setup, client, make, duration + 2 * patience)?;
    if let Some(failure) = reports.iter_mut().find_map(|report| report.failure.take()) {
        return Err(failure.into());
    }
    let sum = |of: fn(&StreamReport) -> u64| reports.iter().map(of).sum::<u64>();
    let (intended, sent) = (sum(|r| r.intended), sum(|r| r.sent));
    let (refused, late) = (sum(|r| r.refused), sum(|r| r.late));
    let (received, bytes, opened) = (sum(|r| r.received), sum(|r| r.received_bytes), sum(|r| r.connections));
    let seconds = reports.iter().map(|report| report.elapsed).max().unwrap_or_default().as_secs_f64();
    let drain = reports.iter().map(|report| report.drain).max().unwrap_or_default().as_secs_f64();
    let rate = bytes as f64 * 8.0 / (seconds + drain).max(1e-9) / 1e9;
    let result = serde_json::json!({
        "mode": "goodput", "rate_per_s": setup.rate, "connections": opened, "message_bytes": size, "seconds": seconds,
        "drain_seconds": drain, "intended": intended, "offered": sent + refused, "sent": sent, "refused": refused, "late": late,
        "received": received, "received_bytes": bytes, "gbit_per_s": rate, "network": network, "workers": workers,
        "cipher": setup.config.tls.cipher.name(), "version": env!("CARGO_PKG_VERSION"),
    });
    let text = format!(
        "{received} messages of {size} bytes on {opened} connections in {seconds:.2} s and {drain:.3} s of draining: {rate:.2} \
         Gbit/s; {intended} intended, {refused} not taken by flow control; {network}"
    );
    setup.print(&result, &text)?;
    Ok(())
}

/// Runs one application a worker until each has reported.
fn run<R: Send + 'static>(
    setup: &Setup,
    client: Arc<QuicClientConfig>,
    make: impl Fn(Sender<R>) -> Box<dyn Application> + Send + 'static,
    limit: Duration,
) -> anyhow::Result<(stoq::datagram::NetworkInfo, Vec<R>)> {
    let config = &setup.config;
    let opened = OpenNetwork::open_client(&config.network, config.workers.count.into())?;
    let node = NodeConfig {
        client: Some(client),
        quic: config.quic.clone(),
        idle: config.workers.idle,
        cores: config.workers.cores.clone(),
        thread_setup: opened.thread_setup(),
        ..NodeConfig::default()
    };
    let (reports, heard) = channel();
    let make = Box::new(move |_| make(reports.clone()));
    let hosted = Hosted::new("pktgen", Vec::new(), ApplicationHost::Node(Placement::Worker, make));
    let node = opened.start_node(&node, vec![hosted]).context("cannot start the workers")?;
    let reports = gather(setup, &node, &heard, Instant::now() + limit + GRACE)?;
    Ok((node.networks()[0].clone(), reports))
}

fn gather<R>(
    setup: &Setup,
    node: &Running<Node>,
    heard: &Receiver<R>,
    deadline: Instant,
) -> anyhow::Result<Vec<R>> {
    let mut reports = Vec::new();
    while reports.len() < node.networks().len() {
        match heard.recv_timeout(Duration::from_millis(50)) {
            Ok(report) => reports.push(report),
            Err(RecvTimeoutError::Disconnected) => return Err(EndedEarly.into()),
            Err(RecvTimeoutError::Timeout) => {
                setup.ensure_not_interrupted()?;
                anyhow::ensure!(
                    Instant::now() < deadline,
                    "the workers did not report in time: give them more cores, or a lower --rate"
                );
            }
        }
    }
    Ok(reports)
}
