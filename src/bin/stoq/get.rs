//! `stoq get TOKEN -o FILE`.

use crate::gather;
use crate::output::{Usage, gbit_per_s, progress};
use crate::route::RouteArgs;
use crate::session::Options;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stoq::client::{ClientError, FetchOptions, Peer, Route};
use stoq::download::Download;
use stoq::token::{AnyToken, Token};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The token, as `stoq put` printed it: b3: and 64 hex digits of a payload, or set: and 64 of a sharded one.
    token: AnyToken,
    /// Where to write it. Until every byte is there and checked, it is called FILE.part; run the same command again to go
    /// on where an interrupted one stopped. "-" is standard output: each byte is checked before it is written there. What comes
    /// as shards, or from several gateways, is called FILE.gathering meanwhile and begins anew each time.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Ask these gateways at once, and leave those that are slow, wrong or gone: node IDs, names of [[neighbor]] sections in the
    /// configuration file, or addresses. One whose address is not known is asked through the connected gateway.
    #[arg(long, value_name = "GATEWAY,…", value_delimiter = ',', conflicts_with = "via")]
    from: Vec<String>,
    #[command(flatten)]
    route: RouteArgs,
    #[command(flatten)]
    options: Options,
}

/// What a get did.
struct Outcome {
    length: u64,
    resumed_at: u64,
    elapsed: Duration,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let to_stdout = args.output.as_os_str() == "-";
    let token = match args.token {
        AnyToken::Content(token) if args.from.is_empty() => token,
        _ if to_stdout => {
            let text =
                "-o -: what comes from several gateways, or as shards, comes in any order; give a file";
            return Err(Usage(text.into()).into());
        }
        _ => return gathered(args),
    };
    // Before the network: what is wrong with the file is known at once.
    let download = if to_stdout { None } else { Some(Download::open(&args.output, token)?) };
    let online = args.options.open()?.start()?;
    let route = args.route.route(&online.gateways)?;
    let (outcome, gateway) = online.run(async |peer| {
        let bar = progress(args.options.quiet || args.options.json, "get", 0);
        let shown = |have, length| {
            bar.set_length(length);
            bar.set_position(have);
        };
        let outcome = match download {
            Some(download) => to_file(download, peer, route, shown).await?,
            None => to_standard_output(token, peer, route, shown).await?,
        };
        bar.finish_and_clear();
        Ok((outcome, peer.node()))
    })?;
    let Outcome { length, resumed_at, elapsed } = outcome;
    let fetched = length - resumed_at.min(length);
    let rate = gbit_per_s(fetched, elapsed);
    let (network, workers, cipher) = (online.client.network(), online.workers, online.cipher);
    if args.options.json {
        let result = serde_json::json!({
            "operation": "get", "token": args.token.to_string(), "bytes": length, "resumed_at": resumed_at, "verified": true,
            "seconds": elapsed.as_secs_f64(), "gbit_per_s": rate, "gateway": gateway, "network": network,
            "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        // Standard output may carry the payload.
        if to_stdout { eprintln!("{result}") } else { println!("{result}") }
    } else {
        eprintln!(
            "got {length} bytes, {fetched} of them now, every one checked: {rate:.2} Gbit/s in {:.3} s; {network}, \
             {workers} worker(s), {cipher}",
            elapsed.as_secs_f64(),
        );
    }
    Ok(())
}

fn gathered(args: Args) -> anyhow::Result<()> {
    let session = if args.from.is_empty() { args.options.open()? } else { args.options.open_anywhere()? };
    let online = session.start()?;
    let route = args.route.route(&online.gateways)?;
    let quiet = args.options.quiet || args.options.json;
    let outcome = online.block_on(async {
        let bar = progress(quiet, "get", 0);
        let shown = |have, length| {
            bar.set_length(length);
            bar.set_position(have);
        };
        let outcome = gather::run(&online, args.token, &args.from, route, &args.output, shown).await?;
        bar.finish_and_clear();
        Ok(outcome)
    })?;
    let gather::Outcome { collected, elapsed, given, unreached } = outcome;
    let rate = gbit_per_s(collected.length, elapsed);
    let (network, workers, cipher) = (online.client.network(), online.workers, online.cipher);
    if args.options.json {
        let given: Vec<_> = given.iter().map(gather::json).collect();
        let result = serde_json::json!({
            "operation": "get", "token": args.token.to_string(), "bytes": collected.length, "verified": true,
            "decoded": collected.decoded, "seconds": elapsed.as_secs_f64(), "gbit_per_s": rate, "holders": given, "unreached": unreached,
            "network": network, "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        println!("{result}");
        return Ok(());
    }
    let how = if collected.decoded { ", some of it decoded from parity" } else { "" };
    eprintln!(
        "got {} bytes, every one checked{how}: {rate:.2} Gbit/s in {:.3} s; {network}, {workers} worker(s), {cipher}",
        collected.length,
        elapsed.as_secs_f64(),
    );
    given.iter().for_each(|given| eprintln!("  {}", gather::told(given)));
    unreached.iter().for_each(|(text, why)| eprintln!("  {text} could not be asked: {why}"));
    Ok(())
}

async fn to_file(
    mut download: Download,
    peer: &Peer,
    route: Option<Route>,
    shown: impl FnMut(u64, u64),
) -> anyhow::Result<Outcome> {
    let resumed_at = download.have();
    let started = Instant::now();
    download.run(peer, route, shown).await?;
    let elapsed = started.elapsed();
    Ok(Outcome { length: download.finish()?, resumed_at, elapsed })
}

async fn to_standard_output(
    token: Token,
    peer: &Peer,
    route: Option<Route>,
    mut shown: impl FnMut(u64, u64),
) -> anyhow::Result<Outcome> {
    // A file of its own: the standard library's handle would look for line ends in every byte.
    let mut out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let started = Instant::now();
    let mut fetch = peer.fetch(token, FetchOptions { route, ..FetchOptions::default() }).await?;
    let (mut have, length) = (0, fetch.length());
    shown(have, length);
    while let Some(piece) = fetch.next().await {
        let piece = piece?;
        out.write_all(&piece.data).map_err(ClientError::Sink)?;
        have += piece.data.len() as u64;
        shown(have, length);
    }
    Ok(Outcome { length, resumed_at: 0, elapsed: started.elapsed() })
}
