//! `stoq-gateway top`: a gateway live in a terminal, by worker and port. It reads `/status` and `/metrics`, so it shows remote gateways
//! as well as the one beside it.

use super::client::{Remote, path_of};
use super::screen::Screen;
use super::text::{Sample, parse};
use anyhow::{Context, anyhow, ensure};
use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};
use serde_json::Value;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stoq::peer_text::PeerText;

/// Columns of the output of `--once`.
const ONCE_WIDTH: u16 = 120;
/// The load from which a worker is highlighted.
const LOAD_HIGH: f64 = 0.9;

/// The options of `stoq-gateway top`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The gateway's admin endpoint.
    #[arg(long, default_value = "http://127.0.0.1:9464")]
    url: String,
    /// The authority's certificates, for https.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with the bearer token, where one is needed.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Seconds between two samples.
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
    /// Take two samples, print the result, and end.
    #[arg(long)]
    once: bool,
}

/// Shows the gateway until `q`, Escape or Ctrl-C.
///
/// # Errors
/// The endpoint does not answer at the start, or there is no terminal to draw on.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // The URLs of health, status and metrics name the same endpoint.
    let path = path_of(&args.url);
    ensure!(
        ["", "/readyz", "/livez", "/status", "/metrics"].contains(&path),
        "{}: there is no {path}; give the address of the endpoint alone",
        args.url
    );
    let remote = Remote::new(&args.url, args.ca.as_deref(), args.token_file.as_deref())?;
    let mut before = Look::take(&remote)?;
    let pause = Duration::from_secs_f64(args.interval);
    if args.once {
        std::thread::park_timeout(pause);
        let now = Look::take(&remote)?;
        crate::output::line(printed(&Shown { before: &before, now: &now, wrong: None })?.trim_end())?;
        return Ok(());
    }
    ensure!(std::io::stdout().is_terminal(), "standard output is no terminal; give --once");
    let mut screen = Screen::enter()?;
    watch(&mut screen, &remote, pause, &mut before)
}

fn watch(screen: &mut Screen, remote: &Remote, pause: Duration, before: &mut Look) -> anyhow::Result<()> {
    let mut now = before.clone();
    let mut wrong = None;
    loop {
        let shown = Shown { before, now: &now, wrong: wrong.as_deref() };
        screen.draw(|frame| shown.draw(frame))?;
        let until = Instant::now() + pause;
        while event::poll(until.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) if is_end(key.code, key.modifiers) => return Ok(()),
                Event::Resize(..) => break,
                _ => {}
            }
        }
        // The display goes on once a restarted gateway answers.
        match Look::take(remote) {
            Ok(look) => {
                *before = std::mem::replace(&mut now, look);
                wrong = None;
            }
            Err(error) => wrong = Some(format!("{error:#}")),
        }
    }
}

fn is_end(code: KeyCode, modifiers: KeyModifiers) -> bool {
    let interrupted = code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    matches!(code, KeyCode::Char('q') | KeyCode::Esc) || interrupted
}

/// Makes the strings of an answer fit to be printed.
fn fit(value: &mut Value) {
    match value {
        Value::String(text) => *text = PeerText::from(&**text).into_string(),
        Value::Array(values) => values.iter_mut().for_each(fit),
        Value::Object(values) => values.values_mut().for_each(fit),
        _ => {}
    }
}

/// One sample of the endpoint.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    status: Value,
    samples: Vec<Sample>,
}

impl Look {
    fn take(remote: &Remote) -> anyhow::Result<Self> {
        let get = |path| match remote.get(path)? {
            (200, body) => Ok(body),
            (401, _) if remote.has_token() => {
                Err(anyhow!("the token of --token-file is another than the gateway's; give that"))
            }
            (401, _) => Err(anyhow!("a token is needed: give --token-file")),
            (code, _) => Err(anyhow!(
                "{path} gives status {code}: give the `[admin] listen` of a gateway of this version"
            )),
        };
        let mut status = serde_json::from_str(&get("/status")?)
            .context("/status is no JSON, as that of a gateway's `[admin] listen` is")?;
        fit(&mut status);
        let mut samples = parse(&get("/metrics")?);
        for label in samples.iter_mut().flat_map(|sample| sample.labels.values_mut()) {
            *label = PeerText::from(&**label).into_string();
        }
        Ok(Self { at: Instant::now(), status, samples })
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|shown| shown == value))
        };
        // From 0: the sum of nothing is -0.
        self.samples.iter().filter(is).fold(0.0, |sum, sample| sum + sample.value)
    }
}

