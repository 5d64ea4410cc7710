//! `stoq get TOKEN -o FILE`.

use crate::output::{gbit_per_s, progress};
use crate::session::Options;
use std::path::PathBuf;
use std::time::Instant;
use stoq::download::Download;
use stoq::token::Token;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The payload's token, as `stoq put` printed it: b3: and 64 hex digits.
    token: Token,
    /// Where to write it. Until every byte is there and checked, it is called FILE.part; run the same command again to go
    /// on where an interrupted one stopped.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let mut download = Download::open(&args.output, args.token)?;
    let session = args.options.open()?;
    let (cipher, workers) = (session.cipher, session.workers);
    let (mut client, peer) = session.connect()?;
    let bar = progress(args.options.quiet || args.options.json, "get", 0);
    let resumed = download.have();
    let started = Instant::now();
    download.run(&mut client, &peer, |have, length| {
        bar.set_length(length);
        bar.set_position(have);
    })?;
    let elapsed = started.elapsed();
    let length = download.finish()?;
    bar.finish_and_clear();
    let fetched = length - resumed.min(length);
    let rate = gbit_per_s(fetched, elapsed);
    let network = client.network().clone();
    let gateway = peer.node.map(|id| id.to_string());
    client.disconnect(peer)?;
    if args.options.json {
        let result = serde_json::json!({
            "operation": "get", "token": args.token.to_string(), "bytes": length, "resumed_at": resumed, "verified": true,
            "seconds": elapsed.as_secs_f64(), "gbit_per_s": rate, "gateway": gateway, "network": network,
            "workers": workers, "cipher": cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        });
        println!("{result}");
    } else {
        eprintln!(
            "got {length} bytes, {fetched} of them now, every one checked: {rate:.2} Gbit/s in {:.3} s; {network}, \
             {workers} worker(s), {cipher}",
            elapsed.as_secs_f64(),
        );
    }
    Ok(())
}
