//! Reloads the configuration of a running gateway. The whole file is read and checked before any of it takes effect, so a bad file
//! changes nothing.
//!
//! A reload drops no connection. It compares every key with the configuration at the start; the log names changed keys that need a restart.

use crate::admin::{Access, Admin};
use crate::config::{GatewayConfig, load_gateway};
use crate::dates::{Dates, out_of_dates};
use crate::events::{Event, Reloaded};
use crate::fleet::view::FleetView;
use crate::fleet::{AttachedGateway, FleetPart};
use crate::reloads::Reloads;
use crate::tls::KeyLogger;
use crate::{logging, panics, renewable, rights};
use anyhow::{Context, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use stoq::hop::Hops;
use stoq::node::Node;
use stoq::seed::Store;
use stoq::tls::Identity;

/// Sections and keys that a reload changes; all others need a restart.
const LIVE: &[&str] = &[
    "identity",
    "trust",
    "tls",
    "quic",
    "gateway",
    "fleet.rotation",
    "rights",
    "hops.transit",
    "hops.budget_max_bytes",
    "hops.connections_max",
    "admin.certificate",
    "admin.key",
    "admin.token_file",
    "admin.hosts",
    "shutdown",
    "log.level",
    "log.lines_per_s",
    "qlog",
];

/// Keys of an application that a reload changes.
const LIVE_OF_APPLICATION: &[&str] = &[
    "capacity_bytes",
    "quota_bytes",
    "capacity_entries",
    "quota_entries",
    "lease_default_s",
    "lease_max_s",
    "scrub_days",
    "scrub_bytes_per_s",
];

/// The parts of a running gateway that a reload changes.
pub struct ReloadParts {
    /// The gateway's certificates and key.
    pub identity: Identity,
    /// Checks the dates of its certificates.
    pub dates: Dates,
    /// The forwarding rules.
    pub hops: Arc<Hops>,
    /// What the fleet's table changes.
    pub(crate) attached: Arc<AttachedGateway>,
    /// The seed store, if there is one.
    pub store: Option<Arc<Store>>,
    /// The admin endpoint, if there is one.
    pub admin: Option<Admin>,
    /// The gateway's part in a fleet, if it is in one: the key and the server ID of its start, and the table and rotations of the last
    /// good reload.
    pub(crate) fleet: Option<FleetPart>,
    /// Shows the fleet's table.
    pub fleet_view: Arc<FleetView>,
    /// Receives TLS secrets, where captures may contain them.
    pub key_log: KeyLogger,
    /// Counts the reloads.
    pub reloads: Arc<Reloads>,
}

/// The configuration of a running gateway, and the parts that a reload changes.
pub struct Live {
    /// The configuration at the start: it holds for keys that need a restart.
    started: GatewayConfig,
    /// The configuration of the last good reload: it holds for all other keys.
    running: GatewayConfig,
    /// The hash of everything that it was made of but the fleet's table.
    inputs: blake3::Hash,
    parts: ReloadParts,
}

impl Live {
    /// A gateway that was started with `config`; `inputs` are those of [`inputs`] before its files were read.
    pub fn new(config: &GatewayConfig, inputs: blake3::Hash, parts: ReloadParts) -> Self {
        Self { started: config.clone(), running: config.clone(), inputs, parts }
    }

    /// The admin endpoint, if there is one.
    pub fn admin(&self) -> Option<&Admin> {
        self.parts.admin.as_ref()
    }

    /// The configuration of the last good reload. Keys that need a restart may differ from those in effect.
    pub fn config(&self) -> &GatewayConfig {
        &self.running
    }

    /// Reads `file` and applies all of it or none of it. Logs and counts the outcome, and returns it as an event.
    pub fn reload(&mut self, node: &Node, file: &Path) -> Event {
        match self.take(node, file) {
            Ok(changed) => {
                self.parts.reloads.count(true);
                let mut needs_restart = changed_keys(&self.started, &self.running);
                needs_restart.retain(|key| !is_live(key));
                for key in &needs_restart {
                    tracing::warn!("{key} needs a restart; its old value stays in effect");
                }
                let until =
                    self.parts.identity.summary().map(|summary| summary.not_after).unwrap_or_default();
                let node_id = self.parts.identity.node_id();
                tracing::info!(changed = changed.join(" "), %node_id, certificate_until = until, "configuration reloaded");
                Event::Reloaded(Reloaded { changed, needs_restart, node_id })
            }
            Err(error) => {
                self.parts.reloads.count(false);
                let error = format!("{error:#}");
                tracing::error!(error, "configuration not reloaded; the old one stays in effect");
                Event::ReloadRefused { error }
            }
        }
    }

    fn take(&mut self, node: &Node, file: &Path) -> anyhow::Result<Vec<String>> {
        // First everything that can fail.
        let config = load_gateway(file)?;
        let inputs = inputs(&config);
        let level = logging::level(&config.log)?;
        let fleet = self.parts.fleet.as_ref();
        let fleet = fleet.map(|fleet| fleet.renewed(config.fleet.as_ref())).transpose()?;
        if inputs == self.inputs
            && let Some(fleet) = &fleet
            && fleet.table.is_some()
        {
            return self.take_table(node, fleet.clone());
        }
        let (keys, key_log) = (FleetPart::keys(fleet.as_ref()), self.parts.key_log.clone());
        let (renewed, identity) = renewable::node(&config, keys, key_log)?;
        fleet.as_ref().map_or(Ok(()), |fleet| fleet.check_own(identity.node_id()))?;
        check_dates(&self.parts.identity, &identity)?;
        let facts = renewable::facts(&config, &identity)?;
        // The listen address decides which guards are required, and needs a restart: guards of another address do not take effect.
        let listen = self.started.admin.as_ref().map(|admin| admin.listen);
        let access = config.admin.as_ref().filter(|admin| Some(admin.listen) == listen);
        let access = access.map(Access::read).transpose()?;
        let seed = config.seed();
        if self.started.keeps_passing() && seed.is_some_and(|seed| seed.capacity_bytes.is_none()) {
            bail!("the running cache needs a capacity_bytes; set one, or set hops.cache = false and restart");
        }
        // From here on nothing can fail.
        self.parts.hops.renew(renewable::policy(&config, identity.node_id()));
        if let (Some(store), Some(seed)) = (&self.parts.store, seed) {
            store.configure(renewable::kept(&config, seed));
        }
        node.renew(&renewed);
        self.parts.attached.peers().configure(renewed.peer_gateways, config.dials_members());
        self.parts.attached.set_own(identity.node_id());
        FleetPart::attach(fleet.as_ref(), &self.parts.attached);
        self.parts.dates.set(facts.chain());
        if let Some(admin) = &self.parts.admin {
            admin.set_facts(facts);
            if let Some(access) = access {
                admin.set_access(access);
            }
        }
        logging::renew(level, &config.log);
        panics::set_rule(config.shutdown.on_panic);
        let mut changed = changed_keys(&self.running, &config);
        changed.retain(|key| is_live(key));
        if changed.iter().any(|key| key == "rights") {
            rights::log(&config);
        }
        if self.parts.identity.chain() != identity.chain() {
            changed.push("certificate".into());
        }
        (self.running, self.inputs, self.parts.identity) = (config, inputs, identity);
        changed.extend(fleet.and_then(|fleet| self.show_table(fleet)));
        Ok(changed)
    }

    /// Takes a file's table where nothing else has changed: TLS, its sessions and all other settings stay as they are.
    fn take_table(&mut self, node: &Node, fleet: FleetPart) -> anyhow::Result<Vec<String>> {
        fleet.check_own(self.parts.identity.node_id())?;
        node.shared().renew_keys(&fleet.settings);
        FleetPart::attach(Some(&fleet), &self.parts.attached);
        Ok(self.show_table(fleet).into_iter().collect())
    }

    /// Shows the table that is in effect, and returns its name if it is another one than before.
    fn show_table(&mut self, fleet: FleetPart) -> Option<String> {
        let before = self.parts.fleet.as_ref().and_then(|fleet| fleet.table.as_ref());
        let table = fleet.table.clone();
        let is_new = table
            .as_ref()
            .is_some_and(|table| before.is_none_or(|before| before.roster.revision != table.roster.revision));
        if is_new {
            fleet.log(self.parts.identity.node_id());
        }
        if table.is_some() {
            self.parts.fleet_view.show(table);
        }
        self.parts.fleet = Some(fleet);
        is_new.then(|| "fleet.table".into())
    }
}

/// The hash of everything of which a gateway of `config` is made but its fleet's table.
pub fn inputs(config: &GatewayConfig) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.fingerprint.as_bytes());
    let table = config.fleet.as_ref().and_then(|fleet| fleet.file.as_ref());
    for file in files(Path::new(""), config).iter().skip(1).filter(|file| Some(*file) != table) {
        // A file that cannot be read is like no other one: what needs it says so.
        let contents = std::fs::read(file).map(|contents| blake3::hash(&contents));
        hasher.update(&contents.map_or([0; 32], Into::into));
    }
    hasher.finalize()
}

