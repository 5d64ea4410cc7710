//! Log lines on standard error, as text or JSON. Lines of one place in the code past `lines_per_s` a second
//! are left out and counted: peers can trigger lines, and must not fill a disk with them. A thread of its own
//! writes them: if their reader is stuck, lines are lost and no other thread waits.
//!
//! To systemd's journal, a line begins with its priority (sd-daemon(3)), and has no time: the journal has its own.

mod writer;

use crate::config::{LogConfig, LogFormat};
use crate::faults::{Usage, started};
use anyhow::Context as _;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use stoq::limits::LOG_FLUSH_MS_MAX;
use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};
use writer::Queue;

/// The environment variable that overrides the configured level.
const LEVEL_VARIABLE: &str = "STOQ_LOG";

/// The handles that change this process' logging while it runs.
static RUNNING: OnceLock<LoggingHandles> = OnceLock::new();

struct LoggingHandles {
    level: reload::Handle<EnvFilter, Registry>,
    limit: Arc<Limit>,
    queue: Queue,
}

/// A parsed level, ready to be put into effect.
pub struct Level(EnvFilter);

/// Reads the level of a configuration.
///
/// # Errors
///
/// The text is no level.
pub fn level(config: &LogConfig) -> anyhow::Result<Level> {
    let of_environment = std::env::var(LEVEL_VARIABLE).ok();
    let origin = if of_environment.is_some() { LEVEL_VARIABLE } else { "log.level" };
    let level = of_environment.unwrap_or_else(|| config.level.clone());
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Usage(format!(
            "{origin}: `{level}` is no log level ({error}); use error, warn, info, debug or trace, or module=level"
        ))
    })?;
    Ok(Level(filter))
}

/// Starts logging for the process.
///
/// # Errors
/// The level is none, or no thread can be started.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(level(config)?.0);
    let limit = Arc::new(Limit::new(config.lines_per_s));
    let stderr = std::io::stderr();
    let out = stderr.as_fd().try_clone_to_owned().context("log: standard error cannot be used")?;
    let queue = started("writes the log", Queue::start(File::from(out)))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(stderr.is_terminal())
        .with_writer(queue.clone())
        // Otherwise it panics, and a thread of the gateway with it, when standard error is closed.
        .log_internal_errors(false);
    let journal = to_journal();
    let format = tracing_subscriber::fmt::format();
    let counted = Counted { limit: limit.clone(), json: false, journal, inner: () };
    let lines = match config.format {
        LogFormat::Text if journal => lines.event_format(counted.of(format.without_time())).boxed(),
        LogFormat::Text => lines.event_format(counted.of(format)).boxed(),
        LogFormat::Json => {
            lines.json().map_event_format(|inner| Counted { json: true, ..counted }.of(inner)).boxed()
        }
    };
    let registry = tracing_subscriber::registry().with(filter).with(Limited(limit.clone())).with(lines);
    // A second start in one process (tests) keeps the first.
    if registry.try_init().is_ok() {
        let _ = RUNNING.set(LoggingHandles { level: handle, limit, queue });
    }
    Ok(())
}

/// Replaces the level and the bound.
pub fn renew(level: Level, config: &LogConfig) {
    if let Some(running) = RUNNING.get() {
        running.limit.lines_per_s.store(config.lines_per_s, Ordering::Relaxed);
        if let Err(error) = running.level.reload(level.0) {
            tracing::error!(%error, "the log level cannot be changed");
        }
    }
}

/// Waits until standard error has taken every log line, for at most [`LOG_FLUSH_MS_MAX`]. Call it before the
/// process ends.
pub fn flush() {
    if let Some(running) = RUNNING.get() {
        running.queue.flush(Duration::from_millis(LOG_FLUSH_MS_MAX));
    }
}

/// Lines lost since the start, including those of DPDK's own log, because standard error did not take them.
pub fn lines_lost() -> u64 {
    let own = RUNNING.get().map_or(0, |running| running.queue.lost());
    #[cfg(feature = "dpdk")]
    let own = own + dpdk::log_writes_lost();
    own
}

/// Lines left out since the start.
pub fn lines_left_out() -> u64 {
    RUNNING.get().map_or(0, |running| running.limit.left_out.load(Ordering::Relaxed))
}

/// What begins a line about the process's end on standard error: its priority where that is the journal, otherwise nothing.
pub fn error_prefix() -> &'static str {
    if to_journal() { priority(tracing::Level::ERROR) } else { "" }
}

/// Whether standard error is systemd's journal.
fn to_journal() -> bool {
    is_journal(std::io::stderr(), std::env::var("JOURNAL_STREAM").ok().as_deref())
}

