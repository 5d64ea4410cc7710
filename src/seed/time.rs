//! The store's time, kept durably, and an operator's word for the machine's clock.

use super::clock::{ClockChange, ClockReading, ClockState, Moment};
use super::error::StoreError;
use super::inner::Inner;
use super::store::Store;
use crate::limits::{CLOCK_JUMP_S_MAX, CLOCK_STEADY_S};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The file in which an operator vouches for the clock. It names the right time, seconds since the Unix epoch.
const TRUST: &str = "trust-clock";

impl Store {
    /// The store's time, by a reading of the machine's clocks. The first reading, and one that changes the state of the clock,
    /// write the time to its file. Later ones leave that to another thread, at most every [`crate::limits::CLOCK_SAVE_S`].
    pub fn moment(&self, at: ClockReading) -> Moment {
        let store = &self.inner;
        let holds = store.index().census().entries > 0;
        let (turn, first, moment, due) = {
            let mut clock = store.clock();
            let first = !clock.is_running();
            // A word that is not needed is taken as well: no later doubt may use an old word.
            let trusted =
                (first || clock.is_doubted() || clock.seen_up_s() != at.up_s) && store.is_vouched(at);
            let (turn, shifts) = clock.look(at, holds, trusted);
            // Before another thread learns of the time by which they would be over.
            let mut index = store.index();
            shifts.into_iter().for_each(|(epoch, by_s)| index.shift(epoch, by_s));
            (turn, first, clock.moment(at.up_s), clock.take_due(at.up_s, turn.is_some()))
        };
        if let Some(turn) = turn {
            tell(turn);
        } else if first && moment.over_s == 0 {
            tracing::warn!(
                steady_s = CLOCK_STEADY_S,
                "this store has no note of the time: no lease ends until the clock has been steady for steady_s seconds"
            );
        }
        if first || turn.is_some() {
            store.save_clock();
        } else if due {
            store.save_later();
        }
        moment
    }

    /// The state of the clock at the newest reading.
    pub fn clock_state(&self) -> ClockState {
        self.inner.clock().state()
    }

    /// Leases that end at this time or before were over at the newest reading, seconds since the Unix epoch; 0 while none is.
    pub fn over_s(&self) -> u64 {
        self.inner.clock().over_s()
    }

    /// Vouches for a clock that shows `unix_s` now, in the store in `dir`. The store may be open or not. The next reading
    /// takes the word, if it shows the same time to within [`CLOCK_JUMP_S_MAX`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory is no store or cannot be written.
    pub fn vouch_for_clock(dir: &Path, unix_s: u64) -> Result<(), StoreError> {
        let path = dir.join(TRUST);
        let data = dir.join(super::layout::DATA);
        if let Err(source) = fs::metadata(&data) {
            return Err(StoreError::io("find the store's directory", &data, source));
        }
        let write = || {
            fs::write(&path, format!("{unix_s}\n"))?;
            // The gateway's user must be able to read a file that another user wrote.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        };
        write().map_err(|source| StoreError::io("write", &path, source))
    }
}

impl Inner {
    /// Whether an operator vouches for this reading. A word counts once.
    fn is_vouched(&self, at: ClockReading) -> bool {
        let path = self.dir.join(TRUST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an operator's word for the clock cannot be read");
                return false;
            }
        };
        if let Err(error) = self.disk.0.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "an operator's word for the clock cannot be removed");
        }
        let vouched =
            text.trim().parse::<u64>().is_ok_and(|time| time.abs_diff(at.unix_s) <= CLOCK_JUMP_S_MAX);
        if !vouched {
            let (said, shown) = (text.trim().to_owned(), at.unix_s);
            tracing::warn!(
                said,
                shown,
                "an operator vouched for another time than the clock shows: vouch again"
            );
        }
        vouched
    }
}

fn tell(turn: ClockChange) {
    match turn {
        ClockChange::Jumped(by_s) => tracing::warn!(
            by_s,
            steady_s = CLOCK_STEADY_S,
            "the clock jumped: no lease ends until it has been steady for steady_s seconds, or `stoq-gateway store trust-clock` says that it is right"
        ),
        ClockChange::Back => tracing::info!("the clock is back where it should be: leases end again"),
        ClockChange::Believed(by_s) => tracing::warn!(by_s, "the clock is believed: leases end again"),
    }
}
