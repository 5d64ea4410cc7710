//! Whether the machine's clock can be trusted, and the time by which leases are granted and end.
//!
//! The store's time follows the wall clock while the wall clock moves as the machine's uptime does. When the two differ by more than
//! [`CLOCK_JUMP_S_MAX`], the clock is in doubt: the store's time follows the uptime alone, and no lease ends. The wall clock is
//! believed again when it has come back, when it was steady for [`CLOCK_STEADY_S`], or when an operator vouches for it.
//!
//! A lease is a span of time, and no step of a clock may shorten it. Leases are written as times of day. Each therefore names the *epoch*
//! in which it was granted: a part of one boot of the machine in which the clock only moved forward. When a step forward is believed,
//! leases of the epochs of this boot are shifted by it. The store's file `clock` has the shift of an epoch; files of leases do not change.

use crate::limits::{CLOCK_EARLIEST_S, CLOCK_JUMP_S_MAX, CLOCK_SAVE_S, CLOCK_STEADY_S};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One reading of the machine's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock, seconds since the Unix epoch.
    pub unix_s: u64,
    /// The time since the machine booted, sleep included, seconds. It cannot be set.
    pub up_s: u64,
}

/// The machine's clocks, or a replacement.
#[derive(Clone)]
pub struct Clocks(Arc<dyn Fn(Instant) -> ClockReading + Send + Sync>);

impl Clocks {
    /// The machine's own clocks.
    pub fn system() -> Self {
        Self::new(|_| {
            let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            ClockReading { unix_s, up_s: u64::try_from(up.tv_sec).unwrap_or_default() }
        })
    }

    /// Replacement clocks: `read` gets the time of the worker's loop.
    pub fn new(read: impl Fn(Instant) -> ClockReading + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The reading at `now`.
    pub fn read(&self, now: Instant) -> ClockReading {
        (self.0)(now)
    }
}

impl Default for Clocks {
    fn default() -> Self {
        Self::system()
    }
}

impl std::fmt::Debug for Clocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clocks")
    }
}

/// The ID of the machine's boot; empty if the system does not tell it.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// A store's time at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time from which new leases count, seconds since the Unix epoch.
    pub now_s: u64,
    /// Leases that end at this time or before are over, seconds since the Unix epoch. It is 0 while the clock is in doubt: no lease is over.
    pub over_s: u64,
    /// The epoch of leases that are granted now.
    pub epoch: u32,
    /// The machine's uptime, seconds.
    pub up_s: u64,
}

/// The state of a store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClockState {
    /// Whether leases may end.
    pub believed: bool,
    /// Jumps seen since the start. A jump against the time kept in the store counts as well.
    pub jumps: u64,
    /// How far the wall clock is ahead of the store's time, seconds.
    pub ahead_s: i64,
    /// Seconds until the wall clock is believed if it stays steady; `None` while it is believed, or while its time is impossible.
    pub believed_in_s: Option<u64>,
}

/// The file `clock` of a store: JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    /// The boot in which it was written.
    boot: String,
    /// The uptime when it was written, seconds.
    up_s: u64,
    /// The store's time when it was written, seconds since the Unix epoch.
    time_s: u64,
    /// The epoch when it was written.
    epoch: u32,
    /// Whether the clock was in doubt.
    doubt: bool,
    /// Earlier epochs of this boot, each with the store's time at the boot's begin by the clock of that epoch, seconds since the Unix epoch.
    earlier: Vec<(u32, i64)>,
    /// The seconds by which the leases of an epoch end later than their files say.
    shifts: BTreeMap<u32, u64>,
}

/// A change that a reading of the clocks caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockChange {
    /// The wall clock is this many seconds ahead of the store's time: it is in doubt from now on.
    Jumped(i64),
    /// The wall clock has come back.
    Back,
    /// The wall clock is believed, and the store's time moved by this many seconds.
    Believed(i64),
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    since_up_s: u64,
    /// How far the wall clock is ahead of the store's time, seconds.
    ahead_s: i64,
    /// Whether the store's time itself is no more certain than the wall clock.
    unproven: bool,
}

