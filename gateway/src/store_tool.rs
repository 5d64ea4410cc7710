//! `stoq-gateway store list | stat | remove | usage | export`: what a gateway's store keeps, while the gateway runs or not.

use crate::admin::client::Remote;
use crate::admin::store::{self, StoreQuery};
use crate::config::{GatewayConfig, SeedConfig, load_gateway};
use crate::leases::{self, HolderName, ListFilter, ListPrinter};
use crate::output;
use crate::renewable;
use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use stoq::peer_text::PeerText;
use stoq::record::{LeaseScope, List};
use stoq::seed::Store;
use stoq::token::AnyToken;

/// The gateway whose store is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreOptions {
    /// The gateway's configuration file. While the gateway runs, its admin endpoint is asked; otherwise the store is opened.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The admin endpoint of the running gateway, if it is not reached at `[admin] listen`.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The authority's certificates, for an endpoint with TLS.
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Print JSON: one object, or one a line for a list.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `stoq-gateway store list` and `export`.
#[derive(Debug, clap::Args)]
pub struct StoreListArgs {
    #[command(flatten)]
    filter: ListFilter,
    #[command(flatten)]
    options: StoreOptions,
}

/// `stoq-gateway store stat`.
#[derive(Debug, clap::Args)]
pub struct StoreStatArgs {
    /// The payload or set: b3: or set: and 64 hex digits.
    token: AnyToken,
    #[command(flatten)]
    options: StoreOptions,
}

/// `stoq-gateway store remove`.
#[derive(Debug, clap::Args)]
pub struct StoreRemoveArgs {
    /// The payloads and sets: b3: or set: and 64 hex digits.
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<AnyToken>,
    /// End only this owner's lease: a node ID, "anonymous" or "cache". Without it the leases of all owners end.
    #[arg(long, value_name = "NODE")]
    owner: Option<HolderName>,
    #[command(flatten)]
    options: StoreOptions,
}

/// `stoq-gateway store usage`.
#[derive(Debug, clap::Args)]
pub struct StoreUsageArgs {
    /// Also show what is kept for each: owner.
    #[arg(long, value_name = "WHAT")]
    by: Option<UsageBy>,
    #[command(flatten)]
    options: StoreOptions,
}

/// By what a usage is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UsageBy {
    /// By the owners of leases.
    Owner,
}

/// The way to a store.
enum StoreAccess {
    /// By the gateway that runs on it.
    Running(Remote),
    /// No gateway runs on it.
    Stopped(Box<Store>),
}

/// The seed application of a gateway's configuration.
///
/// # Errors
/// There is none.
pub fn seed(config: &GatewayConfig) -> anyhow::Result<&SeedConfig> {
    config.seed().context(
        "this gateway has no store: its configuration has no seed application; give the file of one that has",
    )
}

impl StoreOptions {
    fn open(&self) -> anyhow::Result<StoreAccess> {
        let config = load_gateway(&self.config)?;
        let seed = seed(&config)?;
        let directory = &seed.directory;
        if self.url.is_some() || Store::is_in_use(directory)?.is_some() {
            return Ok(StoreAccess::Running(self.remote(&config)?));
        }
        is_made(directory)?;
        Ok(StoreAccess::Stopped(Box::new(Store::open(directory, renewable::kept(&config, seed))?)))
    }

    pub(crate) fn remote(&self, config: &GatewayConfig) -> anyhow::Result<Remote> {
        let url = match (&self.url, &config.admin) {
            (Some(url), _) => url.clone(),
            (None, Some(admin)) => {
                let mut listen = admin.listen;
                if listen.ip().is_unspecified() {
                    let is_v4 = listen.is_ipv4();
                    listen.set_ip(if is_v4 {
                        IpAddr::from(Ipv4Addr::LOCALHOST)
                    } else {
                        Ipv6Addr::LOCALHOST.into()
                    });
                }
                let scheme = if admin.certificate.is_some() { "https" } else { "http" };
                format!("{scheme}://{listen}")
            }
            (None, None) => bail!(
                "the gateway runs, and has no [admin] section by which it could be asked: add one and restart it, or stop the gateway"
            ),
        };
        let token = config.admin.as_ref().and_then(|admin| admin.token_file.as_deref());
        Remote::new(&url, self.ca.as_deref(), token)
    }
}

/// Refuses a directory in which no gateway of this version has made a store: opening it would make or change one.
pub(crate) fn is_made(directory: &Path) -> anyhow::Result<()> {
    let shown = directory.display();
    if directory.join("store.redb").exists() {
        return Ok(());
    }
    if directory.join("data").is_dir() {
        bail!("{shown}: the store is of a version without a database; start the gateway, which takes it over")
    }
    bail!("{shown}: there is no store; has this gateway ever run, and is this its configuration?")
}

impl StoreAccess {
    fn ask(
        &self,
        what: &str,
        query: &str,
        of_store: impl Fn(&Store, &StoreQuery) -> Result<Value, store::StoreQueryError>,
    ) -> anyhow::Result<Value> {
        match self {
            Self::Stopped(store) => Ok(of_store(store, &StoreQuery::parse(query))?),
            Self::Running(remote) => {
                let path = format!("/store/{what}?{query}");
                let (code, body) = if what == "remove" { remote.post(&path)? } else { remote.get(&path)? };
                read(code, &body)
            }
        }
    }
}