/// Two samples of one gateway, and the error of the last request, if it failed.
pub(super) struct Shown<'a> {
    before: &'a Look,
    now: &'a Look,
    wrong: Option<&'a str>,
}

impl Shown<'_> {
    /// How much a counter grew, a second; 0 after a restart.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let seconds = (self.now.at - self.before.at).as_secs_f64();
        let grown = self.now.sum(name, labels) - self.before.sum(name, labels);
        if seconds > 0.0 && grown > 0.0 { grown / seconds } else { 0.0 }
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let blocks = [self.workers(), self.ports(), self.drops(), self.requests(), self.store()];
        let heights = blocks.iter().map(|block| Constraint::Length(block.rows.len() as u16 + 2));
        let areas =
            Layout::vertical(std::iter::once(Constraint::Length(3)).chain(heights)).split(frame.area());
        frame.render_widget(Paragraph::new(self.header()), areas[0]);
        for (block, area) in blocks.into_iter().zip(areas.iter().skip(1)) {
            block.draw(frame, *area);
        }
    }

    fn header(&self) -> Vec<Line<'static>> {
        let status = &self.now.status;
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        let state = match (self.wrong, status["ready"].as_bool(), status["draining"].as_bool()) {
            (Some(wrong), ..) => format!("no answer: {wrong}").red(),
            (None, Some(true), _) => "ready".to_owned().green(),
            (None, _, Some(true)) => "draining".to_owned().yellow(),
            _ => format!("not ready: {}", reasons(&status["not_ready"])).red(),
        };
        let up = status["uptime_s"].as_i64().unwrap_or_default();
        let certificate = status["certificate"]["expires_in_s"].as_i64().unwrap_or_default();
        vec![
            Line::from(vec![
                format!("STOQ {} ", text("version")).bold(),
                text("node_id").into(),
                "  ".into(),
                state,
            ]),
            Line::from(format!("up {}, certificate expires in: {}", span(up), span(certificate))).dim(),
        ]
    }

    fn workers(&self) -> Block {
        let mut rows = Vec::new();
        let mut marked = Vec::new();
        for worker in array(&self.now.status["workers"]) {
            let index = worker["worker"].as_u64().unwrap_or_default().to_string();
            let of = [("worker", index.as_str())];
            let load = worker["load"].as_f64().unwrap_or_default();
            marked.push(load >= LOAD_HIGH);
            let rings: u64 = worker["rings"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(_, depth)| depth.as_u64())
                .sum();
            rows.push(vec![
                index.clone(),
                worker["core"].as_u64().map_or("any".into(), |core| core.to_string()),
                worker["numa_node"].as_u64().map_or("-".into(), |node| node.to_string()),
                format!("{:.0} %", load * 100.0),
                worker["connections"].to_string(),
                bits(self.rate("stoq_rx_bytes_total", &of)),
                scaled(self.rate("stoq_rx_packets_total", &of)),
                bits(self.rate("stoq_tx_bytes_total", &of)),
                scaled(self.rate("stoq_tx_packets_total", &of)),
                scaled(self.rate("stoq_drops_total", &of)),
                rings.to_string(),
            ]);
        }
        let head = [
            "worker", "core", "node", "load", "conns", "rx bit/s", "rx p/s", "tx bit/s", "tx p/s", "drops/s",
            "rings",
        ];
        Block { head: head.to_vec(), rows, marked }
    }

    fn ports(&self) -> Block {
        let has = |name: &str| self.now.samples.iter().any(|sample| sample.name == name);
        let rows = array(&self.now.status["ports"]).map(|port| {
            let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
            let device = text("device");
            let stat = |name: &str| match has(name) {
                true => scaled(self.rate(name, &[("device", &device)])),
                false => "-".into(),
            };
            let link = if port["link_up"] == true { "up" } else { "down" };
            vec![
                device.clone(),
                text("driver"),
                link.to_owned(),
                port["mtu"].to_string(),
                stat("stoq_port_rx_missed_total"),
                stat("stoq_port_rx_no_buffer_total"),
                stat("stoq_port_rx_errors_total"),
            ]
        });
        let rows: Vec<_> = rows.collect();
        let marked = rows.iter().map(|row| row[2] == "down").collect();
        Block {
            head: vec!["port", "driver", "link", "MTU", "missed/s", "no buffer/s", "errors/s"],
            rows,
            marked,
        }
    }

    /// Reasons with drops, the busiest first.
    fn drops(&self) -> Block {
        let reasons = self
            .now
            .samples
            .iter()
            .filter(|s| s.name == "stoq_drops_total" && s.labels.contains_key("reason"));
        let mut names: Vec<&str> = reasons.map(|sample| sample.labels["reason"].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut found: Vec<_> = names
            .into_iter()
            .map(|name| {
                let of = [("reason", name)];
                (self.rate("stoq_drops_total", &of), self.now.sum("stoq_drops_total", &of), name)
            })
            .filter(|(_, total, _)| *total > 0.0)
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        let rows =
            found.iter().map(|(rate, total, name)| vec![(*name).to_owned(), scaled(*rate), scaled(*total)]);
        Block::plain(vec!["drops", "rate", "total"], rows.collect())
    }

    fn requests(&self) -> Block {
        let rows = ["put", "fetch", "locate", "mirror"].map(|kind| {
            let of = |result| self.now.sum("stoq_requests_total", &[("kind", kind), ("result", result)]);
            let rate = self.rate("stoq_requests_total", &[("kind", kind)]);
            let ends = ["ok", "refused", "abandoned"].map(|result| scaled(of(result)));
            let mut row = vec![kind.to_owned(), scaled(rate)];
            row.extend(ends);
            row
        });
        Block::plain(vec!["requests", "rate", "ok", "refused", "abandoned"], rows.to_vec())
    }

    fn store(&self) -> Block {
        let store = &self.now.status["store"];
        if store.is_null() {
            return Block::plain(vec!["store", "none"], Vec::new());
        }
        let bytes = |value: &Value| value.as_f64().map_or("-".into(), |bytes| format!("{}B", scaled(bytes)));
        let row = vec![
            if store["writable"] == true { "writable".into() } else { "not writable".to_owned() },
            bytes(&store["usage_bytes"]),
            bytes(&store["capacity_bytes"]),
            store["entries"].to_string(),
            store["leases"].to_string(),
            bytes(&store["memory"]["held_bytes"]),
            format!("{}B/s", scaled(self.rate("stoq_verified_bytes_total", &[]))),
        ];
        let marked = vec![store["writable"] != true];
        let head = vec!["store", "used", "capacity", "entries", "leases", "in memory", "verified"];
        Block { head, rows: vec![row], marked }
    }
}