/// The files that a configuration consists of.
pub fn files(file: &Path, config: &GatewayConfig) -> Vec<PathBuf> {
    let identity = [&config.identity.certificate, &config.identity.key];
    let admin =
        config.admin.iter().flat_map(|admin| [&admin.certificate, &admin.key, &admin.token_file]).flatten();
    let fleet = config.fleet.iter().filter_map(|fleet| fleet.file.as_ref());
    let authorities = config.rights.iter().flat_map(|rights| &rights.authorities);
    let named = identity.into_iter().chain(&config.trust.ca).chain(authorities).chain(admin).chain(fleet);
    [file.to_owned()].into_iter().chain(named.cloned()).collect()
}

/// Refuses a new chain outside its dates, since no peer would accept it. An unchanged chain passes even after its end, so that other keys
/// can still change.
fn check_dates(running: &Identity, new: &Identity) -> anyhow::Result<()> {
    let chain = new.summaries().context("a certificate cannot be read")?;
    match out_of_dates(&chain, SystemTime::now()).filter(|_| running.chain() != new.chain()) {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

/// The keys in which two configurations differ, as paths: `network.mtu`, `application.0.quota_bytes`.
fn changed_keys(old: &GatewayConfig, new: &GatewayConfig) -> Vec<String> {
    let value = |config: &GatewayConfig| {
        let mut value = serde_json::to_value(config).unwrap_or_default();
        // The value in effect: without the key, the store's capacity decides.
        value["hops"]["cache"] = config.keeps_passing().into();
        value
    };
    let mut changed = Vec::new();
    compare("", &value(old), &value(new), &mut changed);
    changed.sort_unstable();
    changed
}

fn compare(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    let below = |key: &dyn std::fmt::Display| match path {
        "" => key.to_string(),
        path => format!("{path}.{key}"),
    };
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if old.get("kind") == new.get("kind") => {
            for (key, value) in new {
                compare(&below(key), old.get(key).unwrap_or(&Value::Null), value, changed);
            }
        }
        (Value::Object(_), Value::Object(_)) => changed.push(below(&"kind")),
        (Value::Array(old), Value::Array(new)) if path == "application" && old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&below(&index), old, new, changed);
            }
        }
        _ if old != new => changed.push(path.to_owned()),
        _ => {}
    }
}

