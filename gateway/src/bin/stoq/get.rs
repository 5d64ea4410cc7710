//! `stoq get TOKEN -o FILE`.

use crate::gather;
use crate::many;
use crate::output::{self, Usage, gbit_per_s, progress};
use crate::route::RouteArgs;
use crate::session::{ClientOptions, ConnectionCount};
use crate::stream::{self, OutputStream};
use indicatif::ProgressBar;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stoq::client::{AskOptions, FetchOptions, Peer, Route};
use stoq::download::Download;
use stoq::gathered_file::GatheredFile;
use stoq::token::{AnyToken, Token};

/// The state of the get when standard output does not take the result.
const DONE: &str = "the payload is here, every byte checked";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The token, as `stoq put` printed it: b3: and 64 hex digits of a payload, or set: and 64 of a sharded one.
    #[arg(required_unless_present = "manifest")]
    token: Option<AnyToken>,
    /// Get the files of this manifest, as `stoq put --manifest` or `b3sum` wrote it, into the directory -o: each under its name there, never
    /// outside. "-" is standard input. Files that are there and right are skipped, those of other bytes are not replaced, and the same
    /// command continues an interrupted get. Each file comes over one of the --connections
    #[arg(long, value_name = "IN", conflicts_with = "token")]
    manifest: Option<PathBuf>,
    /// The file to write; an existing file is not replaced. Until every byte is written, read back and checked, it is called FILE.part.
    /// To continue an interrupted get, run the same command again; a get of shards, from several gateways or over several connections begins anew. "-", a pipe
    /// or a character device gets the bytes in order, each checked before it is written.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Fetch from these gateways at once, and drop those that are slow, wrong or gone: node IDs, names of
    /// [[gateway]] sections in the configuration file, or addresses. A gateway without a known address is
    /// reached through the connected gateway.
    #[arg(long, value_name = "GATEWAY,…", value_delimiter = ',', conflicts_with = "via")]
    pub(crate) from: Vec<String>,
    /// Connections to each gateway, 1 to 64, over the workers of both sides: one connection is never faster than one core. "auto": one for
    /// each worker of this client, which on kernel sockets has one a core, up to 4, unless --config has [workers]. A get over several connections writes
    /// in any order and begins anew when it was interrupted
    #[arg(long, value_name = "COUNT", default_value = "1")]
    pub(crate) connections: ConnectionCount,
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    #[command(flatten)]
    pub(crate) options: ClientOptions,
}

/// The result of a get.
struct Outcome {
    length: u64,
    resumed_at: u64,
    /// The time of the transfer.
    elapsed: Duration,
    /// The time of reading back; none without a file.
    checking: Option<Duration>,
}

/// The destination of the bytes.
enum Target {
    File(Box<Download>),
    Stream(File),
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match (args.token, args.manifest.clone()) {
        (Some(token), _) => one(token, args),
        (None, Some(manifest)) => many::get::run(args, &manifest),
        // clap asks for one of them.
        (None, None) => Ok(()),
    }
}