/// Whether this is the stream to systemd's journal that `JOURNAL_STREAM` names: the numbers of its device and of its inode.
fn is_journal(stream: impl AsFd, named: Option<&str>) -> bool {
    let Ok(stat) = rustix::fs::fstat(stream) else { return false };
    named.is_some_and(|named| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// What begins a line to the journal (sd-daemon(3)).
fn priority(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "<3>",
        tracing::Level::WARN => "<4>",
        tracing::Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// The bound on each place's lines.
struct Limit {
    /// Lines a second; 0: no bound.
    lines_per_s: AtomicU32,
    sites: Mutex<HashMap<Identifier, Site>>,
    /// Lines left out, all places together.
    left_out: AtomicU64,
}

/// A place in the code that logs.
struct Site {
    second: Instant,
    lines: u32,
    left_out: u64,
}

impl Limit {
    fn new(lines_per_s: u32) -> Self {
        Self { lines_per_s: lines_per_s.into(), sites: Mutex::default(), left_out: AtomicU64::new(0) }
    }

    fn admits(&self, site: Identifier, now: Instant) -> bool {
        let lines_per_s = self.lines_per_s.load(Ordering::Relaxed);
        if lines_per_s == 0 {
            return true;
        }
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let site = sites.entry(site).or_insert(Site { second: now, lines: 0, left_out: 0 });
        if now.saturating_duration_since(site.second) >= Duration::from_secs(1) {
            (site.second, site.lines) = (now, 0);
        }
        let admitted = site.lines < lines_per_s;
        if admitted {
            site.lines += 1;
        } else {
            site.left_out += 1;
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn take_left_out(&self, site: &Identifier) -> u64 {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.get_mut(site).map_or(0, |site| std::mem::take(&mut site.left_out))
    }
}

struct Limited(Arc<Limit>);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // Peers trigger no lines on these threads, and the main thread's lines about a worker must not be
        // left out.
        matches!(std::thread::current().name(), Some("main" | writer::THREAD))
            || self.0.admits(event.metadata().callsite(), Instant::now())
    }
}

/// A format that puts the number of omitted lines before the next line, and its priority before a line to the journal.
struct Counted<F> {
    limit: Arc<Limit>,
    json: bool,
    journal: bool,
    inner: F,
}

impl<F> Counted<F> {
    fn of<G>(self, inner: G) -> Counted<G> {
        Counted { limit: self.limit, json: self.json, journal: self.journal, inner }
    }
}

impl<S, N, F> FormatEvent<S, N> for Counted<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let left_out = self.limit.take_left_out(&event.metadata().callsite());
        let priority = if self.journal { priority(*event.metadata().level()) } else { "" };
        if left_out > 0 {
            writer.write_str(priority)?;
            let (level, target) = (event.metadata().level(), event.metadata().target());
            if self.json {
                // Targets are paths of modules: they need no escaping.
                write!(writer, "{{\"level\":\"{level}\",\"target\":\"{target}\",")?;
                writeln!(
                    writer,
                    "\"fields\":{{\"message\":\"lines like the next were left out\",\"left_out\":{left_out}}}}}"
                )?;
            } else {
                writeln!(writer, "{level} {target}: lines like the next were left out left_out={left_out}")?;
            }
        }
        writer.write_str(priority)?;
        self.inner.format_event(cx, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn lines_past_the_bound_are_left_out_and_counted() {
        let limit = Arc::new(Limit::new(3));
        let lines = Lines::default();
        let format = Counted {
            limit: limit.clone(),
            json: true,
            journal: false,
            inner: tracing_subscriber::fmt::format().json(),
        };
        let layer = tracing_subscriber::fmt::layer().json().with_writer(lines.clone()).event_format(format);
        let subscriber = tracing_subscriber::registry().with(Limited(limit.clone())).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let say = |number: u32| tracing::warn!(number, "a peer did it");
            (0..10).for_each(say);
            tracing::warn!("another place");
            let mut sites = limit.sites.lock().unwrap();
            sites.values_mut().for_each(|site| site.second -= Duration::from_secs(1));
            drop(sites);
            say(10);
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let told: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let numbers: Vec<_> = told.iter().filter_map(|line| line["fields"]["number"].as_u64()).collect();
        assert_eq!(numbers, [0, 1, 2, 10], "{text}");
        assert_eq!(told[4]["fields"]["left_out"], 7, "{text}");
        assert!(text.contains("another place"));
        assert_eq!(limit.left_out.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_line_to_the_journal_begins_with_its_priority_and_has_no_time() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert!(is_journal(&file, Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!is_journal(&file, Some(&format!("{}:{}", stat.st_dev, stat.st_ino + 1))));
        assert!(!is_journal(&file, None));

        let lines = Lines::default();
        let inner = tracing_subscriber::fmt::format().without_time();
        let format = Counted { limit: Arc::new(Limit::new(0)), json: false, journal: true, inner };
        let layer =
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone()).event_format(format);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!("it is lost");
            tracing::warn!("it may be lost");
            tracing::info!("it is there");
            tracing::debug!("it is as it was");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let starts: Vec<_> = text.lines().map(|line| &line[..9]).collect();
        assert_eq!(starts, ["<3>ERROR ", "<4> WARN ", "<6> INFO ", "<7>DEBUG "], "{text}");
    }

    #[test]
    fn without_a_bound_every_line_is_logged() {
        let limit = Limit::new(0);
        let site = Identifier(&SITE);
        assert!((0..1000).all(|_| limit.admits(site.clone(), Instant::now())));
    }

    struct Place;
    static SITE: Place = Place;

    impl tracing::Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &tracing::Metadata<'_> {
            unreachable!("the limit reads no metadata")
        }
    }
}
