//! What is printed: medians of the runs.

use super::options::Options;
use super::path::Transfer;
use super::rows::{Aim, Row};
use super::run::Outcome;
use serde_json::{Map, Value, json};

/// The outcomes of a row.
pub(super) struct Report<'a> {
    pub(super) options: &'a Options,
    pub(super) row: &'a Row,
    pub(super) outcomes: Vec<(Transfer, Outcome)>,
}

/// The first lines of the table.
pub(super) fn head(options: &Options) -> String {
    format!(
        "Medians of {} seeds; controller {}. Columns: row, transfer, share of what the link carries as payload, aim, Gbit/s,\n\
         seconds until 0.9 of the link, until 0.9 again after a disturbance, packets lost of those sent, mean queue and memory\n\
         held at most in MB, what limited, real seconds a run.",
        options.seeds,
        options.controller(),
    )
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Options {
    fn controller(&self) -> String {
        self.quic.get("congestion_control").and_then(Value::as_str).unwrap_or("the default").to_owned()
    }
}

impl Report<'_> {
    fn of(&self, transfer: Transfer) -> Vec<&Outcome> {
        self.outcomes.iter().filter(|(of, _)| *of == transfer).map(|(_, outcome)| outcome).collect()
    }

    fn median(&self, transfer: Transfer, value: impl Fn(&Outcome) -> f64) -> f64 {
        median(self.of(transfer).into_iter().map(value).collect()).unwrap_or(0.0)
    }

    /// The median of times of which some never came: those are the longest.
    fn time(&self, transfer: Transfer, value: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        let median = self.median(transfer, |outcome| value(outcome).unwrap_or(f64::INFINITY));
        median.is_finite().then_some(median)
    }

    /// The limit that was seen most.
    fn limit(&self, transfer: Transfer) -> String {
        let limits: Vec<_> = self.of(transfer).into_iter().map(|outcome| &outcome.limited_by).collect();
        let most = limits.iter().max_by_key(|limit| limits.iter().filter(|other| other == limit).count());
        most.map_or_else(String::new, |limit| (*limit).clone())
    }

    /// Shares by flow: the median of each.
    fn shares(&self, transfer: Transfer) -> Vec<f64> {
        let flows = self.row.path.flows.len();
        let share =
            |flow| self.median(transfer, |outcome| outcome.shares_gbit_s.get(flow).copied().unwrap_or(0.0));
        (0..flows).map(share).collect()
    }

    fn failures(&self, transfer: Transfer) -> Vec<&str> {
        let mut failures: Vec<_> =
            self.of(transfer).into_iter().flat_map(|outcome| &outcome.failures).map(String::as_str).collect();
        failures.sort_unstable();
        failures.dedup();
        failures
    }

    /// One line a transfer.
    pub(super) fn lines(&self) -> String {
        let lines: Vec<_> = self.row.transfers.iter().map(|&transfer| self.line(transfer)).collect();
        lines.join("\n")
    }

    fn line(&self, transfer: Transfer) -> String {
        let seconds = |time: Option<f64>| time.map_or("never".into(), |time| format!("{time:.2} s"));
        let aim = self.row.aim.map_or("-".into(), |aim| aim.to_string());
        let recovered = match self.row.path.disturbance {
            Some(_) => seconds(self.time(transfer, |outcome| outcome.recovered_s)),
            None => "-".into(),
        };
        let mut line = format!(
            "{:<24} {:<8} {:5.3} ({aim}) {:7.3} {:>8} {recovered:>8} {:>9.0} of {:>9.0} {:7.2} {:7.1} {:<10} {:5.1}",
            self.row.name,
            transfer.to_string(),
            self.median(transfer, |outcome| outcome.of_link),
            self.median(transfer, |outcome| outcome.goodput_gbit_s),
            seconds(self.time(transfer, |outcome| outcome.full_s)),
            self.median(transfer, |outcome| outcome.lost_packets as f64),
            self.median(transfer, |outcome| outcome.sent_packets as f64),
            self.median(transfer, |outcome| outcome.queue_mb),
            self.median(transfer, |outcome| outcome.memory_mb),
            self.limit(transfer),
            self.median(transfer, |outcome| outcome.real_s),
        );
        if self.row.path.flows.len() > 1 {
            let shares: Vec<_> = self.shares(transfer).iter().map(|share| format!("{share:.3}")).collect();
            line +=
                &format!(" [{}] Jain {:.3}", shares.join(" "), self.median(transfer, |outcome| outcome.jain));
        }
        for failure in self.failures(transfer) {
            line += &format!("\n    {failure}");
        }
        line
    }

    /// The row as one object.
    pub(super) fn json(&self) -> Value {
        let of_link = |transfer| self.median(transfer, |outcome| outcome.of_link);
        let least =
            self.row.transfers.iter().map(|&transfer| of_link(transfer)).fold(f64::INFINITY, f64::min);
        let transfers: Map<String, Value> = self
            .row
            .transfers
            .iter()
            .map(|&transfer| (transfer.to_string(), self.transfer_json(transfer)))
            .collect();
        let aim = self.row.aim.map(|aim| match aim {
            Aim::Link(share) => json!({ "of_link": share }),
            Aim::Jain(index) => json!({ "jain": index }),
            Aim::Each(share) => json!({ "least_of_link": share }),
        });
        json!({
            "row": self.row.name,
            "controller": self.options.controller(),
            "seeds": self.options.seeds,
            "of_link": least,
            "aim": aim,
            "rate_bits_per_s": self.row.path.rate_bits_per_s,
            "rtt_ms": self.row.path.rtt.as_secs_f64() * 1e3,
            "loss": self.row.path.loss,
            "warm_s": self.row.path.warm.as_secs_f64(),
            "measured_s": self.row.path.measured.as_secs_f64(),
            "transfers": transfers,
        })
    }

    fn transfer_json(&self, transfer: Transfer) -> Value {
        let full = self.row.path.full_bits_per_s() / 1e9;
        let shares = self.shares(transfer);
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min) / full;
        json!({
            "of_link": self.median(transfer, |outcome| outcome.of_link),
            "of_link_all": self.of(transfer).iter().map(|outcome| outcome.of_link).collect::<Vec<_>>(),
            "goodput_gbit_s": self.median(transfer, |outcome| outcome.goodput_gbit_s),
            "full_s": self.time(transfer, |outcome| outcome.full_s),
            "recovered_s": self.time(transfer, |outcome| outcome.recovered_s),
            "sent_packets": self.median(transfer, |outcome| outcome.sent_packets as f64),
            "lost_packets": self.median(transfer, |outcome| outcome.lost_packets as f64),
            "dropped_frames": self.median(transfer, |outcome| outcome.dropped_frames as f64),
            "queue_mb": self.median(transfer, |outcome| outcome.queue_mb),
            "memory_mb": self.median(transfer, |outcome| outcome.memory_mb),
            "window_mb": self.median(transfer, |outcome| outcome.window_mb),
            "rtt_ms": self.median(transfer, |outcome| outcome.rtt_ms),
            "mtu_bytes": self.median(transfer, |outcome| f64::from(outcome.mtu_bytes)),
            "limited_by": self.limit(transfer),
            "shares_gbit_s": shares,
            "least_of_link": least,
            "jain": self.median(transfer, |outcome| outcome.jain),
            "failures": self.failures(transfer),
            "real_s": self.median(transfer, |outcome| outcome.real_s),
        })
    }
}
