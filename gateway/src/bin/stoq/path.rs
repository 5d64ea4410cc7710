//! `stoq path`: what the path to a gateway gives, what limits it, and what to set.

use crate::output::{self, EndedEarly, Interrupted};
use crate::session::{ClientOptions, ClientSetup};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::network::Running;
use stoq::node::{ApplicationHost, Hosted, Node};
use stoq_gateway::probe::inspect;
use stoq_gateway::probe::path::{
    AdviceSide, PathEvent, PathPhase, PathPlan, PathProbe, PathReport, PathSurvey, Trips,
};

/// How long round trips are measured without load, at most.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How long each way is loaded, at most.
const LOAD_MAX: Duration = Duration::from_secs(20);
/// Between two looks at the connection.
const LOOK: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The queue of the gateway's echo application.
    #[arg(long, default_value_t = 1, value_name = "QUEUE")]
    echo: u64,
    /// The queue of the gateway's discard application.
    #[arg(long, default_value_t = 2, value_name = "QUEUE")]
    discard: u64,
    /// Payload bytes to send each way, at most.
    #[arg(long, default_value_t = 10_000_000_000)]
    bytes: u64,
    /// Be done within this number of seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    time_limit: u64,
    #[command(flatten)]
    options: ClientOptions,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let session = args.options.open()?;
    let limit = Duration::from_secs(args.time_limit);
    // A sixth for the delay and two fifths of the rest for each way leave time for the handshake and for what is on its way at the end.
    let idle = IDLE_MAX.min(limit / 6);
    let plan = PathPlan {
        echo_queue: args.echo,
        discard_queue: args.discard,
        idle,
        load: LOAD_MAX.min((limit - idle) * 2 / 5),
        bytes_max: args.bytes,
        patience: session.timeout.min(limit),
    };
    let (remotes, quic) = (session.remotes()?, session.quic.clone());
    let about = About {
        gateway: session.gateway()?.to_string(),
        workers: session.workers,
        cipher: session.cipher.name(),
        interrupt: session.interrupt.flag.clone(),
    };
    let (events, heard) = channel();
    let make = move |worker| -> Box<dyn Application> {
        match worker {
            0 => Box::new(PathProbe::new(remotes.clone(), plan.clone(), events.clone())),
            _ => Box::new(Nothing),
        }
    };
    let node = start(session, make)?;
    let network = node.networks()[0].to_string();
    let survey = survey(&node, &heard, &about, (limit, args.options.is_quiet()))?;
    drop(node);
    let report = survey.report(&quic).map_err(|reason| anyhow::anyhow!("{}: {reason}", about.gateway))?;
    print(&args, &about, &network, &report)
}