/// A table with its first column on the left and the others on the right.
struct Block {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Rows to highlight.
    marked: Vec<bool>,
}

impl Block {
    fn plain(head: Vec<&'static str>, rows: Vec<Vec<String>>) -> Self {
        Self { marked: vec![false; rows.len()], head, rows }
    }

    fn draw(self, frame: &mut Frame<'_>, area: Rect) {
        let Self { head, rows, marked } = self;
        let widths: Vec<_> = (0..head.len())
            .map(|column| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
                let widest = cells.chain([head[column].len()]).max().unwrap_or_default();
                widest.max(if column == 0 { 22 } else { 9 }) as u16
            })
            .collect();
        let line = |cells: Vec<String>| {
            let aligned = cells.into_iter().enumerate().map(|(column, cell)| match column {
                0 => Line::from(cell),
                _ => Line::from(cell).right_aligned(),
            });
            Row::new(aligned.collect::<Vec<_>>())
        };
        let heading = line(head.iter().map(|&text| text.to_owned()).collect()).style(Style::new().bold());
        let rows = rows.into_iter().zip(marked).map(|(row, marked)| {
            let style = if marked { Style::new().fg(Color::Red) } else { Style::new() };
            line(row).style(style)
        });
        frame.render_widget(Table::new(rows, widths).header(heading), area);
    }
}

