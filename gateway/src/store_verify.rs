//! `stoq-gateway store verify`: reads a stopped store, or has a running gateway read its own.

use crate::admin::client::Remote;
use crate::config::{GatewayConfig, load_gateway};
use crate::output;
use crate::renewable::kept;
use crate::store_tool::{StoreOptions, is_made, seed};
use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use stoq::peer_text::PeerText;
use stoq::seed::{ScrubTally, Store};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(2);

/// The options of `stoq-gateway store verify`.
#[derive(Debug, clap::Args)]
pub struct StoreVerifyArgs {
    #[command(flatten)]
    options: StoreOptions,
    /// Have a gateway that runs on this store read it now, by its admin endpoint.
    #[arg(long)]
    now: bool,
}

/// A line for programs.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum VerifyEvent<'a> {
    Verifying {
        #[serde(flatten)]
        tally: ScrubTally,
        /// The part of the store that was read, 0 to 1.
        done: f64,
    },
    Verified {
        #[serde(flatten)]
        tally: ScrubTally,
        damage: &'a [FoundDamage],
    },
}

/// One damaged payload, set or file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FoundDamage {
    name: String,
    reason: String,
    outcome: String,
}

/// The part of `/status` that tells of a scrub.
#[derive(Deserialize)]
struct Told {
    store: Option<ToldStore>,
}

#[derive(Deserialize)]
struct ToldStore {
    scrub: ToldScrub,
    damage: ToldDamage,
}

#[derive(Deserialize)]
struct ToldScrub {
    done: f64,
    passes: u64,
    tally: ScrubTally,
    last: Option<ToldPass>,
}

#[derive(Deserialize)]
struct ToldPass {
    #[serde(flatten)]
    tally: ScrubTally,
}

#[derive(Deserialize)]
struct ToldDamage {
    latest: Vec<FoundDamage>,
}

impl StoreVerifyArgs {
    /// Has the store read, and prints what was found.
    ///
    /// # Errors
    /// There is no store, a gateway runs on it and was not to be asked, or it does not answer.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let config = load_gateway(&self.options.config)?;
        let directory = &seed(&config)?.directory;
        let running = self.options.url.is_some() || Store::is_in_use(directory)?.is_some();
        if running && !self.now {
            bail!(
                "a gateway runs on the store in {}: give --now to have it read its store, or stop it first",
                directory.display()
            );
        }
        let (tally, damage) = if running { self.ask(&config)? } else { self.read(&config)? };
        self.end(tally, &damage)
    }

    /// Reads a store on which no gateway runs.
    fn read(&self, config: &GatewayConfig) -> anyhow::Result<(ScrubTally, Vec<FoundDamage>)> {
        let seed = seed(config)?;
        is_made(&seed.directory)?;
        let store = Store::open(&seed.directory, kept(config, seed))?;
        let (mut next, mut failed) = (Instant::now() + PROGRESS, None);
        let progress = store.verify(|progress| {
            if Instant::now() >= next {
                next = Instant::now() + PROGRESS;
                let done = progress.tally.checked as f64 / progress.entries.max(1) as f64;
                failed = self.tell(progress.tally, done).err();
            }
            failed.is_none()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let damage = serde_json::from_value(serde_json::to_value(&store.damage().latest)?)?;
        Ok((progress.tally, damage))
    }

    /// Has the running gateway read its store, and waits for the end.
    fn ask(&self, config: &GatewayConfig) -> anyhow::Result<(ScrubTally, Vec<FoundDamage>)> {
        let remote = self.options.remote(config)?;
        let earlier = status(&remote)?;
        let known = earlier.damage.latest;
        let (code, body) = remote.post("/store/scrub")?;
        ensure!(
            code == 200,
            "the gateway does not read its store: status {code}: {}; is it of this version?",
            PeerText::from(&*body)
        );
        let mut next = Instant::now() + PROGRESS;
        loop {
            std::thread::park_timeout(Duration::from_millis(500));
            let now = status(&remote)?;
            if now.scrub.passes > earlier.scrub.passes
                && let Some(last) = now.scrub.last
            {
                let new = now.damage.latest.into_iter().filter(|found| !known.contains(found));
                return Ok((last.tally, new.collect()));
            }
            if Instant::now() >= next {
                next = Instant::now() + PROGRESS;
                self.tell(now.scrub.tally, now.scrub.done)?;
            }
        }
    }

    fn tell(&self, tally: ScrubTally, done: f64) -> anyhow::Result<()> {
        if self.options.json {
            return Ok(output::line(serde_json::to_string(&VerifyEvent::Verifying { tally, done })?)?);
        }
        output::note(format_args!("{:.0} %: {}", done * 100.0, text(tally)));
        Ok(())
    }

    fn end(&self, tally: ScrubTally, damage: &[FoundDamage]) -> anyhow::Result<ExitCode> {
        if self.options.json {
            output::line(serde_json::to_string(&VerifyEvent::Verified { tally, damage })?)?;
        } else {
            for FoundDamage { name, reason, outcome } in damage {
                let (name, reason) = (PeerText::from(&**name), PeerText::from(&**reason));
                output::line(format_args!("{}: {name}: {reason}", outcome.replace('_', " ")))?;
            }
            output::line(text(tally))?;
        }
        let ScrubTally { checked, damaged, unreadable, .. } = tally;
        ensure!(
            damaged == 0 && unreadable == 0,
            "of {checked} payloads and sets {damaged} are damaged and {unreadable} unreadable: put what is lost again, or have it mirrored here; what cannot be \
             read is named in the log"
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn text(tally: ScrubTally) -> String {
    let ScrubTally { checked, bytes, damaged, unreadable } = tally;
    format!("{checked} payloads and sets checked, {bytes} bytes, {damaged} damaged, {unreadable} unreadable")
}

fn status(remote: &Remote) -> anyhow::Result<ToldStore> {
    let (code, body) = remote.get("/status")?;
    ensure!(
        code == 200,
        "the admin endpoint refuses /status with {code}: {}; is its token the configured one?",
        PeerText::from(&*body)
    );
    let told: Told = serde_json::from_str(&body)
        .context("/status is not as this version knows it: give the gateway and this command one version")?;
    let store = told
        .store
        .ok_or_else(|| anyhow!("this gateway has no store: give the configuration of one that has"))?;
    Ok(store)
}
