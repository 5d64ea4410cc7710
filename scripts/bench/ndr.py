"""Searches for the rates that a receiver takes: NDR, without loss, and PDR, with as much loss as is allowed.

The search is RFC 2544 §26.1's, narrowed in the way of MLRsearch (draft-ietf-bmwg-mlrsearch): the rate offered is bisected
between the highest that held and the lowest that did not, the trials of one goal serve the other, short trials come first and
longer ones near the end, it is over when the two bounds lie within a width of each other, and the lower bound must hold once
more in a trial of full length before it is a result. One that does not is an upper bound from then on.

Nothing here measures: `trial(rate, seconds)` does, and returns a Trial. So the search is tested without a device.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Trial:
    """What one trial came to. Counts are of frames, messages or handshakes."""

    rate: float
    seconds: float
    #: What the rate asked for.
    intended: int
    #: What the generator offered to the device in time (RFC 2285 §3.5.2).
    offered: int
    #: What the receiver counted.
    received: int

    @property
    def loss(self):
        """The share of what was offered that did not arrive."""
        return max(0, self.offered - self.received) / self.offered if self.offered else 1.0

    def reached(self, tolerance):
        """Whether the generator offered what it was to offer: a trial where it did not says nothing good of the receiver."""
        return self.offered >= self.intended * (1 - tolerance)


class Goal:
    """One kind of rate, and the trials that bound it."""

    def __init__(self, name, loss, tolerance, length):
        self.name, self.loss, self.tolerance = name, loss, tolerance
        #: How long a trial must be to say that a rate holds, seconds. Longer once a short one has said so wrongly.
        self.length = length
        self.held, self.failed = [], []

    def learn(self, trial):
        held = trial.loss <= self.loss and trial.reached(self.tolerance)
        (self.held if held else self.failed).append(trial)
        if not held and trial.rate <= max(
            (short.rate for short in self.held if short.seconds < trial.seconds), default=0
        ):
            self.length = max(self.length, trial.seconds)

    @property
    def upper(self):
        """The lowest rate that failed, in a trial of any length; None if none did."""
        return min((trial.rate for trial in self.failed), default=None)

    @property
    def lower(self):
        """The highest rate below it that held for long enough; 0 if none did."""
        below = float("inf") if self.upper is None else self.upper
        return max((t.rate for t in self.held if t.rate < below and t.seconds >= self.length), default=0.0)

    def confirmed(self, seconds):
        """Whether the lower bound held in a trial of full length."""
        return any(trial.rate == self.lower and trial.seconds >= seconds for trial in self.held)

    def next(self, ceiling, seconds, width, least):
        """The next trial's rate and length; None when the search for this goal is over."""
        upper, lower = self.upper, self.lower
        if upper is None and lower < ceiling:
            return ceiling, self.length
        if upper is not None and upper > least and upper - lower > width * upper:
            return (lower + upper) / 2, self.length
        return None if lower == 0 or self.confirmed(seconds) else (lower, seconds)

    def bound_by_generator(self):
        """Whether the receiver may take more than was found: nothing failed, or the generator did."""
        return all(not trial.reached(self.tolerance) for trial in self.failed if trial.rate == self.upper)


def search(
    trial, ceiling, seconds=5.0, short=1.0, width=0.05, least=None, pdr_loss=0.005, tolerance=0.01, trials_max=60
):
    """Finds NDR and PDR below `ceiling`, the highest rate worth asking for.

    trial: measures; takes a rate and seconds, returns a Trial.
    seconds, short: of a full trial and of one that only narrows.
    width: how far the bounds may be apart at the end, as a share of the upper one.
    least: below this rate the search gives up; a ten-thousandth of the ceiling where none is given.
    pdr_loss: the share of frames that PDR may lose.
    tolerance: the share of what is intended that the generator may fail to offer.
    trials_max: bounds the search.

    Returns a dict: ndr and pdr, each the rate that held for `seconds` or None; for each whether it was the ceiling or the
    generator and not the receiver that ended it; all trials in their order; and what the search was asked.
    """
    if not (ceiling > 0 and 0 < width < 1 and 0 < short <= seconds and 0 <= pdr_loss < 1):
        raise ValueError("a search needs a ceiling, a width below 1 and trials of some length")
    least = ceiling / 10_000 if least is None else least
    # The looser goal first: its trials narrow the stricter one.
    goals = [Goal("pdr", pdr_loss, tolerance, short), Goal("ndr", 0.0, tolerance, short)]
    trials = []
    # What the stricter goal needs may take back what the looser one had found: both are looked at until neither wants more.
    while len(trials) < trials_max:
        wanted = next((step for goal in goals if (step := goal.next(ceiling, seconds, width, least))), None)
        if wanted is None:
            break
        trials.append(trial(*wanted))
        for goal in goals:
            goal.learn(trials[-1])
    result = {goal.name: goal.lower if goal.lower and goal.confirmed(seconds) else None for goal in goals}
    return {
        **result,
        **{f"{goal.name}_generator_bound": goal.bound_by_generator() for goal in goals},
        "pdr_loss": pdr_loss,
        "trial_seconds": seconds,
        "short_trial_seconds": short,
        "width": width,
        "ceiling": ceiling,
        "exhausted": len(trials) >= trials_max,
        "trials": [{**asdict(result), "loss": result.loss} for result in trials],
    }