fn one(named: AnyToken, args: Args) -> anyhow::Result<()> {
    let to_stdout = stream::is_standard_output(&args.output);
    let stream = stream::open(&args.output)?;
    let token = match named {
        AnyToken::Content(token) if args.from.is_empty() && args.connections == ConnectionCount::Count(1) => {
            token
        }
        _ if stream.is_some() => {
            return Err(Usage(format!(
                "-o {}: a get from several gateways, over several connections, or of shards, writes in any order; give a file",
                args.output.display()
            ))
            .into());
        }
        _ => return gathered(named, args),
    };
    // Before the network: faults of the file are reported at once.
    let target = match stream {
        Some(out) => Target::Stream(out),
        None => Target::File(Box::new(Download::open(&args.output, token)?)),
    };
    let online = args.options.open()?.start()?;
    let route = args.route.route(&online.gateways)?;
    let (outcome, gateway) = online.run(async |peer| {
        let bar = progress(args.options.quiet || args.options.json, "get", 0);
        let outcome = match target {
            Target::File(download) => to_file(*download, peer, route, &bar).await?,
            Target::Stream(out) => to_stream(out, token, peer, route, &bar).await?,
        };
        bar.finish_and_clear();
        Ok((outcome, peer.node()))
    })?;
    let Outcome { length, resumed_at, elapsed, checking } = outcome;
    let fetched = length - resumed_at.min(length);
    let rate = gbit_per_s(fetched, elapsed);
    let (network, workers, cipher) = (online.client.network(), online.workers, online.cipher);
    if args.options.json {
        let result = serde_json::json!({
            "operation": "get", "token": named.to_string(), "bytes": length, "resumed_at": resumed_at, "verified": true,
            "seconds": elapsed.as_secs_f64(), "check_seconds": checking.map(|checking| checking.as_secs_f64()),
            "gbit_per_s": rate, "gateway": gateway, "network": network, "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        // Standard output may carry the payload.
        if to_stdout { output::note(result) } else { output::result(result, DONE)? }
    } else {
        output::note(format_args!(
            "got {length} bytes, {fetched} of them now, every one checked: {rate:.2} Gbit/s in {:.3} s{}; {network}, \
             {workers} worker(s), {cipher}",
            elapsed.as_secs_f64(),
            checking.map(read_back).unwrap_or_default(),
        ));
    }
    Ok(())
}

fn gathered(token: AnyToken, args: Args) -> anyhow::Result<()> {
    let file = GatheredFile::open(&args.output, token)?;
    let (setup, connections) = args.options.open_for(args.connections, &args.from)?;
    let online = setup.start()?;
    let route = args.route.route(&online.gateways)?;
    let quiet = args.options.quiet || args.options.json;
    let outcome = online.block_on(async {
        let bar = progress(quiet, "get", 0);
        let from = gather::Sources { gateways: &args.from, connections, route };
        let outcome = gather::run(&online, token, from, file, &bar).await?;
        bar.finish_and_clear();
        Ok(outcome)
    })?;
    let gather::GatherOutcome { summary, elapsed, checking, given, unreached } = outcome;
    let rate = gbit_per_s(summary.length, elapsed);
    let (network, workers, cipher) = (online.client.network(), online.workers, online.cipher);
    if args.options.json {
        let given: Vec<_> = given.iter().map(gather::json).collect();
        let result = serde_json::json!({
            "operation": "get", "token": token.to_string(), "bytes": summary.length, "verified": true,
            "decoded": summary.decoded, "seconds": elapsed.as_secs_f64(), "check_seconds": checking.as_secs_f64(),
            "gbit_per_s": rate, "holders": given, "unreached": unreached, "network": network, "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        output::result(result, DONE)?;
        return Ok(());
    }
    let how = if summary.decoded { ", some of it decoded from parity" } else { "" };
    output::note(format_args!(
        "got {} bytes, every one checked{how}: {rate:.2} Gbit/s in {:.3} s{}; {network}, {workers} worker(s), {cipher}",
        summary.length,
        elapsed.as_secs_f64(),
        read_back(checking),
    ));
    given.iter().for_each(|given| output::note(format_args!("  {given}")));
    unreached.iter().for_each(|(text, why)| output::note(format_args!("  {}", gather::unasked(text, why))));
    Ok(())
}

fn read_back(checking: Duration) -> String {
    format!(", read back in {:.3} s", checking.as_secs_f64())
}

/// Shows the bytes so far.
pub(crate) fn show(bar: &ProgressBar, have: u64, length: u64) {
    bar.set_length(length);
    bar.set_position(have);
}

/// Shows the bytes read back.
pub(crate) fn show_check(bar: &ProgressBar) {
    bar.reset();
    bar.set_message("check");
}

async fn to_file(
    mut download: Download,
    peer: &Peer,
    route: Option<Route>,
    bar: &ProgressBar,
) -> anyhow::Result<Outcome> {
    let resumed_at = download.have();
    let started = Instant::now();
    download.run_with(peer, AskOptions { route }, |have, length| show(bar, have, length)).await?;
    let elapsed = started.elapsed();
    show_check(bar);
    let length = download.finish(|read| bar.set_position(read)).await?;
    Ok(Outcome { length, resumed_at, elapsed, checking: Some(started.elapsed().saturating_sub(elapsed)) })
}

async fn to_stream(
    out: File,
    token: Token,
    peer: &Peer,
    route: Option<Route>,
    bar: &ProgressBar,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut fetch = peer.fetch_with(token, FetchOptions { route, ..FetchOptions::default() }).await?;
    let stream = OutputStream::start(out)?;
    let (mut have, length) = (0, fetch.length());
    show(bar, have, length);
    let mut came = Ok(());
    while let Some(chunk) = fetch.chunk().await {
        match chunk {
            Ok(chunk) => {
                have += chunk.len() as u64;
                if !stream.write(chunk).await {
                    break;
                }
                show(bar, have, length);
            }
            Err(error) => {
                came = Err(error);
                break;
            }
        }
    }
    // Checked bytes are written even if no more arrive.
    stream.finish().await?;
    came?;
    Ok(Outcome { length, resumed_at: 0, elapsed: started.elapsed(), checking: None })
}