/// A store's clock: see the module. It is given readings and takes none.
#[derive(Debug)]
pub(super) struct Clock {
    boot: String,
    saved: Option<Saved>,
    /// Whether there was a reading.
    running: bool,
    /// The store's time at the begin of this boot, seconds since the Unix epoch.
    base_s: i64,
    epoch: u32,
    earlier: Vec<(u32, i64)>,
    pub(super) shifts: BTreeMap<u32, u64>,
    doubt: Option<Doubt>,
    jumps: u64,
    /// The newest reading, and the uptime at which the time was last written, seconds.
    seen: ClockReading,
    noted_up_s: u64,
}

impl Clock {
    /// The clock of a store whose file says `saved`, in the boot `boot`.
    pub(super) fn new(saved: Option<Saved>, boot: String) -> Self {
        let shifts = saved.as_ref().map(|saved| saved.shifts.clone()).unwrap_or_default();
        Self {
            boot,
            saved,
            running: false,
            base_s: 0,
            epoch: 1,
            earlier: Vec::new(),
            shifts,
            doubt: None,
            jumps: 0,
            seen: ClockReading { unix_s: 0, up_s: 0 },
            noted_up_s: 0,
        }
    }

    /// The seconds by which leases of this epoch end later than their files say.
    pub(super) fn shift_s(&self, epoch: u32) -> u64 {
        self.shifts.get(&epoch).copied().unwrap_or_default()
    }

    /// Takes a reading; `holds`: whether the store holds anything; `trusted`: whether an operator vouches for the wall clock. Returns the
    /// change, and the epochs whose leases end later from now on, with the seconds.
    pub(super) fn look(
        &mut self,
        at: ClockReading,
        holds: bool,
        trusted: bool,
    ) -> (Option<ClockChange>, Vec<(u32, u64)>) {
        let mut turn = None;
        self.seen = at;
        if !self.running {
            self.running = true;
            turn = self.begin(at, holds);
        }
        let ahead_s = at.unix_s as i64 - self.time_s(at.up_s);
        let is_near = |one: i64, other: i64| one.abs_diff(other) <= CLOCK_JUMP_S_MAX;
        // An early time is possible only if the store's time is early itself: an operator has vouched for it.
        let possible = at.unix_s >= CLOCK_EARLIEST_S || self.time_s(at.up_s) < CLOCK_EARLIEST_S as i64;
        match &mut self.doubt {
            None if is_near(ahead_s, 0) && possible => self.base_s += ahead_s,
            None => {
                self.doubt = Some(Doubt { since_up_s: at.up_s, ahead_s, unproven: false });
                self.jumps += 1;
                turn = Some(ClockChange::Jumped(ahead_s));
            }
            Some(doubt) if !doubt.unproven && possible && is_near(ahead_s, 0) => {
                self.doubt = None;
                self.base_s += ahead_s;
                turn = Some(ClockChange::Back);
            }
            Some(doubt) if is_near(ahead_s, doubt.ahead_s) => doubt.ahead_s = ahead_s,
            Some(doubt) => {
                *doubt = Doubt { since_up_s: at.up_s, ahead_s, ..*doubt };
                self.jumps += 1;
                turn = Some(ClockChange::Jumped(ahead_s));
            }
        }
        let steady = |doubt: &Doubt| possible && at.up_s.saturating_sub(doubt.since_up_s) >= CLOCK_STEADY_S;
        if self.doubt.as_ref().is_some_and(|doubt| trusted || steady(doubt)) {
            self.doubt = None;
            return (Some(ClockChange::Believed(ahead_s)), self.step(ahead_s));
        }
        (turn, Vec::new())
    }

