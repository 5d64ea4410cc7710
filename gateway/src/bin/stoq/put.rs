//! `stoq put FILE`, and `stoq put -`: one payload. Several are [`crate::many::put`]'s.

use crate::input;
use crate::many;
use crate::output::{self, Usage, gbit_per_s, progress};
use crate::route::RouteArgs;
use crate::session::{ClientOptions, ConnectionCount, Online};
use crate::shards::Shards;
use crate::spread::Spread;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stoq::client::{Kept, PUT_QUEUE, Prepared, PutOptions};
use stoq::shard::{Descriptor, Lanes};
use stoq::tls::NodeId;
use stoq_gateway::durations::Seconds;

/// The state of the put when standard output does not take the token.
const DONE: &str = "the put is done: the gateway has checked and keeps the payload";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The input: a file, a directory with everything in it, a pipe, a block device, or "-" for standard input (a file of that name is ./-).
    /// Input without a length is first read to its end into a temporary file. A put fails if the file changes
    /// meanwhile. Of several files, or of a directory, each is a payload of its own: a line of its token, its size and its name
    /// says that the gateway keeps it. Files that cannot be put do not stop the others; the exit code is 1 then. In a directory, symbolic
    /// links, devices, pipes and sockets are skipped.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write the files' tokens and names to OUT, once all files were tried: what `b3sum --check OUT` and `stoq get --manifest OUT` read.
    /// An earlier manifest is replaced, and no other file
    #[arg(long, value_name = "OUT")]
    pub(crate) manifest: Option<PathBuf>,
    /// The queue of the gateway's application.
    #[arg(long, default_value_t = PUT_QUEUE)]
    pub(crate) queue: u64,
    /// The requested lease: 90s, 45m, 12h, 30d. A number alone is seconds.
    #[arg(long, default_value = "30d", value_name = "TIME")]
    pub(crate) lease: Seconds,
    /// Put it as shards: data+parity shards a stripe, such as 16+4, or 16+4@65536 with the length of a shard in bytes. Any 16 of the 20
    /// lanes then restore the file. Prints the set's token as well.
    #[arg(long, value_name = "K+M[@BYTES]")]
    pub(crate) shards: Option<Shards>,
    /// Put only these lanes, such as 0-3,17; without it all of them.
    #[arg(long, requires = "shards")]
    lanes: Option<Lanes>,
    /// The directory for temporary files: the bytes of a pipe, and the parity of --shards. They have no name, and vanish however the
    /// command ends [default: TMPDIR, or /tmp].
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,
    /// Connections to the gateway, over the workers of both sides; at most 8 carry a put. Each puts lanes of one set, and the gateway makes them the payload:
    /// it writes all but the first of them twice. Several files are spread over the connections, each on one. "auto": see `stoq get`
    #[arg(long, value_name = "COUNT", default_value = "1")]
    pub(crate) connections: ConnectionCount,
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    #[command(flatten)]
    pub(crate) options: ClientOptions,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match &args.files[..] {
        [file] if args.manifest.is_none() && !file.is_dir() => one(&file.clone(), args),
        _ => many::put::run(args),
    }
}

fn one(file: &Path, args: Args) -> anyhow::Result<()> {
    // Faults of the command line, the file or the gateway are reported before the input is read: a pipe can
    // be read only once.
    let preparing = input::options(args.shards, args.spool);
    if let (Some(shards), Some(lanes)) = (args.shards, args.lanes)
        && !shards.lanes().contains_all(lanes)
    {
        return Err(Usage(format!("--lanes {lanes}: the set has the lanes {}", shards.lanes())).into());
    }
    let input = input::open(file, args.options.quiet)?;
    let (setup, connections) = args.options.open_for(args.connections, &[])?;
    let online = setup.start()?;
    let route = args.route.route(&online.gateways)?;
    let once = input.is_read_once();
    if once {
        online.run(async |_| Ok(()))?;
    }
    let hashing = Instant::now();
    let payload = online.block_on(input::prepare(input, preparing))?;
    let hashed = hashing.elapsed();
    let set = args.shards.map(|_| payload.descriptor()).transpose()?;
    let options = PutOptions {
        queue: Some(args.queue),
        lease_s: args.lease.0,
        lanes: set.map(|set| args.lanes.unwrap_or(set.lanes())),
        route,
        ..PutOptions::default()
    };
    let lanes = options.lanes;
    let spread = Spread::new(&payload, (set, lanes), connections)?;
    let bar = progress(args.options.is_quiet(), "put", payload.length);
    let last = options.route.as_ref().map(|route| route.nodes().last().copied());
    let started = Instant::now();
    let (kept, node) = match &spread {
        None => online.run(async |peer| {
            let kept = peer.put_with(&payload, options, |bytes| bar.set_position(bytes)).await?;
            Ok((kept, peer.node()))
        })?,
        Some(spread) => spread.put(&online, &payload, &options, |bytes| bar.inc(bytes))?,
    };
    let connections = spread.as_ref().map_or(1, Spread::connections);
    let sent = Sent { kept, elapsed: started.elapsed(), stored_by: last.unwrap_or(node), connections };
    bar.finish_and_clear();
    if args.options.json {
        output::result(json(&payload, set, lanes, hashed, &sent, &online), DONE)?;
        return Ok(());
    }
    match sent.gbit_per_s(&payload) {
        Some(rate) => output::note(format_args!(
            "put {} bytes, checked and kept by the gateway: {rate:.2} Gbit/s in {:.3} s ({} in {:.3} s); {}, {} worker(s), {}",
            payload.length,
            sent.elapsed.as_secs_f64(),
            if once { "read and hashed" } else { "hashed" },
            hashed.as_secs_f64(),
            online.client.network(),
            online.workers,
            online.cipher,
        )),
        None => output::note(format_args!(
            "the gateway keeps these {} bytes already; nothing was sent",
            payload.length
        )),
    }
    let tokens = match set {
        Some(set) => format!("{}\n{}", payload.token, set.set_token()),
        None => payload.token.to_string(),
    };
    output::result(tokens, DONE)?;
    Ok(())
}

/// The result of a put.
struct Sent {
    kept: Kept,
    elapsed: Duration,
    stored_by: Option<NodeId>,
    connections: usize,
}

impl Sent {
    /// A payload that was held already was not sent: there is no rate.
    fn gbit_per_s(&self, payload: &Prepared) -> Option<f64> {
        (self.kept == Kept::Now).then(|| gbit_per_s(payload.length, self.elapsed))
    }
}

fn json(
    payload: &Prepared,
    set: Option<Descriptor>,
    lanes: Option<Lanes>,
    hashed: Duration,
    sent: &Sent,
    online: &Online,
) -> serde_json::Value {
    serde_json::json!({
        "operation": "put", "token": payload.token.to_string(), "set": set.map(|set| set.set_token().to_string()),
        "lanes": lanes.map(|lanes| lanes.to_string()), "bytes": payload.length, "verified": true,
        "seconds": sent.elapsed.as_secs_f64(), "gbit_per_s": sent.gbit_per_s(payload), "already_kept": sent.kept == Kept::Already,
        "hash_seconds": hashed.as_secs_f64(), "gateway": sent.stored_by, "connections": sent.connections, "network": online.client.network(), "workers": online.workers,
        "cipher": online.cipher.name(), "version": env!("CARGO_PKG_VERSION"),
    })
}
