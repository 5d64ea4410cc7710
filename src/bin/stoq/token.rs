//! `stoq token FILE`.

use std::path::PathBuf;
use stoq::client::Prepared;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to hash.
    file: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    println!("{}", Prepared::file(&args.file)?.token);
    Ok(())
}
