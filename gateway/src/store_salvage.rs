//! `stoq-gateway store salvage`: copies the rows of a damaged database that can be read.

use crate::config::load_gateway;
use crate::output;
use crate::store_tool::{is_made, seed};
use anyhow::ensure;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stoq::seed::{Salvaged, SalvagedRows, Store};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(2);

/// The options of `stoq-gateway store salvage`.
#[derive(Debug, clap::Args)]
pub struct StoreSalvageArgs {
    /// The gateway's configuration file.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

impl StoreSalvageArgs {
    /// Copies what can be read, and prints what could not.
    ///
    /// # Errors
    /// There is no store, a gateway runs on it, its database cannot be opened at all, or the disk does not take a copy.
    pub fn run(&self) -> anyhow::Result<()> {
        let config = load_gateway(&self.config)?;
        let directory = &seed(&config)?.directory;
        is_made(directory)?;
        let running = Store::is_in_use(directory)?.is_some();
        ensure!(!running, "the store in {} is open: stop its gateway, then salvage", directory.display());
        let mut next = Instant::now() + PROGRESS;
        let salvaged = Store::salvage(directory, |rows| {
            if !self.json && Instant::now() >= next {
                next = Instant::now() + PROGRESS;
                output::note(format_args!("{} rows are copied", rows.copied));
            }
        })?;
        if self.json {
            output::line(told(&salvaged))?;
        } else {
            output::line(text(&salvaged))?;
        }
        Ok(())
    }
}

fn told(Salvaged { rows, damaged }: &Salvaged) -> serde_json::Value {
    let SalvagedRows { copied, damaged: rotten, missing } = rows;
    json!({ "copied": copied, "damaged": rotten, "missing": missing, "damaged_file": damaged })
}

fn text(Salvaged { rows, damaged }: &Salvaged) -> String {
    let SalvagedRows { copied, damaged: rotten, missing } = rows;
    format!(
        "{copied} rows of the database are copied; {rotten} were damaged, and {missing} could not be found\nthe damaged file is {}\nstart the gateway: it \
         makes the rest anew, and keeps payloads whose rows are lost without end and without an owner where their files are there",
        damaged.display()
    )
}
