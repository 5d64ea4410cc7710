//! The command line.

use super::path::{Buffer, Disturbance, Flow, Path, Transfer};
use super::rows::{Row, rows};
use super::sides::{QuicKeys, quic};
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::Duration;

pub(super) const HELP: &str = "\
Goodput of PUT, GET and MESSAGE over long paths, under virtual time.

cargo bench --bench wan [--no-default-features] -- [OPTIONS]

Rows:
      --list                 print the rows, run nothing
      --only NAME,…          these rows; without it all of them (--rows is the same)
      --transfer LIST        put, get, message [all three]
      --seeds N              runs of each, of which medians are printed [5]
      --warm TIME            what passes before measuring begins [by the row]
      --seconds S            how long is measured [by the row]
      --threads N            runs at the same time, each in a process of its own [2]
      --json                 one JSON object a row; of_link is the least of its transfers
      --trace TIME           one run of the first transfer, a line every so often (10ms or more)

Configuration of both sides, the default but for:
      --controller NAME      [quic] congestion_control
      --quic KEY=VALUE       any key of [quic]; may be repeated

A path of one's own, or changes to the rows that --only names:
      --rate RATE            300M, 1G, 10G: bits a second of Ethernet, with preamble and gap [1G]
      --rtt TIME             50ms, 100us [50ms]
      --buffer SIZE          1.0 products of rate and round trip, 100p packets, or 75kB [1.0]
      --loss P               probability that a frame is lost, 0.001 or 0.1% [0]
      --burst P:LEN          probability that a run of losses begins, and its mean length
      --reorder P:TIME       probability of holding a frame back, and for how long at most
      --back-rate RATE       the way back; its buffer has as many bytes [as forth]
      --back-loss P          losses on the way back [0]
      --mtu BYTES            of devices and path [1500]
      --path-mtu BYTES       of the path, where it is smaller
      --initial-payload BYTES  [quic] initial_udp_payload_bytes [1200]
      --outage AT:TIME       nothing passes from then on for so long
      --hole AT:BYTES        from then on only packets up to this size pass
      --flows LIST           connections that share the path, each CONTROLLER@START or START: model@0s,cubic@1s
";

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Options {
    pub(super) help: bool,
    pub(super) list: bool,
    pub(crate) json: bool,
    pub(crate) seeds: u64,
    pub(super) threads: usize,
    pub(super) trace: Option<Duration>,
    /// One run, in this process.
    pub(super) single: Option<(Transfer, u64)>,
    pub(crate) quic: QuicKeys,
    /// What a process for one run gets.
    pub(super) given: Vec<String>,
    only: Vec<String>,
    transfers: Option<Vec<Transfer>>,
    changes: Vec<(String, String)>,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            help: false,
            list: false,
            json: false,
            seeds: 5,
            threads: 2,
            trace: None,
            single: None,
            quic: QuicKeys::new(),
            given: Vec::new(),
            only: Vec::new(),
            transfers: None,
            changes: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match &argument[..] {
                // What cargo adds.
                "--bench" => {}
                "--help" | "-h" => options.help = true,
                "--list" => options.list = true,
                "--json" => options.json = true,
                _ => {
                    let (name, value) = match argument.split_once('=') {
                        Some((name, value)) => (name.to_owned(), value.to_owned()),
                        None => {
                            let value = arguments.next();
                            (
                                argument.clone(),
                                value.with_context(|| format!("{argument} needs a value: see --help"))?,
                            )
                        }
                    };
                    options.set(&name, value)?;
                }
            }
        }
        // A controller that does not exist is refused before anything runs.
        let path = Path::new(1e9, Duration::from_millis(50));
        quic(&path, &options.quic, None)?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: String) -> anyhow::Result<()> {
        let whole = |text: &str| text.parse::<u64>().ok().filter(|&number| number > 0);
        let wrong = || format!("{name} {value}");
        match name {
            "--only" | "--rows" => {
                self.only.extend(value.split(',').map(str::to_owned));
                return Ok(());
            }
            "--transfer" => {
                let list = value.split(',').map(str::parse).collect::<anyhow::Result<Vec<_>>>()?;
                self.transfers = Some(list);
                return Ok(());
            }
            "--seeds" => self.seeds = whole(&value).with_context(wrong)?,
            "--threads" => self.threads = whole(&value).with_context(wrong)? as usize,
            "--trace" => self.trace = Some(time(&value)?),
            "--run" => {
                let (transfer, seed) = value.split_once(':').with_context(wrong)?;
                self.single = Some((transfer.parse()?, whole(seed).with_context(wrong)?));
            }
            "--controller" => {
                drop(self.quic.insert("congestion_control".into(), Value::String(value.clone())))
            }
            "--quic" => {
                let (key, text) = value.split_once('=').with_context(|| format!("{value}: KEY=VALUE"))?;
                let parsed = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()));
                self.quic.insert(key.into(), parsed);
            }
            _ if CHANGES.contains(&name) => self.changes.push((name.into(), value.clone())),
            _ => bail!("there is no option {name}: see --help"),
        }
        self.given.extend([name.to_owned(), value]);
        Ok(())
    }

    /// The rows to run, with the changes.
    pub(crate) fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let is_own = self.only.is_empty()
            && self.changes.iter().any(|(name, _)| !["--warm", "--seconds"].contains(&&name[..]));
        let own = || Row::new(OWN, Path::new(1e9, Duration::from_millis(50)));
        let all = rows();
        let mut chosen: Vec<Row> = match &self.only[..] {
            [] if is_own => vec![own()],
            [] => all,
            names => {
                let found = names.iter().map(|name| {
                    let row = all.iter().find(|row| row.name == *name).cloned();
                    row.or_else(|| (name == OWN).then(own))
                        .with_context(|| format!("there is no row {name}: see --list"))
                });
                found.collect::<anyhow::Result<_>>()?
            }
        };
        for row in &mut chosen {
            // In this order: a round-trip time decides how long is measured.
            for name in CHANGES {
                for (_, value) in self.changes.iter().filter(|(given, _)| given == name) {
                    change(&mut row.path, name, value)
                        .with_context(|| format!("{name} {value}: see --help"))?;
                }
            }
            row.path.check()?;
            if let Some(transfers) = &self.transfers {
                row.transfers.clone_from(transfers);
            }
            for flow in &row.path.flows {
                quic(&row.path, &self.quic, flow.controller.as_deref())?;
            }
        }
        Ok(chosen)
    }
}

