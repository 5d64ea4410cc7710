//! A look at this node's own connections while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::send_limit::{LimitTimes, SendLimit};
use stoq::worker::{ConnectionView, WorkerStatus};

/// How long the workers may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one look for an answer to the next.
const STEP: Duration = Duration::from_millis(1);
/// A smaller share of the time is not worth a word.
const SHARE_MIN: f64 = 0.005;

/// The connections of these workers, [`stoq::limits::INSPECTION_LEN_MAX`] of each at most. A worker that does not answer within 2 s gives none.
pub fn connections(statuses: &[Arc<WorkerStatus>]) -> Vec<ConnectionView> {
    let deadline = Instant::now() + PATIENCE;
    let asked: Vec<_> = statuses.iter().map(|status| status.inspection.ask()).collect();
    let mut views = Vec::new();
    for mut answer in asked {
        while Instant::now() < deadline {
            match answer.try_recv() {
                Ok(seen) => {
                    views.extend(seen);
                    break;
                }
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => std::thread::sleep(STEP),
                Err(tokio::sync::oneshot::error::TryRecvError::Closed) => break,
            }
        }
    }
    views
}

/// The time that each limit had, of all connections together.
pub fn limited(views: &[ConnectionView]) -> LimitTimes {
    views.iter().fold(LimitTimes::default(), |sum, view| sum.plus(&view.limited_s))
}

/// Names the limits by their shares of the time, such as "congestion 93 %, pacing 7 %".
pub fn in_words(times: &LimitTimes) -> String {
    let shares = times.shares().into_iter().filter(|(_, share)| *share >= SHARE_MIN);
    let words =
        shares.map(|(limit, share): (SendLimit, f64)| format!("{} {:.0} %", limit.name(), 100.0 * share));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_the_largest_share_first_and_no_crumbs() {
        let mut times = LimitTimes::default();
        times.add(SendLimit::Pacing, Duration::from_millis(70));
        times.add(SendLimit::Congestion, Duration::from_millis(929));
        times.add(SendLimit::Device, Duration::from_millis(1));
        assert_eq!(in_words(&times), "congestion 93 %, pacing 7 %");
        assert_eq!(in_words(&LimitTimes::default()), "");
    }
}
