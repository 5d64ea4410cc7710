//! `stoq-gateway`: the appliance.

use anyhow::anyhow;
use clap::{CommandFactory, Parser, Subcommand};
use std::fs::OpenOptions;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stoq::limits::LOG_FLUSH_MS_MAX;
use stoq::seed::Store;
use stoq_gateway::admin::{health, top};
use stoq_gateway::capture::filter::Filter;
use stoq_gateway::capture::{Until, Wanted, record};
use stoq_gateway::config::{ConfigError, load_gateway};
use stoq_gateway::events::Event;
use stoq_gateway::faults::{SignalError, Usage};
use stoq_gateway::fleet_tool::FleetCommand;
use stoq_gateway::run::{PROGRAM, serve};
use stoq_gateway::store_salvage::StoreSalvageArgs;
use stoq_gateway::store_tool::{StoreListArgs, StoreRemoveArgs, StoreStatArgs, StoreUsageArgs, seed};
use stoq_gateway::store_verify::StoreVerifyArgs;
use stoq_gateway::{capabilities, check, logging};
use stoq_gateway::{manuals, output};

/// The STOQ gateway: takes, checks, keeps and serves payloads over post-quantum QUIC.
///
/// Exit codes: 0 ended in order, 1 failed, 2 wrong usage or configuration, 130 ended by a second signal before running requests had finished.
#[derive(Parser)]
#[command(name = "stoq-gateway", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM; reload the configuration on SIGHUP.
    Run {
        #[command(flatten)]
        configured: Configured,
        /// Print one JSON object a line: {"event":"up",…} once the gateway serves, {"event":"reloaded",…} or
        /// {"event":"reload-refused",…} when it has read its files again, {"event":"ended",…} when it has ended in order.
        #[arg(long)]
        json: bool,
    },
    /// Check the machine and the configuration, and name the command that fixes each fault.
    Check {
        #[command(flatten)]
        configured: Configured,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Capture frames of a running gateway's DPDK port into a pcapng file, until SIGINT, --count or
    /// --seconds.
    Capture(Capture),
    /// Watch a running gateway, local or remote, by its admin endpoint: load, rates, drops, connections.
    Top(top::Args),
    /// Ask a running gateway whether it is ready: exit code 0 if it is, 1 if not. For containers.
    Health(health::Args),
    /// Maintain the seed store of a gateway, whether it runs or not.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Make a fleet's key file; look at the fleet's directory, and change what is there.
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Write man pages and shell completions, for packagers.
    #[command(hide = true)]
    Generate(manuals::Args),
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Declare that this machine's clock is right now. After a clock jump, leases then end by the clock at once, and not only after it
    /// has run steadily for an hour.
    TrustClock(Configured),
    /// List the payloads and sets that the store keeps, with their owners.
    List(StoreListArgs),
    /// Show what the store keeps of a payload or set, for which owners and until when.
    Stat(StoreStatArgs),
    /// Remove payloads or sets, whatever their leases; with --owner, end only the lease of that owner.
    Remove(StoreRemoveArgs),
    /// Show how much the store keeps; with --by owner, for each owner.
    Usage(StoreUsageArgs),
    /// Print a manifest of the payloads that the store holds whole: `stoq get --manifest` gets them, `b3sum --check` checks them.
    Export(StoreListArgs),
    /// Read everything in the store and compare it with its tokens. What is damaged is mended, or set aside in the store's directory
    /// `damaged`.
    ///
    /// Reads the store itself while no gateway runs on it, and has a running gateway read it with --now: at its `scrub_bytes_per_s`, and
    /// not while a request waits for the disk. Exit codes: 0 everything is whole, 1 something is damaged or could not be read.
    Verify(StoreVerifyArgs),
    /// Copy the rows of a damaged database that can be read into a new one, while no gateway runs. The damaged file goes to the store's directory
    /// `damaged`. Payloads that are files are not touched.
    Salvage(StoreSalvageArgs),
}