/// What is known of a measurement before it begins.
struct About {
    gateway: String,
    workers: usize,
    cipher: &'static str,
    interrupt: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// The application of workers that measure nothing.
struct Nothing;

impl Application for Nothing {
    fn poll(&mut self, _now: Instant, _port: &mut stoq::queue::AppPort) -> bool {
        false
    }
}

fn start(
    session: ClientSetup,
    make: impl Fn(usize) -> Box<dyn Application> + Send + 'static,
) -> anyhow::Result<Running<Node>> {
    let host = ApplicationHost::Node(Placement::Worker, Box::new(make));
    session.start_node(vec![Hosted::new("path", Vec::new(), host)])
}

/// Follows the measurement to its end.
fn survey(
    node: &Running<Node>,
    heard: &Receiver<PathEvent>,
    about: &About,
    (limit, quiet): (Duration, bool),
) -> anyhow::Result<PathSurvey> {
    let (mut survey, mut looked) = (PathSurvey::default(), None);
    let (deadline, mut said) = (Instant::now() + limit, None);
    while !survey.is_over() {
        match heard.recv_timeout(LOOK) {
            Ok(event) => survey.event(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(EndedEarly.into()),
        }
        if about.interrupt.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let now = Instant::now();
        anyhow::ensure!(
            now < deadline,
            "{}: not measured within {} s: give more by --time-limit",
            about.gateway,
            limit.as_secs()
        );
        if looked.is_none_or(|at| now >= at + LOOK) {
            looked = Some(now);
            survey.look(now, &inspect::connections(node.statuses()));
        }
        if said != survey.phase() && !quiet {
            said = survey.phase();
            match said {
                Some(PathPhase::Idle) => output::note("measuring the delay"),
                Some(PathPhase::Forth) => output::note("loading the way to the gateway"),
                Some(PathPhase::Back) => output::note("loading the way back"),
                None => {}
            }
        }
    }
    Ok(survey)
}

fn print(args: &Args, about: &About, network: &str, report: &PathReport) -> anyhow::Result<()> {
    let done = "the path was measured";
    if !args.options.json {
        return Ok(output::result(text(about, network, report), done)?);
    }
    let mut result = serde_json::json!({
        "operation": "path", "gateway": about.gateway, "network": network, "workers": about.workers, "cipher": about.cipher,
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let (Some(result), serde_json::Value::Object(more)) =
        (result.as_object_mut(), serde_json::to_value(report)?)
    {
        result.extend(more);
    }
    Ok(output::result(result, done)?)
}

/// One page for people.
fn text(about: &About, network: &str, report: &PathReport) -> String {
    let PathReport { idle, forth, back, .. } = report;
    let mut text = format!("path to {}: {}", about.gateway, report.congestion_control);
    if report.rate_bits_per_s > 0 {
        let _ = write!(text, " at {} at most", rate(report.rate_bits_per_s as f64));
    }
    let _ = writeln!(text, ", {network}, {}", about.cipher);
    let _ = writeln!(text, "delay   {} ({} round trips without load)", trips(idle), idle.count);
    let _ = writeln!(text, "size    {} bytes of UDP payload a packet", report.udp_payload_bytes);
    let _ = writeln!(
        text,
        "forth   {} over {:.1} s; {:.4} % of {} packets lost, and {} at the start; delay meanwhile {}",
        rate(forth.bits_per_s),
        forth.seconds,
        100.0 * forth.loss,
        forth.sent_packets,
        forth.start_lost_packets,
        trips(&forth.round_trips)
    );
    let _ = writeln!(text, "        limited by {}", inspect::in_words(&forth.limited_s));
    let bounded = if back.is_bounded_by_forth { ", or more: the way forth may bound it" } else { "" };
    let gaps = match back.held_bytes_max {
        0 => "no gap was seen".to_owned(),
        bytes => format!("up to {bytes} bytes waited behind gaps"),
    };
    let _ = writeln!(
        text,
        "back    {}{bounded} over {:.1} s; {gaps}; delay meanwhile {}",
        rate(back.bits_per_s),
        back.seconds,
        trips(&back.round_trips)
    );
    for unseen in report.not_visible {
        let _ = writeln!(text, "unseen  {unseen}");
    }
    if report.advice.is_empty() {
        return text + "set     nothing: no key of [quic] is known to help this path";
    }
    let lines = report.advice.iter().map(|advice| {
        let whose = match advice.side {
            AdviceSide::Client => "client",
            AdviceSide::Gateway => "gateway",
        };
        format!("set     {} = {} in the {whose}'s [quic]: {}", advice.key, advice.value, advice.why)
    });
    text + &lines.collect::<Vec<_>>().join("\n")
}

fn rate(bits_per_s: f64) -> String {
    if bits_per_s >= 1e9 {
        format!("{:.2} Gbit/s", bits_per_s / 1e9)
    } else {
        format!("{:.1} Mbit/s", bits_per_s / 1e6)
    }
}

fn trips(trips: &Trips) -> String {
    let ms = |us: f64| us / 1e3;
    format!("min {:.2}, p50 {:.2}, p99 {:.2} ms", ms(trips.min_us), ms(trips.p50_us), ms(trips.p99_us))
}
