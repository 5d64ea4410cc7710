//! A list of which each turn looks at a few entries, in turn.

use crate::limits::CLIENT_LOOKS_LEN_PER_TURN_MAX;
use std::collections::VecDeque;

/// Entries that wait for something that does not name them: room, bytes of a task, its end. A round looks at each of them once, over as many turns as it
/// takes.
#[derive(Debug)]
pub(super) struct Rotation<T> {
    /// Those that the present round has not looked at are in front.
    waiting: VecDeque<T>,
    left: usize,
    #[cfg(test)]
    pub(super) looks: usize,
}

impl<T> Default for Rotation<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            left: 0,
            #[cfg(test)]
            looks: 0,
        }
    }
}

impl<T> Rotation<T> {
    pub(super) fn push(&mut self, entry: T) {
        self.waiting.push_back(entry);
    }

    /// Looks at the next few entries, of the present round or of a new one; those for which `stays` does not hold are taken out. Returns whether some are
    /// left of the round: the next turn must come at once.
    pub(super) fn look(&mut self, mut stays: impl FnMut(&T) -> bool) -> bool {
        if self.left == 0 {
            self.left = self.waiting.len();
        }
        let part = self.left.min(CLIENT_LOOKS_LEN_PER_TURN_MAX);
        self.left -= part;
        for _ in 0..part {
            let Some(entry) = self.waiting.pop_front() else { break };
            if stays(&entry) {
                self.waiting.push_back(entry);
            }
        }
        #[cfg(test)]
        {
            self.looks += part;
        }
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_looks_at_each_entry_once_and_a_turn_at_few() {
        let few = CLIENT_LOOKS_LEN_PER_TURN_MAX;
        let mut rotation = Rotation::default();
        (0..2 * few + 1).for_each(|entry| rotation.push(entry));
        let mut seen = Vec::new();
        let mut look = |rotation: &mut Rotation<usize>| {
            let before = rotation.looks;
            let goes_on = rotation.look(|&entry| {
                seen.push(entry);
                entry % 2 == 0
            });
            assert!(rotation.looks - before <= few);
            goes_on
        };
        assert!(look(&mut rotation));
        // One that comes in the middle of a round waits for the next one.
        rotation.push(1000);
        assert!(look(&mut rotation));
        assert!(!look(&mut rotation), "the round is over");
        while look(&mut rotation) {}
        let round: Vec<_> = (0..2 * few + 1).collect();
        let next: Vec<_> = (0..2 * few + 1).filter(|entry| entry % 2 == 0).chain([1000]).collect();
        assert_eq!(seen[..round.len()], round);
        seen[round.len()..].sort_unstable();
        assert_eq!(seen[round.len()..], next);
        assert!(!Rotation::<usize>::default().look(|_| true));
    }
}