/// The name of a path of one's own.
const OWN: &str = "path";

/// The options that change a path.
const CHANGES: &[&str] = &[
    "--rtt",
    "--rate",
    "--buffer",
    "--loss",
    "--burst",
    "--reorder",
    "--back-rate",
    "--back-loss",
    "--mtu",
    "--path-mtu",
    "--initial-payload",
    "--outage",
    "--hole",
    "--flows",
    "--warm",
    "--seconds",
];

fn change(path: &mut Path, name: &str, value: &str) -> anyhow::Result<()> {
    let pair = || value.split_once(':').context("two values with a colon between them");
    match name {
        "--rtt" => path.set_rtt(time(value)?),
        "--rate" => path.rate_bits_per_s = number(value, &[("k", 1e3), ("M", 1e6), ("G", 1e9)])?,
        "--buffer" => {
            path.buffer = if let Some(packets) = value.strip_suffix('p') {
                Buffer::Packets(packets.parse()?)
            } else if let Some(bytes) = value.strip_suffix('B') {
                Buffer::Bytes(number(bytes, &[("k", 1e3), ("M", 1e6), ("G", 1e9)])?)
            } else {
                Buffer::Products(value.parse()?)
            };
        }
        "--loss" => path.loss = chance(value)?,
        "--back-loss" => path.back_loss = chance(value)?,
        "--burst" => path.burst = (chance(pair()?.0)?, pair()?.1.parse()?),
        "--reorder" => path.reordering = (chance(pair()?.0)?, time(pair()?.1)?),
        "--back-rate" => {
            let rate = number(value, &[("k", 1e3), ("M", 1e6), ("G", 1e9)])?;
            path.back = rate / path.rate_bits_per_s;
        }
        "--mtu" => path.set_mtu(value.parse()?),
        "--path-mtu" => path.path_mtu = value.parse()?,
        "--initial-payload" => path.initial_udp_payload_bytes = Some(value.parse()?),
        "--outage" => path.disturbance = Some((time(pair()?.0)?, Disturbance::Outage(time(pair()?.1)?))),
        "--hole" => path.disturbance = Some((time(pair()?.0)?, Disturbance::Hole(pair()?.1.parse()?))),
        "--flows" => path.flows = value.split(',').map(flow).collect::<anyhow::Result<_>>()?,
        "--warm" => path.warm = time(value)?,
        _ => path.measured = time(value)?,
    }
    Ok(())
}

fn flow(text: &str) -> anyhow::Result<Flow> {
    let (controller, start) = match text.split_once('@') {
        Some((controller, start)) => (Some(controller.to_owned()), start),
        None => (None, text),
    };
    Ok(Flow { start_s: time(start)?.as_secs_f64(), controller })
}

/// A number with one of these units.
fn number(text: &str, units: &[(&str, f64)]) -> anyhow::Result<f64> {
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = unit.unwrap_or((text, &1.0));
    let number: f64 = digits.parse().with_context(|| format!("{text:?} is no number"))?;
    if !number.is_finite() || number < 0.0 {
        bail!("{text:?} is no number of 0 or more");
    }
    Ok(number * factor)
}

/// A time; without a unit, seconds.
fn time(text: &str) -> anyhow::Result<Duration> {
    let seconds = number(text, &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])?;
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text:?} is no time"))
}

fn chance(text: &str) -> anyhow::Result<f64> {
    number(text, &[("%", 0.01)])
}
