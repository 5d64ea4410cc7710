//! `stoq-gateway`: the appliance.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use stoq::config::load_gateway;
use stoq::gateway::run::{Gateway, signals};
use stoq::gateway::{check, logging};

/// The STOQ gateway: takes, checks, keeps and serves payloads over post-quantum QUIC.
///
/// Exit codes: 0 ended in order, 1 failed, 2 wrong usage or configuration.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM; read the files again on SIGHUP.
    Run(Configured),
    /// Look whether the machine and the configuration are ready, and name the command that mends what is not.
    Check {
        #[command(flatten)]
        configured: Configured,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Configured {
    /// The configuration file (TOML); configs/gateway.toml shows every option.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(configured) => match run(&configured) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Check { configured, json } => match load_gateway(&configured.config) {
            Ok(config) => check::report(&check::run(&config), json),
            Err(error) => fail(&error.into()),
        },
    }
}

fn run(configured: &Configured) -> anyhow::Result<()> {
    let config = load_gateway(&configured.config)?;
    logging::start(&config.log)?;
    let signals = signals()?;
    Gateway::start(&config)?.run(signals, &configured.config);
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("stoq-gateway: {error:#}");
    ExitCode::from(if error.downcast_ref::<stoq::config::ConfigError>().is_some() { 2 } else { 1 })
}
