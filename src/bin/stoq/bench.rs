//! `stoq bench`: message goodput to a gateway's discard application.

use crate::output::gbit_per_s;
use crate::session::Options;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use stoq::application::Placement;
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::node::{Host, Hosted};
use stoq::probe::{Blast, Report};

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
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
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
