//! The input of a put or a token: a file, or standard input.

use crate::shards::Shards;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use stoq::client::{ClientError, Input, PrepareOptions, Prepared};
use stoq_gateway::faults::started;
use tokio::sync::oneshot;

/// Opens FILE; "-" is standard input. A terminal is read up to Ctrl-D, as by `cat`, after a note that says so.
pub(crate) fn open(file: &Path, quiet: bool) -> Result<Input, ClientError> {
    if file.as_os_str() != "-" {
        return Input::open(file);
    }
    if !quiet && std::io::stdin().is_terminal() {
        crate::output::note("stoq: reading from the terminal; Ctrl-D ends it");
    }
    Input::stdin()
}

pub(crate) fn options(shards: Option<Shards>, spool: Option<PathBuf>) -> PrepareOptions {
    PrepareOptions { sharding: shards.map(|shards| shards.0), spool, ..PrepareOptions::default() }
}

/// Prepares `input` on a thread of its own, so that signals are handled while a pipe's writer or a disk is
/// slow.
pub(crate) async fn prepare(input: Input, options: PrepareOptions) -> anyhow::Result<Prepared> {
    let (tell, prepared) = oneshot::channel();
    let reader = std::thread::Builder::new().name("stoq-read".into());
    // After a signal the result has no receiver.
    started("reads the input", reader.spawn(move || drop(tell.send(input.prepare(&options)))))?;
    Ok(prepared.await??)
}