/// The JSON of an answer.
fn read(code: u16, body: &str) -> anyhow::Result<Value> {
    let told = || PeerText::from(body.trim());
    match code {
        200 => serde_json::from_str(body).context("the admin endpoint's answer is no JSON"),
        404 if body.trim().is_empty() => {
            Err(anyhow!("the gateway is of a version without lists; upgrade it"))
        }
        401 => Err(anyhow!(
            "the admin endpoint wants a token: give [admin] of this file the gateway's token_file"
        )),
        _ => Err(anyhow!("the admin endpoint gives status {code}: {}", told())),
    }
}

/// A page of a list, and the token behind which the next one begins.
fn page(access: &StoreAccess, list: &List) -> anyhow::Result<(Vec<Value>, Option<AnyToken>)> {
    let mut page = access.ask("list", &store::query_of(list), store::list)?;
    let Value::Array(entries) = page["entries"].take() else {
        bail!("the admin endpoint's answer has no entries")
    };
    let next = page["next"].as_str().map(str::parse).transpose()?;
    Ok((entries, next))
}

impl StoreListArgs {
    /// Prints the entries.
    ///
    /// # Errors
    /// The store cannot be opened, or the gateway does not answer.
    pub fn list(&self) -> anyhow::Result<()> {
        let access = self.options.open()?;
        let mut printer = ListPrinter::new(&self.filter, self.options.json);
        let mut list = self.filter.list(LeaseScope::All);
        loop {
            list.entries_max = printer.entries_max();
            let (entries, next) = page(&access, &list)?;
            let goes_on = printer.page(&entries)?;
            match next {
                Some(next) if goes_on => list.after = Some(next),
                next => return Ok(printer.end(next.map(|next| next.to_string()).as_deref())?),
            }
        }
    }

    /// Prints the payloads that are held whole as a manifest, which `stoq get --manifest` and `b3sum --check` read. Each file is called as its hash.
    ///
    /// # Errors
    /// Those of [`StoreListArgs::list`].
    pub fn export(&self) -> anyhow::Result<()> {
        let access = self.options.open()?;
        let mut list = self.filter.list(LeaseScope::All);
        let mut left = self.filter.limit.unwrap_or(u64::MAX);
        loop {
            let (entries, next) = page(&access, &list)?;
            for entry in &entries {
                // A set is no file: its payload has an entry of its own, once it is held whole.
                if let Some(hash) = leases::text(entry, "token").strip_prefix("b3:")
                    && left > 0
                {
                    output::line(format_args!("{hash}  {hash}"))?;
                    left -= 1;
                }
            }
            match next {
                Some(next) if left > 0 => list.after = Some(next),
                _ => return Ok(()),
            }
        }
    }
}

impl StoreStatArgs {
    /// Prints what is kept of the token, and the leases of all owners.
    ///
    /// # Errors
    /// Those of [`StoreListArgs::list`]; nothing is kept of it.
    pub fn run(&self) -> anyhow::Result<()> {
        let access = self.options.open()?;
        let entry = access.ask("stat", &format!("token={}", self.token), store::stat)?;
        if entry.is_null() {
            bail!("{}: the store does not keep it", self.token);
        }
        if self.options.json {
            output::line(entry)?;
        } else {
            output::line(leases::lines(&entry))?;
        }
        Ok(())
    }
}

impl StoreRemoveArgs {
    /// Removes the tokens.
    ///
    /// # Errors
    /// Those of [`StoreListArgs::list`]; one of them is not kept; the admin endpoint has no token.
    pub fn run(&self) -> anyhow::Result<()> {
        let access = self.options.open()?;
        let owner = self.owner.map_or(String::new(), |owner| format!("&owner={owner}"));
        for token in &self.tokens {
            let query = format!("token={token}{owner}");
            let removed = access
                .ask("remove", &query, |store, query| store::remove(store, query).map(|(value, _)| value))?;
            if removed["found"] != json!(true) {
                let whose = if self.owner.is_some() { " for this owner" } else { "" };
                bail!("{token}: nothing of it is kept{whose}");
            }
            if self.options.json {
                output::line(removed)?;
            } else {
                let kept = removed["kept"] == json!(true);
                output::line(format_args!("{token}  {}", if kept { "others keep it" } else { "removed" }))?;
            }
        }
        Ok(())
    }
}

impl StoreUsageArgs {
    /// Prints the sums over all entries, and with `--by owner` what is kept for each owner.
    ///
    /// # Errors
    /// Those of [`StoreListArgs::list`].
    pub fn run(&self) -> anyhow::Result<()> {
        let access = self.options.open()?;
        let mut usage = access.ask("usage", "", store::usage)?;
        let mut owners = Vec::new();
        while self.by.is_some() {
            if let Value::Array(page) = usage["owners"].take() {
                owners.extend(page);
            }
            let Some(next) = usage["next"].as_str() else { break };
            usage = access.ask("usage", &format!("after={next}"), store::usage)?;
        }
        let sums = &usage["sums"];
        if self.options.json {
            let owners = self.by.map(|_| owners);
            output::line(json!({ "operation": "usage", "sums": sums, "owners": owners }))?;
            return Ok(());
        }
        output::line(format_args!(
            "{} payloads and sets take {} bytes; {} of them are cached and take {}; {} leases end",
            sums["entries"], sums["usage_bytes"], sums["cached"], sums["cached_bytes"], sums["leases"]
        ))?;
        if self.by.is_some() {
            output::line(format_args!("{:>15}  {:>12}  OWNER", "STORED", "ENTRIES"))?;
        }
        for kept in &owners {
            // A JSON value takes no width itself.
            let (stored, entries) = (kept["stored"].to_string(), kept["entries"].to_string());
            let owner = leases::owner(kept);
            output::line(format_args!("{stored:>15}  {entries:>12}  {owner}"))?;
        }
        Ok(())
    }
}
