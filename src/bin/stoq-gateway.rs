//! `stoq-gateway`: the appliance.

use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use stoq::admin::top;
use stoq::config::load_gateway;
use stoq::gateway::run::{Gateway, end_signals};
use stoq::gateway::{capabilities, check, health, logging};
use stoq::manuals;

/// The STOQ gateway: takes, checks, keeps and serves payloads over post-quantum QUIC.
///
/// Exit codes: 0 ended in order, 1 failed, 2 wrong usage or configuration.
#[derive(Parser)]
#[command(name = "stoq-gateway", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM.
    Run(Configured),
    /// Look whether the machine and the configuration are ready, and name the command that mends what is not.
    Check {
        #[command(flatten)]
        configured: Configured,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Watch a running gateway, here or elsewhere, by its admin endpoint: load, rates, drops, connections.
    Top(top::Args),
    /// Ask a running gateway whether it is ready: exit code 0 if it is, 1 if not. For containers.
    Health {
        /// Where the gateway's `[admin] listen` answers.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464/readyz")]
        url: health::Url,
    },
    /// Write man pages and shell completions, for packagers.
    #[command(hide = true)]
    Generate(manuals::Args),
}

#[derive(clap::Args)]
struct Configured {
    /// The configuration file (TOML); configs/gateway.toml shows every option.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

/// How long a gateway may take to say that it is ready.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // While this is the only thread.
    if let Err(error) = capabilities::take_permitted() {
        return fail(&anyhow::Error::new(error).context("capabilities that were granted cannot be taken up"));
    }
    match command {
        Command::Run(configured) => match run(&configured) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Check { configured, json } => match load_gateway(&configured.config) {
            Ok(config) => check::report(&check::run(&config), json),
            Err(error) => fail(&error.into()),
        },
        Command::Health { url } => match health::ask(&url, HEALTH_TIMEOUT) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.into()),
        },
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

fn run(configured: &Configured) -> anyhow::Result<()> {
    let config = load_gateway(&configured.config)?;
    logging::start(&config.log)?;
    let signals = end_signals()?;
    Gateway::start(&config)?.run(signals);
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("stoq-gateway: {error:#}");
    ExitCode::from(if error.downcast_ref::<stoq::config::ConfigError>().is_some() { 2 } else { 1 })
}
