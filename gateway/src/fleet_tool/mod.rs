//! `stoq-gateway fleet`: what an operator does with a fleet's key file and its directory.

mod inspect;
mod status;

use crate::config::{FleetConfig, FleetProvider, GatewayConfig, load_gateway};
use crate::faults::Usage;
use crate::fleet::etcd::{EtcdClient, EtcdSettings};
use crate::fleet::kube::{KubeClient, KubeSettings};
use crate::fleet::orders::{
    FleetOrder, OrderError, RotationStep, StoreSnapshot, StoreTransaction, join, rotate, set_state,
};
use crate::fleet::record::{FleetGateway, FleetState};
use crate::fleet::{adopt, make_key, unix_s};
use crate::output;
use crate::tls;
use anyhow::{Context, bail};
use clap::Subcommand;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use stoq::quic::fleet_settings::RotationSalt;
use stoq::tls::NodeId;

/// Of two commands at once, one decides anew: so often.
const ATTEMPTS_MAX: usize = 3;

/// `stoq-gateway fleet`.
#[derive(Subcommand)]
#[expect(missing_docs, reason = "a comment of a flattened field would become the command's text")]
pub enum FleetCommand {
    /// Make the key file of a fleet, and print the section of the configuration that names it.
    ///
    /// Copy the file to each gateway of the fleet, readable only by its user. It is never overwritten.
    Key {
        /// The file to make.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the salt of another rotation.
    Salt,
    /// Have the gateway of this configuration go by the directory that answers, though it is another one than before, or was restored
    /// from a backup. Compare its keys first.
    Adopt {
        /// The configuration file of the gateway.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put the gateway of this configuration into the fleet's directory, with its server ID, unless another gateway has that.
    ///
    /// A gateway that is there already is left as it is.
    Join {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The gateway's name for people, unlike that of every other one.
        #[arg(long)]
        name: String,
        /// An address where it listens, such as 192.0.2.11:4433; give it once for each.
        #[arg(long = "address", value_name = "IP:PORT", required = true)]
        addresses: Vec<SocketAddr>,
        /// Its place, such as ams/r12: gateways of one place may fail together.
        #[arg(long, default_value = "")]
        zone: String,
    },
    /// Show the fleet's gateways: their state, whether they are alive, and the revision of the rotations by which each goes.
    Status {
        #[command(flatten)]
        operator: OperatorArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Have a gateway take no new connections, and say that it is not ready; those that it has go on. `fleet active` undoes it.
    Drain {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The gateway, by its name or node ID; without it, the one of this configuration.
        name: Option<String>,
        /// Also if it is the last active one.
        #[arg(long)]
        force: bool,
    },
    /// Have a gateway take part again.
    Active {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The gateway, by its name or node ID.
        name: String,
    },
    /// Take a gateway out of the fleet; its row and its server ID stay. If it runs, it takes no new connections.
    Out {
        #[command(flatten)]
        operator: OperatorArgs,
        /// The gateway, by its name or node ID.
        name: String,
        /// Also if it is the last active one.
        #[arg(long)]
        force: bool,
    },
    /// Take the next of the three steps of a rotation of the fleet's keys: accept a new one, have it issue, remove the old one.
    ///
    /// A step is refused while a living gateway has not taken the step before. A directory without rotations gets the first.
    RotateCid {
        #[command(flatten)]
        operator: OperatorArgs,
        /// Pass over gateways that are not alive: connections of one that serves on would be lost.
        #[arg(long)]
        force: bool,
    },
    /// Check what the directory needs: the files, each endpoint of etcd or the API of Kubernetes, certificate and clock, rights, every
    /// row. Each fault has its fix.
    Check {
        #[command(flatten)]
        operator: OperatorArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Which directory, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct OperatorArgs {
    /// The configuration file of a gateway: its [fleet] names the directory.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// The user of etcd, instead of fleet.etcd.user.
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// The file with the user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// The file with a token of Kubernetes, instead of fleet.kubernetes.token_file.
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
}

impl FleetCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What was asked cannot be done, or standard output is closed or full.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Key { file } => make_key(file)?,
            Self::Adopt { config } => adopt(config)?,
            Self::Salt => output::result(RotationSalt::random(), "a salt")?,
            Self::Join { operator, name, addresses, zone } => {
                let (config, fleet) = operator.load()?;
                let offer = FleetGateway {
                    node_id: own(&config)?,
                    name: name.clone(),
                    server_id: fleet.server_id,
                    zone: zone.clone(),
                    weight: 1.0,
                    addresses: addresses.clone(),
                    state: FleetState::Active,
                };
                order(operator.client(&fleet)?, |snapshot| join(snapshot, &offer))?;
            }
            Self::Status { operator, json } => status::show(operator, *json)?,
            Self::Drain { operator, name, force } => {
                let (config, fleet) = operator.load()?;
                let name = name.clone().map_or_else(|| own(&config).map(|own| own.to_string()), Ok)?;
                state(operator, &fleet, &name, FleetState::Drain, *force)?;
            }
            Self::Active { operator, name } => {
                state(operator, &operator.load()?.1, name, FleetState::Active, false)?;
            }
            Self::Out { operator, name, force } => {
                state(operator, &operator.load()?.1, name, FleetState::Out, *force)?;
            }
            Self::RotateCid { operator, force } => {
                let (_, fleet) = operator.load()?;
                let step = RotationStep { now_s: unix_s(), salt: RotationSalt::random(), force: *force };
                order(operator.client(&fleet)?, |snapshot| rotate(snapshot, &step))?;
            }
            Self::Check { operator, json } => return inspect::check(operator, *json),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl OperatorArgs {
    /// The configuration and its fleet.
    fn load(&self) -> anyhow::Result<(GatewayConfig, FleetConfig)> {
        let config = load_gateway(&self.config)?;
        let Some(mut fleet) = config.fleet.clone() else {
            bail!(Usage("the configuration has no [fleet]; write it as docs/fleet.md shows".into()));
        };
        if let (Some(etcd), Some(user)) = (&mut fleet.etcd, &self.user) {
            (etcd.user, etcd.password_file) = (Some(user.clone()), self.password_file.clone());
        }
        Ok((config, fleet))
    }

    /// A client of the directory.
    fn client(&self, fleet: &FleetConfig) -> anyhow::Result<DirectoryClient> {
        match (fleet.provider, &fleet.etcd) {
            (Some(FleetProvider::Etcd), Some(etcd)) => {
                self.has_no("--token-file", self.token_file.is_some(), "etcd")?;
                let client = EtcdClient::new(EtcdSettings::read(fleet, etcd)?);
                Ok(DirectoryClient::Etcd(client.context("the client of etcd")?))
            }
            (Some(FleetProvider::Kubernetes), _) => {
                let client = KubeClient::new(self.kubernetes(fleet)?);
                Ok(DirectoryClient::Kubernetes(client.context("the client of Kubernetes")?))
            }
            _ => bail!(Usage(
                "this gateway has no directory in etcd or Kubernetes to change; edit the file of fleet.file on each gateway and reload, or set fleet.provider to one of them".into()
            )),
        }
    }

    /// How to reach Kubernetes, as the account of the command.
    fn kubernetes(&self, fleet: &FleetConfig) -> anyhow::Result<KubeSettings> {
        self.has_no("--user", self.user.is_some(), "Kubernetes")?;
        let settings = KubeSettings::read(fleet)?;
        Ok(match &self.token_file {
            Some(file) => settings.with_token(file)?,
            None => settings,
        })
    }

    fn has_no(&self, option: &str, is_given: bool, directory: &str) -> anyhow::Result<()> {
        if is_given {
            bail!(Usage(format!("{option} is not for a directory in {directory}; leave it out")));
        }
        Ok(())
    }
}

/// A client of the directory.
enum DirectoryClient {
    Etcd(EtcdClient),
    Kubernetes(KubeClient),
}

impl DirectoryClient {
    fn snapshot(&mut self) -> anyhow::Result<StoreSnapshot> {
        Ok(match self {
            Self::Etcd(client) => client.snapshot()?,
            Self::Kubernetes(client) => client.snapshot()?,
        })
    }

    fn commit(&mut self, transaction: &StoreTransaction) -> anyhow::Result<bool> {
        Ok(match self {
            Self::Etcd(client) => client.commit(transaction)?,
            Self::Kubernetes(client) => client.commit(transaction)?,
        })
    }
}

fn own(config: &GatewayConfig) -> anyhow::Result<NodeId> {
    Ok(tls::load(&config.identity)?.node_id())
}

fn state(
    operator: &OperatorArgs,
    fleet: &FleetConfig,
    name: &str,
    state: FleetState,
    force: bool,
) -> anyhow::Result<()> {
    order(operator.client(fleet)?, |snapshot| set_state(snapshot, name, state, force))
}

/// Has the directory take what is decided by it. What is changed meanwhile is decided anew: another operator's change is seen before it could be
/// overwritten.
fn order(
    mut client: DirectoryClient,
    decide: impl Fn(&StoreSnapshot) -> Result<FleetOrder, OrderError>,
) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS_MAX {
        match decide(&client.snapshot()?)? {
            FleetOrder::Done(told) => return Ok(output::result(told, "it is so already")?),
            FleetOrder::Send(transaction, told) if client.commit(&transaction)? => {
                return Ok(output::result(told, "the directory is changed")?);
            }
            FleetOrder::Send(..) => {}
        }
    }
    bail!(
        "the directory is changed by others all the time; look at `stoq-gateway fleet status` and run this again"
    )
}
