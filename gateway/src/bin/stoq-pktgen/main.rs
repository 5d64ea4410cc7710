//! `stoq-pktgen`: load for a gateway's port, in packets a second.

mod floods;
mod workers;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stoq::limits::SPAN_S_MAX;
use stoq::names::{GatewayAddress, ResolveError};
use stoq::network::NetworkConfig;
use stoq_gateway::config::{ClientConfig, ConfigError, load_client};
use stoq_gateway::faults::{Interrupted, Usage};
use stoq_gateway::output::{self, OutputError};
use stoq_gateway::pktgen::Load;
use stoq_gateway::{interrupt, logging};

/// The duration without --seconds and --count.
const SECONDS_DEFAULT: Duration = Duration::from_secs(5);

/// Floods a gateway's port, or storms it with handshakes, at a rate in packets a second.
///
/// Use it only against your own gateways. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130
/// interrupted.
#[derive(Parser)]
#[command(name = "stoq-pktgen", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(clap::Args)]
struct Options {
    /// Configuration file of a client (TOML); configs/client.toml shows every option.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The gateway's address, such as 192.0.2.1:4433, or its name, where the file names none; without a port,
    /// 4433. Of several addresses of a name, the first of a family of this network is used.
    #[arg(long, short = 'g', value_name = "HOST[:PORT]", global = true)]
    gateway: Option<GatewayAddress>,
    /// Packets, handshakes or messages a second; 0 for the highest possible rate.
    #[arg(long, default_value_t = 0.0, value_name = "PPS", global = true)]
    rate: f64,
    /// The duration; without it 5 seconds, or with --count as long as these take.
    #[arg(long, value_name = "SECONDS", global = true)]
    seconds: Option<f64>,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Mode {
    /// UDP datagrams of random bytes to the gateway's port: no QUIC.
    Garbage(floods::Sizes),
    /// First flights of QUIC clients, each to a connection of its own, never completed.
    Initials(floods::CountArgs),
    /// First datagrams of such flights alone, each to a connection of its own: ClientHellos that never become whole.
    Halves(floods::CountArgs),
    /// Initial packets with one byte of CRYPTO behind a gap, 200 to each connection.
    Gaps(floods::CountArgs),
    /// One first flight of a QUIC client, repeated.
    Replay(floods::CountArgs),
    /// Complete handshakes, each of a new connection, which is closed when it is up.
    Handshakes(workers::Storming),
    /// Messages on many connections, to the queue of a discard application.
    Goodput(workers::Streaming),
    /// Write man pages and shell completions, for packagers.
    #[command(hide = true)]
    Generate(stoq_gateway::manuals::Args),
}

/// The setup that every mode needs.
struct Setup {
    config: ClientConfig,
    gateway: SocketAddr,
    rate: f64,
    /// None: until a count is reached.
    seconds: Option<Duration>,
    json: bool,
    interrupt: Arc<AtomicBool>,
}

impl Setup {
    /// The duration of the load, with this bound on its count.
    fn duration(&self, count: Option<u64>) -> Duration {
        let default = if count.is_some() { Duration::from_secs(SPAN_S_MAX) } else { SECONDS_DEFAULT };
        self.seconds.unwrap_or(default)
    }

    fn ensure_not_interrupted(&self) -> anyhow::Result<()> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Prints the result, as one JSON object or as text.
    fn print(&self, result: &serde_json::Value, text: &str) -> Result<(), OutputError> {
        let done = "the load was sent";
        if self.json { output::result(result, done) } else { output::result(text, done) }
    }
}

impl Options {
    fn setup(self) -> anyhow::Result<Setup> {
        let Some(file) = &self.config else { return Err(usage("no configuration: give --config FILE")) };
        let seconds = self.seconds.map(Duration::from_secs_f64);
        let config = load_client(file)?;
        let gateway = self.gateway.or(config.connect.clone()).ok_or_else(Usage::no_gateway)?;
        if gateway.has_zone() && matches!(config.network, NetworkConfig::Dpdk(_)) {
            return Err(ResolveError::Zone(gateway).into());
        }
        let found = gateway.resolve()?;
        let gateway = choose(&found, &config.network).with_context(|| format!("{gateway} has no address"))?;
        logging::start(&config.log)?;
        let interrupt = interrupt::listen(|| {})?;
        Ok(Setup { config, gateway, rate: self.rate, seconds, json: self.json, interrupt })
    }
}

/// The first of these addresses whose family the network has; the first of all if it has the family of none.
fn choose(found: &[SocketAddr], network: &NetworkConfig) -> Option<SocketAddr> {
    let has = |v6: bool| match network {
        NetworkConfig::Dpdk(port) => port.addresses.iter().any(|prefix| prefix.address().is_ipv6() == v6),
        NetworkConfig::KernelUdp(sockets) => sockets.listen.iter().any(|local| local.is_ipv6() == v6),
    };
    found.iter().find(|address| has(address.is_ipv6())).or(found.first()).copied()
}

fn usage(text: &str) -> anyhow::Error {
    Usage(text.into()).into()
}

fn main() -> ExitCode {
    let Cli { options, mode } = stoq_gateway::ranges::parse::<Cli>();
    let result = match mode {
        Mode::Garbage(sizes) => options.setup().and_then(|setup| floods::garbage(setup, &sizes)),
        Mode::Initials(counted) => {
            options.setup().and_then(|setup| floods::initials(setup, "initials", &counted, Load::initials))
        }
        Mode::Halves(counted) => {
            options.setup().and_then(|setup| floods::initials(setup, "halves", &counted, Load::halves))
        }
        Mode::Gaps(counted) => {
            options.setup().and_then(|setup| floods::initials(setup, "gaps", &counted, Load::gaps))
        }
        Mode::Replay(counted) => options
            .setup()
            .and_then(|setup| floods::initials(setup, "replay", &counted, |flight| Load::replay(&flight))),
        Mode::Handshakes(storming) => options.setup().and_then(|setup| workers::handshakes(setup, &storming)),
        Mode::Goodput(streaming) => options.setup().and_then(|setup| workers::goodput(setup, &streaming)),
        Mode::Generate(args) => args.write(Cli::command()).map_err(Into::into),
    };
    logging::flush();
    let Err(error) = result else { return ExitCode::SUCCESS };
    let code = output::failed("stoq-pktgen", &error);
    if error.is::<Interrupted>() {
        return ExitCode::from(130);
    }
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

    #[test]
    fn the_first_address_of_a_family_that_the_network_has_is_used() {
        let (v6, v4) = ("[2001:db8::1]:4433".parse().unwrap(), "192.0.2.1:4433".parse().unwrap());
        let network = |listen: &[&str]| {
            let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
            NetworkConfig::KernelUdp(stoq::network::KernelConfig {
                listen,
                ..stoq::network::KernelConfig::default()
            })
        };
        assert_eq!(choose(&[v6, v4], &network(&["0.0.0.0:0"])), Some(v4));
        assert_eq!(choose(&[v6, v4], &network(&["0.0.0.0:0", "[::]:0"])), Some(v6));
        assert_eq!(choose(&[v6], &network(&["0.0.0.0:0"])), Some(v6), "its refusal names the family");
        assert_eq!(choose(&[], &network(&["0.0.0.0:0"])), None);
    }
}