fn is_live(key: &str) -> bool {
    let under =
        |live: &&str| key.strip_prefix(*live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let of_application = || key.rsplit_once('.').is_some_and(|(_, last)| LIVE_OF_APPLICATION.contains(&last));
    LIVE.iter().any(under) || (key.starts_with("application.") && of_application())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const FILE: &str = r#"
[network]
kind = "kernel-udp"
listen = ["127.0.0.1:4433"]
[identity]
certificate = "gateway.pem"
key = "gateway.key"
[trust]
client_auth = "off"
[[application]]
kind = "seed"
queues = [0]
directory = "store"
"#;

    const FLEET: &str = "[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"000001\"\n[[fleet.rotation]]\nnumber = 0\n\
        salt = \"000102030405060708090a0b0c0d0e0f\"\nstate = \"issue\"\n";

    #[test]
    fn rotations_of_a_fleet_change_while_the_gateway_runs_and_its_key_and_number_need_a_restart() {
        let fleet = |change: &dyn Fn(&str) -> String| add(&change(FLEET));
        let as_it_is = || fleet(&str::to_owned);
        let another = FLEET[FLEET.find("[[").unwrap()..].replace("number = 0", "number = 1");
        let another = another.replace("0102", "0103").replace("issue", "accept");
        let cases = [
            (fleet(&|text| format!("{text}{another}")), "fleet.rotation", true),
            (fleet(&|text| text.replace("fleet.key", "other.key")), "fleet.key_file", false),
            (fleet(&|text| text.replace("000001", "000002")), "fleet.server_id", false),
            (config(|_| ()), "fleet", false),
        ];
        for (new, key, live) in cases {
            assert_eq!(changed_keys(&as_it_is(), &new), [key]);
            assert_eq!(is_live(key), live, "{key}");
        }
    }

    fn config(change: impl FnOnce(&mut String)) -> GatewayConfig {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut text = FILE.to_owned();
        change(&mut text);
        std::fs::write(file.path(), text).unwrap();
        load_gateway(file.path()).unwrap()
    }

    fn add(text: &str) -> GatewayConfig {
        config(|file| file.push_str(text))
    }

    #[test]
    fn a_default_that_is_written_out_is_no_change() {
        assert_eq!(
            changed_keys(&config(|_| ()), &add("[quic]\nidle_timeout_ms = 30000\n[workers]\ncount = 1\n")),
            [""; 0]
        );
    }

    #[test]
    fn each_changed_key_is_named_and_is_live_or_needs_a_restart() {
        let cases = [
            ("[workers]\ncount = 2\n", "workers.count", false),
            ("memory_bytes = 4194304\n", "application.0.memory_bytes", false),
            ("quota_bytes = 1048576\n", "application.0.quota_bytes", true),
            ("quota_entries = 100\n", "application.0.quota_entries", true),
            ("lease_max_s = 3600\n", "application.0.lease_max_s", true),
            ("scrub_days = 7\n", "application.0.scrub_days", true),
            ("[[application]]\nkind = \"echo\"\nqueues = [1]\n", "application", false),
            ("[log]\nlevel = \"debug\"\n", "log.level", true),
            ("[log]\nformat = \"json\"\n", "log.format", false),
            ("[hops]\ntransit = \"nobody\"\n", "hops.transit", true),
            ("[[rights]]\nname = \"x\"\npeers = \"anyone\"\nallow = []\n", "rights", true),
            ("[tls]\nearly_data = false\n", "tls.early_data", true),
            ("[quic]\nkeep_alive_ms = 1000\n", "quic.keep_alive_ms", true),
            ("[qlog]\nsample = 5\n", "qlog.sample", true),
            ("[reload]\nwatch = false\n", "reload.watch", false),
        ];
        for (text, key, live) in cases {
            assert_eq!(changed_keys(&config(|_| ()), &add(text)), [key]);
            assert_eq!(is_live(key), live, "{key}");
        }
        let other = config(|file| *file = file.replace("4433", "4434"));
        assert_eq!(changed_keys(&config(|_| ()), &other), ["network.listen"]);
        // A capacity also turns the cache on, unless `hops.cache` is set.
        let bounded = changed_keys(&config(|_| ()), &add("capacity_bytes = 1073741824\n"));
        assert_eq!(bounded, ["application.0.capacity_bytes", "hops.cache"]);
    }

    #[test]
    fn a_changed_kind_counts_as_one_change() {
        let dpdk = config(|file| {
            *file = file.replace("kernel-udp", "dpdk").replace(
                "listen = [\"127.0.0.1:4433\"]",
                "device = \"net_null0\"\naddresses = [\"10.0.0.1/24\"]",
            );
        });
        assert_eq!(changed_keys(&config(|_| ()), &dpdk), ["network.kind"]);
        let peer_gateway = |letter: &str| {
            let mut text = String::new();
            write!(text, "[[gateway]]\nnode_id = \"{}\"\naddresses = [\"10.0.0.1:1\"]\n", letter.repeat(52))
                .unwrap();
            text
        };
        assert_eq!(
            changed_keys(
                &config(|_| ()),
                &config(|file| {
                    *file = file.replace(
                        "client_auth = \"off\"",
                        &format!("client_auth = \"off\"\nnode_ids = [\"{}\"]", "a".repeat(52)),
                    );
                    file.push_str(&peer_gateway("a"));
                })
            ),
            ["gateway", "trust.node_ids"]
        );
    }

    #[test]
    fn every_live_key_exists() {
        let value = serde_json::to_value(add(&format!("[admin]\n{FLEET}"))).unwrap();
        for live in LIVE {
            let place = live.split('.').try_fold(&value, |value, key| value.get(key));
            assert!(place.is_some(), "{live}");
        }
        for live in LIVE_OF_APPLICATION {
            assert!(value["application"][0].get(live).is_some(), "{live}");
        }
    }
}