/// The contents of the terminal as text.
fn printed(shown: &Shown<'_>) -> anyhow::Result<String> {
    let rows = |key: &str| array(&shown.now.status[key]).count() as u16;
    let height = 40 + rows("workers") + rows("ports");
    let mut terminal = Terminal::new(TestBackend::new(ONCE_WIDTH, height))?;
    terminal.draw(|frame| shown.draw(frame))?;
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(ONCE_WIDTH)).map(|line| {
        let text: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.trim_end().to_owned()
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    Ok(text.trim_end().to_owned() + "\n")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn reasons(value: &Value) -> String {
    array(value).filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

fn bits(bytes: f64) -> String {
    scaled(bytes * 8.0)
}

/// Three digits and a prefix.
fn scaled(value: f64) -> String {
    let mut scaled = value;
    for prefix in ["", "k", "M", "G", "T"] {
        if scaled < 1000.0 {
            let digits = usize::from(!prefix.is_empty() && scaled < 100.0);
            return format!("{scaled:.digits$} {prefix}").trim_end().to_owned();
        }
        scaled /= 1000.0;
    }
    format!("{scaled:.0} P")
}

fn span(seconds: i64) -> String {
    match seconds {
        ..0 => "expired".into(),
        0..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stoq::peer_text::is_plain;

    #[test]
    fn hostile_texts_of_a_status_are_shown_as_numbers() {
        let mut status = json!({"why": ["\u{1b}]0;title\u{7}"], "of": {"name": "\u{202e}far\r\n\u{9b}31m"}});
        fit(&mut status);
        assert_eq!(status["why"][0], "\\u{1b}]0;title\\u{7}");
        assert!(status["of"]["name"].as_str().unwrap().chars().all(is_plain), "{status}");
    }

    fn look(at: Instant, bytes: u64, drops: u64) -> Look {
        let text = format!(
            "stoq_rx_bytes_total{{worker=\"0\"}} {bytes}\nstoq_rx_bytes_total{{worker=\"1\"}} 5\n\
             stoq_drops_total{{worker=\"0\",reason=\"checksum\"}} {drops}\n\
             stoq_drops_total{{worker=\"0\",reason=\"port\"}} 0\n\
             stoq_requests_total{{worker=\"0\",kind=\"put\",result=\"ok\"}} 3\n"
        );
        let worker = |worker: u8, load: f64| {
            let rings = json!({"deliveries": 1, "commands": 2});
            json!({"worker": worker, "core": null, "load": load, "connections": 7, "rings": rings})
        };
        let status = json!({
            "version": "1.2.3", "node_id": "abc", "ready": false, "draining": false, "not_ready": ["a", "b"],
            "uptime_s": 90, "certificate": {"expires_in_s": 864_000}, "workers": [worker(0, 0.5), worker(1, 0.95)],
            "ports": [{"device": "net_null0", "driver": "net_null", "link_up": false, "mtu": 1500}], "store": null,
        });
        Look { at, status, samples: parse(&text) }
    }

    #[test]
    fn two_samples_give_rates_by_worker_and_the_faults() {
        let at = Instant::now();
        let (before, now) = (look(at, 1_000, 10), look(at + Duration::from_secs(2), 501_000, 30));
        let text = printed(&Shown { before: &before, now: &now, wrong: None }).unwrap();
        let line = |front: &str| {
            let line = text.lines().find(|line| line.starts_with(front));
            line.unwrap_or_else(|| panic!("no {front} in\n{text}"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("STOQ"), "STOQ 1.2.3 abc not ready: a; b");
        assert_eq!(line("up "), "up 1 min, certificate expires in: 10 days");
        assert_eq!(line("0 "), "0 any - 50 % 7 2.0 M 0 0 0 10 3");
        assert_eq!(line("1 "), "1 any - 95 % 7 0 0 0 0 0 3");
        assert_eq!(line("net_null0"), "net_null0 net_null down 1500 - - -");
        assert_eq!(line("checksum"), "checksum 10 30");
        let after = text.lines().skip_while(|line| !line.starts_with("checksum")).nth(1);
        assert_eq!(after, Some(""), "a reason that dropped nothing is not shown:\n{text}");
        assert_eq!(line("put"), "put 0 3 0 0");
        let lost = printed(&Shown { before: &before, now: &now, wrong: Some("gone") }).unwrap();
        assert!(lost.contains("no answer: gone"));
        // A restarted gateway has lower counters than before.
        let restarted = look(at + Duration::from_secs(2), 10, 0);
        assert_eq!(
            Shown { before: &before, now: &restarted, wrong: None }.rate("stoq_rx_bytes_total", &[]),
            0.0
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (999.0, "999"), (1_500.0, "1.5 k"), (123_456.0, "123 k"), (2e10, "20.0 G")]
        {
            assert_eq!(scaled(value), text);
        }
    }
}
