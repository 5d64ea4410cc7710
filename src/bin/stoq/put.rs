//! `stoq put FILE`.

use crate::output::{Usage, gbit_per_s, progress};
use crate::route::RouteArgs;
use crate::session::Options;
use crate::shards::{Shards, prepare};
use std::path::PathBuf;
use std::time::Instant;
use stoq::client::{Kept, PUT_QUEUE, PutOptions};
use stoq::durations::Seconds;
use stoq::shard::Lanes;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to put.
    file: PathBuf,
    /// The gateway's queue that takes it.
    #[arg(long, default_value_t = PUT_QUEUE)]
    queue: u64,
    /// How long the gateway is asked to keep it: 90s, 45m, 12h, 30d. A number alone is seconds.
    #[arg(long, default_value = "30d", value_name = "TIME")]
    lease: Seconds,
    /// Shard it: data+parity shards a stripe, such as 16+4, or 16+4@65536 with the length of a shard in bytes. Any 16 of the 20
    /// lanes then give the file back. Prints the set's token too.
    #[arg(long, value_name = "K+M[@BYTES]")]
    shards: Option<Shards>,
    /// Put only these lanes, such as 0-3,17; without it all of them.
    #[arg(long, requires = "shards")]
    lanes: Option<Lanes>,
    #[command(flatten)]
    route: RouteArgs,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let hashing = Instant::now();
    let payload = prepare(&args.file, args.shards)?;
    let hashed = hashing.elapsed();
    let set = args.shards.map(|_| payload.descriptor()).transpose()?;
    if let (Some(set), Some(lanes)) = (set, args.lanes)
        && !set.lanes().contains_all(lanes)
    {
        return Err(Usage(format!("--lanes {lanes}: the set has the lanes {}", set.lanes())).into());
    }
    let online = args.options.open()?.start()?;
    let options = PutOptions {
        queue: args.queue,
        lease_s: args.lease.0,
        lanes: set.map(|set| args.lanes.unwrap_or(set.lanes())),
        route: args.route.route(&online.gateways)?,
        ..PutOptions::default()
    };
    let options_lanes = options.lanes;
    let (kept, elapsed, stored_by) = online.run(async |peer| {
        let bar = progress(args.options.quiet || args.options.json, "put", payload.length);
        let stored_by = options.route.as_ref().map_or(peer.node(), |route| route.nodes().last().copied());
        let started = Instant::now();
        let kept = peer.put(&payload, options, |bytes| bar.set_position(bytes)).await?;
        let elapsed = started.elapsed();
        bar.finish_and_clear();
        Ok((kept, elapsed, stored_by))
    })?;
    // What was there already did not cross: there is no rate to tell.
    let rate = (kept == Kept::Now).then(|| gbit_per_s(payload.length, elapsed));
    let (network, workers, cipher) = (online.client.network(), online.workers, online.cipher);
    if args.options.json {
        let result = serde_json::json!({
            "operation": "put", "token": payload.token.to_string(), "set": set.map(|set| set.set_token().to_string()),
            "lanes": options_lanes.map(|lanes| lanes.to_string()), "bytes": payload.length, "verified": true,
            "seconds": elapsed.as_secs_f64(), "gbit_per_s": rate, "already_kept": kept == Kept::Already, "hash_seconds": hashed.as_secs_f64(),
            "gateway": stored_by, "network": network, "workers": workers, "cipher": cipher.name(),
            "version": env!("CARGO_PKG_VERSION"),
        });
        println!("{result}");
    } else if let Some(rate) = rate {
        eprintln!(
            "put {} bytes, checked and kept by the gateway: {rate:.2} Gbit/s in {:.3} s (hashed in {:.3} s); {network}, \
             {workers} worker(s), {cipher}",
            payload.length,
            elapsed.as_secs_f64(),
            hashed.as_secs_f64(),
        );
    } else {
        eprintln!("the gateway keeps these {} bytes already; nothing was sent", payload.length);
    }
    if !args.options.json {
        println!("{}", payload.token);
        if let Some(set) = set {
            println!("{}", set.set_token());
        }
    }
    Ok(())
}