#[derive(clap::Args)]
struct Capture {
    /// The socket that the gateway's configuration names: [capture] socket.
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
    /// Terms that must all hold: arp, ip, ip6, udp, icmp, icmp6, [src|dst] port N, [src|dst] host ADDRESS,
    /// each with or without `not` before it.
    #[arg(long, value_name = "TERMS", default_value = "")]
    filter: String,
    /// Take every N-th frame of each queue.
    #[arg(long, value_name = "N", default_value_t = 1)]
    sample: u32,
    /// End after this number of frames.
    #[arg(long, value_name = "FRAMES")]
    count: Option<u64>,
    /// End after this number of seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u32>,
    /// The pcapng file; it must not exist yet.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Print one JSON object a line: {"event":"recording"} once frames are taken, {"event":"recorded","frames":N} at the end.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Configured {
    /// The configuration file (TOML); configs/gateway.toml shows every option.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let command = stoq_gateway::ranges::parse::<Cli>().command;
    // Now, while this is the only thread.
    if let Err(error) = capabilities::take_permitted() {
        return fail(&anyhow::Error::new(error).context("cannot make the granted capabilities effective"));
    }
    match command {
        Command::Run { configured, json } => {
            let ended = serve(&configured.config, json, Vec::new());
            logging::flush();
            match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            }
        }
        Command::Capture(wanted) => match capture(&wanted) {
            Ok(frames) => {
                let printed = if wanted.json {
                    Event::Recorded { frames }.print()
                } else {
                    output::result(format_args!("{frames} frames"), "the capture is written")
                };
                output::exit(PROGRAM, printed.map(|()| ExitCode::SUCCESS))
            }
            Err(error) => fail(&error),
        },
        Command::Check { configured, json } => match load_gateway(&configured.config) {
            Ok(config) => {
                output::exit(PROGRAM, check::report(&check::run(&config, &configured.config), json))
            }
            Err(error) => fail(&error.into()),
        },
        Command::Health(args) => match args.ask() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Store(command) => maintain(&command).unwrap_or_else(|error| fail(&error)),
        Command::Fleet(command) => command.run().unwrap_or_else(|error| fail(&error)),
        Command::Generate(args) => match args.write(Cli::command()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.into()),
        },
        Command::Top(args) => match top::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
    }
}

fn maintain(command: &StoreCommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        StoreCommand::TrustClock(configured) => trust_clock(configured),
        StoreCommand::List(args) => args.list(),
        StoreCommand::Stat(args) => args.run(),
        StoreCommand::Remove(args) => args.run(),
        StoreCommand::Usage(args) => args.run(),
        StoreCommand::Export(args) => args.export(),
        StoreCommand::Verify(args) => return args.run(),
        StoreCommand::Salvage(args) => args.run(),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn trust_clock(configured: &Configured) -> anyhow::Result<()> {
    let config = load_gateway(&configured.config)?;
    let seed = seed(&config)?;
    let unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| anyhow!("the clock is before 1970: set it first"))?
        .as_secs();
    Store::vouch_for_clock(&seed.directory, unix_s)?;
    let text = format!("noted in {}: the clock is right", seed.directory.display());
    output::result(text, "the clock is noted as right")?;
    Ok(())
}

fn capture(capture: &Capture) -> anyhow::Result<u64> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stopped.clone()).map_err(SignalError)?;
    }
    let deadline = capture.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    capture.filter.parse::<Filter>().map_err(|error| Usage(error.to_string()))?;
    let wanted = Wanted { filter: capture.filter.clone(), sample: capture.sample };
    // A capture may hold TLS secrets.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&capture.output);
    let file = file.map_err(|error| {
        anyhow!("{}: cannot be made ({error}); give --output a new file", capture.output.display())
    })?;
    let until = Until { frames: capture.count, deadline, stopped };
    let begun = || if capture.json { Ok(Event::Recording.print()?) } else { Ok(()) };
    record(&capture.socket, &wanted, &until, BufWriter::new(file), begun).inspect_err(|_| {
        // An empty file would only block the next attempt.
        if std::fs::metadata(&capture.output).is_ok_and(|file| file.len() == 0) {
            let _ = std::fs::remove_file(&capture.output);
        }
    })
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let limit = Duration::from_millis(LOG_FLUSH_MS_MAX);
    let code = output::failed_within(PROGRAM, logging::error_prefix(), error, limit);
    ExitCode::from(if error.is::<ConfigError>() || error.is::<Usage>() { 2 } else { code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_numeric_option_has_a_range() {
        let command = stoq_gateway::ranges::bounded(Cli::command());
        command.clone().debug_assert();
        assert_eq!(stoq_gateway::ranges::unbounded(&command), Vec::<String>::new());
    }
}
