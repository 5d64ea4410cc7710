//! `stoq token FILE`.

use crate::shards::{Shards, prepare};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to hash.
    file: PathBuf,
    /// Print the token of its set as well: how the file is cut and protected, data+parity shards a stripe, such as 16+4 or
    /// 16+4@65536 with the length of a shard in bytes.
    #[arg(long, value_name = "K+M[@BYTES]")]
    shards: Option<Shards>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let prepared = prepare(&args.file, args.shards)?;
    println!("{}", prepared.token);
    if args.shards.is_some() {
        println!("{}", prepared.descriptor()?.set_token());
    }
    Ok(())
}
