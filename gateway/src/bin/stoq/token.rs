//! `stoq token FILE`.

use crate::input;
use crate::output;
use crate::shards::Shards;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The input, read once to its end: a file, a pipe, a block device, or "-" for standard input (a file of
    /// that name is ./-).
    file: PathBuf,
    /// Print the token of its set as well. The set has data+parity shards a stripe, such as 16+4, or 16+4@65536 with the length of a
    /// shard in bytes.
    #[arg(long, value_name = "K+M[@BYTES]")]
    shards: Option<Shards>,
    /// With --shards, the directory for the temporary file into which a pipe is copied [default: TMPDIR, or /tmp].
    #[arg(long, requires = "shards", value_name = "DIR")]
    spool: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let input = input::open(&args.file, false)?;
    if args.shards.is_none() {
        output::line(input.token()?.0)?;
        return Ok(());
    }
    let set = input.describe(&input::options(args.shards, args.spool))?;
    output::line(set.content())?;
    output::line(set.set_token())?;
    Ok(())
}