    fn begin(&mut self, at: ClockReading, holds: bool) -> Option<ClockChange> {
        let (unix_s, up_s) = (at.unix_s as i64, at.up_s as i64);
        let doubt = Doubt { since_up_s: at.up_s, ahead_s: 0, unproven: true };
        let Some(saved) = self.saved.take() else {
            // There is no file. A store of an earlier version may hold leases: their ends wait.
            self.base_s = unix_s.max(CLOCK_EARLIEST_S as i64) - up_s;
            self.doubt = (holds || at.unix_s < CLOCK_EARLIEST_S).then_some(doubt);
            return None;
        };
        self.epoch = saved.epoch;
        self.shifts = saved.shifts;
        let same_boot = !saved.boot.is_empty() && saved.boot == self.boot && saved.up_s <= at.up_s;
        if same_boot {
            self.base_s = saved.time_s as i64 - saved.up_s as i64;
            self.earlier = saved.earlier;
            self.doubt = saved.doubt.then_some(doubt);
            return None;
        }
        // Leases granted by a clock in doubt do not run while the machine is off.
        if !saved.doubt {
            self.epoch = self.epoch.saturating_add(1);
            if unix_s > saved.time_s as i64 {
                self.base_s = unix_s - up_s;
                let off_s = unix_s.abs_diff(saved.time_s as i64);
                if off_s > CLOCK_JUMP_S_MAX {
                    self.doubt = Some(doubt);
                    self.jumps += 1;
                    return Some(ClockChange::Jumped(off_s as i64));
                }
                return None;
            }
        }
        self.base_s = saved.time_s as i64 - up_s;
        self.doubt = saved.doubt.then_some(doubt);
        None
    }

    /// Sets the store's time to the wall clock's.
    fn step(&mut self, by_s: i64) -> Vec<(u32, u64)> {
        let before_s = self.base_s;
        self.base_s += by_s;
        if by_s < 0 {
            // Leases of earlier epochs keep their ends, which are later than promised by the clock that is believed now.
            self.earlier.push((self.epoch, before_s));
            self.epoch = self.epoch.saturating_add(1);
            return Vec::new();
        }
        let base_s = self.base_s;
        let mut shifted = vec![(self.epoch, by_s as u64)];
        for (epoch, at_s) in &mut self.earlier {
            if *at_s < base_s {
                shifted.push((*epoch, (base_s - *at_s) as u64));
                *at_s = base_s;
            }
        }
        shifted.retain(|(_, by_s)| *by_s > 0);
        for (epoch, by_s) in &shifted {
            *self.shifts.entry(*epoch).or_default() += by_s;
        }
        // A lease that was granted and is not written yet is recognized by its epoch.
        self.earlier.push((self.epoch, base_s));
        self.epoch = self.epoch.saturating_add(1);
        shifted
    }

    fn time_s(&self, up_s: u64) -> i64 {
        self.base_s + up_s as i64
    }

    /// The store's time at the uptime of a reading.
    pub(super) fn moment(&self, up_s: u64) -> Moment {
        let now_s = self.time_s(up_s).max(0) as u64;
        let over_s = if self.doubt.is_some() { 0 } else { now_s };
        Moment { now_s, over_s, epoch: self.epoch, up_s }
    }

