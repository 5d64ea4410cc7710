//! `stoq`: the client and its tools.

mod bench;
mod gather;
mod get;
mod identity;
mod input;
mod leases;
mod locate;
mod many;
mod mirror;
mod output;
mod path;
mod ping;
mod put;
mod route;
mod session;
mod shards;
mod spread;
mod stream;
mod token;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Put, get and check payloads over STOQ.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
#[derive(Parser)]
#[command(name = "stoq", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a file, or the bytes of a pipe, on a gateway. Ends when the gateway has checked the payload and keeps it durably.
    Put(put::Args),
    /// Get a payload by its token. Every byte is checked against the token.
    Get(get::Args),
    /// List the holders of a payload or a set.
    Locate(locate::Args),
    /// List the payloads and sets that a gateway keeps for this client, or for every owner.
    List(leases::ListArgs),
    /// Show what a gateway keeps of a payload or set, and until when.
    Stat(leases::StatArgs),
    /// Give up this client's lease of payloads or sets. What has no other lease is removed from the gateway.
    Remove(leases::RemoveArgs),
    /// Let a gateway keep payloads or sets longer.
    Renew(leases::RenewArgs),
    /// Make a gateway fetch a payload or lanes from others and hold them.
    Mirror(mirror::Args),
    /// Measure the round trip to a gateway's echo application.
    Ping(ping::Args),
    /// Measure the goodput of messages, puts or gets, without disks.
    Bench(bench::Args),
    /// Measure the path to a gateway: delay, rate and loss, what limits it, and what to set. Takes about a minute, and loads the path.
    Path(path::Args),
    /// Make or show identities: keys, certificates, node IDs.
    Identity(identity::Args),
    /// Print the content token of a file, or of a pipe's bytes, without a network.
    Token(token::Args),
    /// Write man pages and shell completions, for packagers.
    #[command(hide = true)]
    Generate(stoq_gateway::manuals::Args),
}

fn main() -> ExitCode {
    let cli = stoq_gateway::ranges::parse::<Cli>();
    let result = match cli.command {
        Command::Put(args) => put::run(args),
        Command::Get(args) => get::run(args),
        Command::Locate(args) => locate::run(args),
        Command::List(args) => leases::list(args),
        Command::Stat(args) => leases::stat(args),
        Command::Remove(args) => leases::remove(args),
        Command::Renew(args) => leases::renew(args),
        Command::Mirror(args) => mirror::run(args),
        Command::Ping(args) => ping::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Path(args) => path::run(args),
        Command::Identity(args) => identity::run(args),
        Command::Token(args) => token::run(args),
        Command::Generate(args) => args.write(Cli::command()).map_err(Into::into),
    };
    stoq_gateway::logging::flush();
    output::exit(result)
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
