use super::{LongPath, Settings};
use std::time::{Duration, Instant};

/// A full frame of 1538 bytes on the medium takes 1 ms.
const FRAME_A_MS: u64 = 12_304_000;
const FULL: usize = 1514;

fn settings() -> Settings {
    Settings { rate_bits_per_s: FRAME_A_MS, delay_us: 10_000, buffer_bytes: 1 << 30, ..Settings::default() }
}

/// A path that is asked at the instant of each release, with the number that a frame carries.
struct Timed {
    path: LongPath,
    start: Instant,
}

impl Timed {
    fn new(settings: &Settings) -> Self {
        settings.check().unwrap();
        Self { path: LongPath::new(settings), start: Instant::now() }
    }

    fn take(&mut self, at: Duration, from: usize, number: u32) {
        let mut frame = vec![0; FULL];
        frame[20..24].copy_from_slice(&number.to_be_bytes());
        self.path.take(self.start + at, from, &frame);
    }

    /// Everything that is in flight: when it was released, at which end, and its number.
    fn released(&mut self) -> Vec<(Duration, usize, u32)> {
        let mut all = Vec::new();
        while let Some(due) = self.path.next_release() {
            let at = due - self.start;
            self.path.release(due, |to, frame| {
                all.push((at, to, u32::from_be_bytes(frame[20..24].try_into().unwrap())));
                true
            });
        }
        all
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn frames_leave_at_the_rate_and_arrive_after_the_delay_in_order() {
    let mut timed = Timed::new(&settings());
    for number in 0..50 {
        timed.take(Duration::ZERO, 0, number);
    }
    let wanted: Vec<_> = (0..50).map(|number| (ms(u64::from(number) + 11), 1, number)).collect();
    assert_eq!(timed.released(), wanted);
    let report = timed.path.report(ms(100));
    assert_eq!((report.taken, report.released, report.late, report.late_us_max), (50, 50, 0, 0));
}

#[test]
fn each_way_has_a_rate_of_its_own() {
    let mut timed = Timed::new(&settings());
    timed.take(Duration::ZERO, 0, 1);
    timed.take(Duration::ZERO, 1, 2);
    let mut released = timed.released();
    released.sort_unstable();
    assert_eq!(released, [(ms(11), 0, 2), (ms(11), 1, 1)]);
}

#[test]
fn a_full_buffer_drops_the_last() {
    let mut timed = Timed::new(&Settings { buffer_bytes: 10 * 1538, ..settings() });
    for number in 0..50 {
        timed.take(Duration::ZERO, 0, number);
    }
    // At 5 ms five frames have left, and there is room for five.
    for number in 50..60 {
        timed.take(ms(5), 0, number);
    }
    let numbers: Vec<_> = timed.released().into_iter().map(|(_, _, number)| number).collect();
    assert_eq!(numbers, (0..10).chain(50..55).collect::<Vec<_>>());
    assert_eq!(timed.path.report(ms(100)).tail_dropped, 45);
}

#[test]
fn the_way_forth_loses_its_share_and_the_way_back_nothing() {
    let lossy = Settings { loss: 0.01, seed: 7, ..settings() };
    let run = || {
        let mut timed = Timed::new(&lossy);
        for number in 0..20_000 {
            timed.take(Duration::ZERO, 0, number);
            timed.take(Duration::ZERO, 1, number);
        }
        (timed.released(), timed.path.report(ms(1)).lost)
    };
    let (released, lost) = run();
    let back = released.iter().filter(|(_, to, _)| *to == 0).count();
    assert_eq!((back, released.len() as u64), (20_000, 40_000 - lost));
    // The standard deviation of 20,000 frames at 0.01 is 14.
    assert!((130..=270).contains(&lost), "{lost}");
    assert_eq!(run(), (released, lost), "the same seed loses the same frames");
}

#[test]
fn frames_that_are_held_back_are_overtaken_within_the_bound() {
    let mut timed = Timed::new(&Settings { reordering: 0.1, reordering_us: 5_000, ..settings() });
    for number in 0..1000 {
        timed.take(Duration::ZERO, 0, number);
    }
    let released = timed.released();
    assert_eq!(released.len(), 1000);
    for (at, _, number) in &released {
        let due = ms(u64::from(*number) + 11);
        assert!((due..=due + ms(5)).contains(at), "frame {number} at {at:?}");
    }
    let overtaken = released.windows(2).filter(|pair| pair[0].2 > pair[1].2).count();
    assert!(overtaken > 0);
    assert!((50..200).contains(&timed.path.report(ms(1)).held_back));
}

#[test]
fn a_late_release_and_a_refused_one_are_counted() {
    let mut timed = Timed::new(&settings());
    for number in 0..5 {
        timed.take(Duration::ZERO, 0, number);
    }
    // Due at 11 to 15 ms: two are late by more than 1 ms, and one is not due.
    timed.path.release(timed.start + ms(14), |_, _| false);
    let report = timed.path.report(ms(14));
    assert_eq!((report.late, report.late_us_max, report.refused, report.released), (2, 3000, 4, 0));
    timed.path.release(timed.start + ms(15), |_, _| true);
    let report = timed.path.report(ms(15));
    assert_eq!(
        (report.late, report.late_us_max, report.released),
        (2, 0, 1),
        "the longest is since the last report"
    );
}

#[test]
fn a_frame_above_the_mtu_is_counted_and_dropped() {
    let mut timed = Timed::new(&settings());
    timed.path.take(timed.start, 0, &[0; FULL + 1]);
    assert_eq!((timed.path.next_release(), timed.path.report(ms(1)).too_large), (None, 1));
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_field() {
    for (wrong, name) in [
        (Settings { rate_bits_per_s: 0, ..settings() }, "rate_bits_per_s"),
        (Settings { buffer_bytes: 1537, ..settings() }, "buffer_bytes"),
        (Settings { loss: 1.5, ..settings() }, "loss"),
        (Settings { reordering: -0.1, ..settings() }, "reordering"),
    ] {
        let said = wrong.check().unwrap_err().to_string();
        assert!(said.starts_with(name), "{said}");
    }
}