    /// Whether there was a reading.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// The uptime of the newest reading, seconds.
    pub(super) fn seen_up_s(&self) -> u64 {
        self.seen.up_s
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether the time is to be written now. If so, it counts as written.
    pub(super) fn take_due(&mut self, up_s: u64, changed: bool) -> bool {
        let due = changed || up_s.saturating_sub(self.noted_up_s) >= CLOCK_SAVE_S;
        if due {
            self.noted_up_s = up_s;
        }
        due
    }

    /// How far the wall clock is ahead of the store's time while it is in doubt, seconds.
    pub(super) fn ahead_s(&self) -> i64 {
        self.doubt.map_or(0, |doubt| doubt.ahead_s)
    }

    /// Whether leases of this epoch were granted in this boot: they shift with leases that are granted now.
    pub(super) fn is_of_this_boot(&self, epoch: u32) -> bool {
        epoch == self.epoch || self.earlier.iter().any(|(earlier, _)| *earlier == epoch)
    }

    /// Leases that end at this time or before were over at the newest reading; 0 if none was.
    pub(super) fn over_s(&self) -> u64 {
        if self.running { self.moment(self.seen.up_s).over_s } else { 0 }
    }

    pub(super) fn state(&self) -> ClockState {
        let at = self.seen;
        let left_s = self.doubt.filter(|_| at.unix_s >= CLOCK_EARLIEST_S);
        ClockState {
            believed: self.running && self.doubt.is_none(),
            jumps: self.jumps,
            ahead_s: self.ahead_s(),
            believed_in_s: left_s
                .map(|doubt| CLOCK_STEADY_S.saturating_sub(at.up_s.saturating_sub(doubt.since_up_s))),
        }
    }

    /// The contents of the file; `None` before the first reading.
    pub(super) fn saved(&self) -> Option<Saved> {
        self.running.then(|| self.save(self.seen.up_s))
    }

    fn save(&self, up_s: u64) -> Saved {
        Saved {
            boot: self.boot.clone(),
            up_s,
            time_s: self.time_s(up_s).max(0) as u64,
            epoch: self.epoch,
            doubt: self.doubt.is_some(),
            earlier: self.earlier.clone(),
            shifts: self.shifts.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    /// The true time at the begin of the boot `a`, seconds since the Unix epoch.
    const START: i64 = CLOCK_EARLIEST_S as i64 + 300 * DAY;

    fn at(up_s: u64, skew_s: i64) -> ClockReading {
        ClockReading { unix_s: (START + up_s as i64 + skew_s).max(0) as u64, up_s }
    }

    fn first() -> Clock {
        let mut clock = Clock::new(None, "a".into());
        assert_eq!(clock.look(at(10, 0), false, false), (None, vec![]));
        clock
    }

    fn is_believed(clock: &Clock, up_s: u64) -> bool {
        clock.moment(up_s).over_s > 0
    }

    #[test]
    fn small_steps_are_followed_and_large_ones_doubted_until_steady() {
        let mut clock = first();
        assert_eq!(clock.look(at(20, CLOCK_JUMP_S_MAX as i64), true, false).0, None);
        assert_eq!(clock.moment(20).now_s, at(20, 0).unix_s + CLOCK_JUMP_S_MAX);
        for by_s in [30 * DAY, -30 * DAY] {
            let mut clock = first();
            assert_eq!(clock.look(at(20, by_s), true, false), (Some(ClockChange::Jumped(by_s)), vec![]));
            let (granting, lasts) = (clock.moment(20).now_s, 20 + CLOCK_STEADY_S);
            assert_eq!((granting, clock.moment(20).over_s), (at(20, 0).unix_s, 0));
            assert_eq!(clock.look(at(lasts - 1, by_s), true, false).0, None);
            assert!(!is_believed(&clock, lasts - 1));
            let epoch = clock.moment(20).epoch;
            let shifts = if by_s > 0 { vec![(epoch, by_s as u64)] } else { vec![] };
            assert_eq!(clock.look(at(lasts, by_s), true, false), (Some(ClockChange::Believed(by_s)), shifts));
            assert_eq!(clock.moment(lasts).over_s, at(lasts, by_s).unix_s);
        }
    }

    #[test]
    fn a_clock_that_comes_back_is_believed_at_once_and_one_that_moves_on_is_doubted_anew() {
        let mut clock = first();
        clock.look(at(20, DAY), true, false);
        assert_eq!(clock.look(at(30, 2 * DAY), true, false).0, Some(ClockChange::Jumped(2 * DAY)));
        clock.look(at(25 + CLOCK_STEADY_S, 2 * DAY), true, false);
        assert!(!is_believed(&clock, 25 + CLOCK_STEADY_S), "steady from the second jump on");
        assert_eq!(clock.look(at(26 + CLOCK_STEADY_S, 5), true, false), (Some(ClockChange::Back), vec![]));
        assert!(is_believed(&clock, 26 + CLOCK_STEADY_S));
        assert_eq!(clock.state().jumps, 2);
    }

    #[test]
    fn a_dead_clock_is_never_believed_by_itself_and_its_leases_keep_their_span() {
        let mut clock = Clock::new(None, "a".into());
        let dead = |up_s: u64| ClockReading { unix_s: up_s, up_s };
        clock.look(dead(10), false, false);
        clock.look(dead(10 + 2 * CLOCK_STEADY_S), false, false);
        assert!(!is_believed(&clock, 10 + 2 * CLOCK_STEADY_S));
        assert_eq!(clock.state().believed_in_s, None);
        let granted = clock.moment(10_000);
        assert!(granted.now_s >= CLOCK_EARLIEST_S);
        // The process ends. Another starts in another boot, before the clock is set.
        let mut clock = Clock::new(Some(clock.save(10_000)), "b".into());
        clock.look(dead(5), true, false);
        assert_eq!(clock.moment(5).epoch, granted.epoch, "the true time of the grant is still unknown");
        clock.look(at(50, 0), true, false);
        let (turn, shifts) = clock.look(at(50 + CLOCK_STEADY_S, 0), true, false);
        assert!(matches!(turn, Some(ClockChange::Believed(_))));
        // For the store no time passed between the two boots.
        let true_s = at(50 + CLOCK_STEADY_S, 0).unix_s;
        let span_s = 50 - 5 + CLOCK_STEADY_S;
        assert_eq!(granted.now_s + shifts[0].1 + span_s, true_s);
        assert_eq!(clock.shift_s(granted.epoch), shifts[0].1);
    }

    #[test]
    fn the_saved_time_tells_a_restart_from_a_jump() {
        // The same boot: a pause of an hour is no jump; a clock that was set meanwhile jumps.
        let saved = first().save(10);
        let mut clock = Clock::new(Some(saved.clone()), "a".into());
        assert_eq!(clock.look(at(7210, 0), true, false).0, None);
        assert!(is_believed(&clock, 7210));
        let mut clock = Clock::new(Some(saved.clone()), "a".into());
        assert_eq!(clock.look(at(7210, DAY), true, false).0, Some(ClockChange::Jumped(DAY)));
        // Another boot: a short pause is no jump; days are one, and so is time that runs backward.
        let mut clock = Clock::new(Some(saved.clone()), "b".into());
        clock.look(at(60, 0), true, false);
        assert!(is_believed(&clock, 60) && clock.moment(60).epoch == 2);
        for skew_s in [3 * DAY, -3 * DAY] {
            let mut clock = Clock::new(Some(saved.clone()), "b".into());
            assert!(matches!(clock.look(at(60, skew_s), true, false).0, Some(ClockChange::Jumped(_))));
            assert!(!is_believed(&clock, 60));
            let now_s = clock.moment(60).now_s;
            assert_eq!(
                now_s,
                if skew_s > 0 { at(60, skew_s).unix_s } else { saved.time_s },
                "the later of both"
            );
            clock.look(at(60 + CLOCK_STEADY_S, skew_s), true, false);
            assert!(is_believed(&clock, 60 + CLOCK_STEADY_S));
        }
        // A store of a version without the file.
        let mut clock = Clock::new(None, "b".into());
        clock.look(at(60, 0), true, false);
        assert!(!is_believed(&clock, 60));
        // The doubt outlasts the process.
        let mut clock = Clock::new(Some(clock.save(60)), "b".into());
        clock.look(at(61, 0), true, false);
        assert!(!is_believed(&clock, 61));
    }

    #[test]
    fn an_operator_is_believed_whatever_the_clock_shows() {
        let mut clock = first();
        let early = ClockReading { unix_s: 1000, up_s: 20 };
        clock.look(early, true, false);
        assert!(matches!(clock.look(early, true, true).0, Some(ClockChange::Believed(_))));
        assert_eq!(clock.moment(20).now_s, 1000);
    }

    #[test]
    fn leases_from_before_a_step_back_are_shifted_by_the_part_of_a_later_step_beyond_it() {
        let mut clock = first();
        clock.look(at(20, -DAY), true, true);
        assert_eq!(clock.moment(20).epoch, 2);
        // Back to the true time and two days on: the first epoch's leases shift by two days, the second's by three.
        let (_, mut shifts) = clock.look(at(30, 2 * DAY), true, true);
        shifts.sort_unstable();
        assert_eq!(shifts, [(1, 2 * DAY as u64), (2, 3 * DAY as u64)]);
    }
}
