//! `stoq put FILE`.

use crate::output::{gbit_per_s, progress};
use crate::session::Options;
use std::path::PathBuf;
use std::time::Instant;
use stoq::client::{Kept, PUT_QUEUE, Prepared};

/// Seconds that a gateway is asked to keep what is put, unless told otherwise: thirty days.
const LEASE_S: u64 = 30 * 24 * 3600;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to put.
    file: PathBuf,
    /// The gateway's queue that takes it.
    #[arg(long, default_value_t = PUT_QUEUE)]
    queue: u64,
    /// Ask the gateway to keep it for so many seconds.
    #[arg(long, default_value_t = LEASE_S, value_name = "SECONDS")]
    lease: u64,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let hashing = Instant::now();
    let payload = Prepared::file(&args.file)?;
    let hashed = hashing.elapsed();
    let session = args.options.open()?;
    let (cipher, workers) = (session.cipher, session.workers);
    let (mut client, peer) = session.connect()?;
    let bar = progress(args.options.quiet || args.options.json, "put", payload.length);
    let started = Instant::now();
    let kept = client.put(&peer, &payload, args.queue, args.lease, |bytes| bar.set_position(bytes))?;
    let elapsed = started.elapsed();
    bar.finish_and_clear();
    // What was there already did not cross: there is no rate to tell.
    let rate = (kept == Kept::Now).then(|| gbit_per_s(payload.length, elapsed));
    let network = client.network().clone();
    let stored_by = peer.node.map(|id| id.to_string());
    client.disconnect(peer)?;
    if args.options.json {
        let result = serde_json::json!({
            "operation": "put", "token": payload.token.to_string(), "bytes": payload.length, "verified": true,
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
        println!("{}", payload.token);
    } else {
        eprintln!("the gateway keeps these {} bytes already; nothing was sent", payload.length);
        println!("{}", payload.token);
    }
    Ok(())
}
