"""Evidence: is a Ratio really past its limit, or is it noise?

The one-sample and the two-sample test of docs/statistics.md (Ratios and Deadline), and the
sign test of a Gauge's blocks, an e-process on counts: whatever the number of looks, a healthy rollout
reaches `clauses / alpha` with a probability of at most alpha / clauses a clause (Ville's
inequality; Lindon & Malek, arXiv 2011.03567). Logarithms are natural.

A look without units is no look: it changes nothing, not even the observed time. What was
not seen can't spend weight, nor count towards the looks that `settle` demands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Times the limit: the rates that the limit is tested against.
GRID = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
# Of a sign test: chances that a block is worse, each tested against one half.
SIGN_GRID = (0.6, 0.7, 0.8, 0.9, 0.95)
# At this evidence the rollout holds and says so; below it again, the hold is released.
HOLD_AT = 20.0
# Evidence of less than this breaches no clause: C / alpha is more, whatever they are.
THRESHOLD_MIN = 1.0
# Looks with units that a run needs before the deadline may act on it.
RUN_LOOKS_MIN = 30
# A look of nothing but failures counts at most this many times what the limit expects.
EVENTS_CAP = 20.0

# How the one budget is split; 0.5 + 0.4 + 0.1 = 1.
_SHARE_OF_RAISES = 0.5
_SHARE_OF_BAKES = 0.4
_SHARE_AFTERWARDS = 0.1
# The test expects at least this many looks, or a short plan would spend 0.4 on a handful of them.
_BAKES_LOOKS_MIN = 100
# By how much evidence may grow over `lookback` looks.
_SETTLE_GROWTH = math.exp(10.0)
# Evidence stops at this many thresholds, so that it comes down again soon after the harm is over.
_CEILING_THRESHOLDS = 10.0
# math.exp raises above 709; a product with exp(700) is past every ceiling anyway.
_EXPONENT_MAX = 700.0
_NOTHING = (0.0,) * len(GRID)


# Without slots, which leave no place for what is cached.
@dataclass(frozen=True)
class Test:
    """One clause's test for one attempt, made once from the plan.

    `limit` is a fraction of units, or None for a clause that is relative to something
    measured: its limit comes with each look. A clause `below: 80%` is tested on its
    complement: non-events against (100 - 80) / 100. Written so, and not as 1 - 0.8, a look
    that is exactly at the limit is not past it.
    """

    # Not a class of tests, whatever its name makes pytest think.
    __test__ = False

    limit: float | None
    clauses: int  # those whose row lowers exposure
    alpha: float  # the chance that a healthy rollout is ever reverted
    flag_stages: int  # stages of the plan with flags
    bakes_s: float  # the sum of the bakes
    interval_s: float
    settle_s: float  # 0: one look may be enough at any time
    dispersion: float  # 1: independent failures; more: they come in bursts

    def __post_init__(self) -> None:
        if self.limit is not None and not 0 < self.limit < 1:
            raise ValueError(f"limit is {self.limit}: it must be between 0 and 1, both excluded")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}: it must be between 0 and 1, both excluded")
        if self.clauses < 1 or self.interval_s <= 0 or self.settle_s < 0 or self.dispersion < 1:
            raise ValueError(f"{self}: clauses and dispersion are at least 1, interval_s is more than 0")

    @cached_property
    def lookback(self) -> int:
        """L, in looks."""
        # Rounded, because 2.1 / 0.3 is a little more than 7.
        return math.ceil(round(self.settle_s / self.interval_s, 9)) + 1

    @cached_property
    def threshold(self) -> float:
        """C / alpha: evidence of this much is conclusive."""
        return self.clauses / self.alpha

    def weight(self, observed_s: float) -> float:
        """The weight w of a look that follows `observed_s` seconds of looks.

        Even over the bakes (0.4 in all), then falling as 1 / t^2 (0.1 in all). The first
        part ends with the last look that lies wholly in it; with one more, the weights of
        an attempt would sum to more than 1.
        """
        bakes_s = max(self.bakes_s, _BAKES_LOOKS_MIN * self.interval_s)
        end_s = observed_s + self.interval_s
        if end_s <= bakes_s:
            return _SHARE_OF_BAKES * self.interval_s / bakes_s
        return _SHARE_AFTERWARDS * bakes_s * (1 / observed_s - 1 / end_s)

    def weight_of_raise(self, raises: int) -> float:
        """The weight of the next raise after so many: 0.5 / S each, nothing for those that the plan does not have."""
        return _SHARE_OF_RAISES / self.flag_stages if raises < self.flag_stages else 0.0


# Asked for at every look, always of the same numbers.
made_test = lru_cache(maxsize=1024)(Test)


class Arm(NamedTuple):
    """The users of one arm in a look: with the flags, or without them."""

    events: float
    units: float

    @property
    def rate(self) -> float:
        return self.events / self.units


@dataclass(frozen=True, slots=True)
class Run:
    """The unbroken run of looks past the limit, up to the newest look."""

    onset: datetime  # start of the window of its first look
    looks_with_units: int
    log_sums: tuple[float, ...]  # the sum of its l_r / dispersion, one for each of GRID

    @property
    def log_value(self) -> float:
        """ln E_run."""
        return log_mean_exp(self.log_sums)

    def to_json(self) -> dict[str, Any]:
        return {
            "onset": self.onset.isoformat(),
            "looksWithUnits": self.looks_with_units,
            "logSums": list(self.log_sums),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        return cls(datetime.fromisoformat(data["onset"]), data["looksWithUnits"], _floats(data["logSums"]))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the looks of one clause say against its limit.

    `remembered` holds the mixtures of the at most L - 1 looks before the newest, oldest
    first, and never reaches behind the start of the stage: until L looks were made in it,
    "L looks ago" is its start.
    """

    mixture: tuple[float, ...] = _NOTHING  # M_r, one for each of GRID, or of SIGN_GRID
    remembered: tuple[tuple[float, ...], ...] = ()
    observed_s: float = 0.0
    raises: int = 0
    run: Run | None = None
    is_vetoed: bool = False  # the run past the limit was seen in the control arm too
    # E, the mean of the M_r; kept, because each look is asked for it many times.
    value: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", sum(self.mixture) / len(self.mixture))

    @classmethod
    def of_signs(cls) -> Evidence:
        """No evidence, of a sign test."""
        return cls((0.0,) * len(SIGN_GRID))

    @property
    def _nothing(self) -> tuple[float, ...]:
        return (0.0,) * len(self.mixture)

    @property
    def log_value(self) -> float:
        """ln E; minus infinity for no evidence at all, which is not JSON."""
        value = self.value
        return math.log(value) if value > 0 else -math.inf

    @property
    def holds(self) -> bool:
        """Whether there is enough against the rollout to keep it from advancing."""
        return self.value >= HOLD_AT

    def conclusive(self, test: Test) -> bool:
        """Whether the clause is breached."""
        return self.value >= test.threshold

    def overdue(self, test: Test, respond_within: timedelta, now: datetime) -> bool:
        """Whether the deadline is there and the run alone is proof enough to act on.

        A deadline of zero means the first conclusive look and nothing else.
        """
        return (
            self.run is not None
            and respond_within > timedelta(0)
            and now >= self.run.onset + respond_within
            and self.run.looks_with_units >= RUN_LOOKS_MIN
            and self.run.log_value >= math.log(test.threshold)
        )

    def raised(self, test: Test) -> Evidence:
        """After a stage raised exposure: harm from here on is found soonest.

        The run goes on, since the deadline counts from the onset of the breach.
        """
        weight = test.weight_of_raise(self.raises)
        return replace(self, mixture=(weight,) * len(self.mixture), remembered=(), raises=self.raises + 1)

    def reset(self) -> Evidence:
        """After an edit of the clause: nothing is left but the time and the raises, whose weight is spent."""
        return replace(self, mixture=self._nothing, remembered=(), run=None, is_vetoed=False)

    def looked(
        self, test: Test, events: float, units: float, window_start: datetime, limit: float | None = None
    ) -> Evidence:
        """After a look of `events` bad things among `units` chances, against the test's limit or this look's own.

        Raises ValueError for numbers that are no counts: they are an Error of the metric,
        which its source has to tell. More events than units (Prometheus extrapolates) count
        as units.
        """
        _check_counts(events, units)
        limit = test.limit if limit is None else limit
        if limit is None:
            raise ValueError("a clause that is relative needs a limit for each look")
        if units == 0:
            return self
        # A quotient is rounded correctly, a product with the limit is not: 29 of 100 is not past 29 %.
        return self._after(test, log_likelihood_ratios(limit, events, units), events / units > limit, window_start)

    def compared(self, test: Test, tolerance: float, tried: Arm, against: Arm, window_start: datetime) -> Evidence:
        """After a look at two arms: is the rate of `tried` more than `tolerance` times that of `against`?

        Raises ValueError for numbers that are no counts. With an empty arm it is no look.
        """
        _check_counts(*tried)
        _check_counts(*against)
        if tried.units == 0 or against.units == 0:
            return self
        ratios = two_sample_ratios(tolerance, tried, against)
        return self._after(test, ratios, tried.rate > tolerance * against.rate, window_start)

    def signed(self, test: Test, window_start: datetime, *, is_worse: bool) -> Evidence:
        """After a block that was worse than it may be, or better. Only for what `of_signs` began."""
        return self._after(test, sign_ratios(is_worse=is_worse), is_worse, window_start)

    def vetoed(self) -> Evidence:
        """After the control arm has shown that it is not the rollout's doing.

        The run goes on, because the deadline still binds; with its end the veto is over.
        """
        return replace(self, mixture=self._nothing, remembered=(), is_vetoed=True)

    def _after(self, test: Test, ratios: tuple[float, ...], is_past: bool, window_start: datetime) -> Evidence:
        ratios = tuple([ratio / test.dispersion for ratio in ratios])
        lookback = test.lookback
        window = (*self.remembered, self.mixture)[-lookback:]
        return Evidence(
            _mixed(test, self.mixture, window[0], ratios, test.weight(self.observed_s)),
            window[1:] if len(window) == lookback else window,
            self.observed_s + test.interval_s,
            self.raises,
            _extended(self.run, ratios, window_start) if is_past else None,
            is_vetoed=self.is_vetoed and is_past,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object of finite numbers, from which exactly this evidence is read again."""
        return {
            "mixture": list(self.mixture),
            "remembered": [list(mixture) for mixture in self.remembered],
            "observedSeconds": self.observed_s,
            "raises": self.raises,
            "run": self.run.to_json() if self.run else None,
            "vetoed": self.is_vetoed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evidence:
        return cls(
            _floats(data["mixture"]),
            tuple(_floats(mixture) for mixture in data["remembered"]),
            float(data["observedSeconds"]),
            data["raises"],
            Run.from_json(data["run"]) if data["run"] else None,
            # Not there in what an earlier version has stored.
            data.get("vetoed", False),
        )


def log_likelihood_ratios(limit: float, events: float, units: float) -> tuple[float, ...]:
    """l_r of a look against a limit, before dispersion: one for each of GRID.

    At most 20 times the events that the limit expects are counted (but always one), the
    rest as good, so that a look of nothing but failures is not proof of everything.
    """
    bad = min(events, units, max(1.0, EVENTS_CAP * limit * units))
    good = units - bad
    return tuple([bad * of_bad + good * of_good for of_bad, of_good in _log_ratios(limit)])


def two_sample_ratios(tolerance: float, tried: Arm, against: Arm) -> tuple[float, ...]:
    """l_r of a look at two arms with units, before dispersion: one for each of GRID.

    Given how many events there were in both, the share of `tried` in them is tested: it is
    t0 when its rate is just `tolerance` times that of `against`, and t1 when it is r times more.
    """
    ratios = []
    for ratio in GRID:
        # ln(t1 / t0) and ln((1 - t1) / (1 - t0)), of t = rho * nt / (rho * nt + nc).
        share = tolerance * tried.units / (tolerance * tried.units + against.units)
        of_others = -math.log1p(share * (ratio - 1))
        ratios.append(tried.events * (math.log(ratio) + of_others) + against.events * of_others)
    return tuple(ratios)


def sign_ratios(*, is_worse: bool) -> tuple[float, ...]:
    """l_p of a block of a sign test, one for each of SIGN_GRID: ln(2p) when it is worse, else ln(2(1 - p)).

    A block that may as well be worse as better is what they are tested against.
    """
    return tuple([math.log(2 * p if is_worse else 2 * (1 - p)) for p in SIGN_GRID])


def log_mean_exp(logs: tuple[float, ...]) -> float:
    """ln of the mean of exp(logs), whatever their size."""
    highest = max(logs)
    if highest == -math.inf:
        return highest
    return highest + math.log(sum(math.exp(log - highest) for log in logs) / len(logs))


def default_dispersion(counts_users: bool) -> float:
    """Dispersion without a reference to estimate it from; distinct users don't retry in bursts."""
    return 1.0 if counts_users else 10.0


@lru_cache(maxsize=1024)
def _log_ratios(limit: float) -> tuple[tuple[float, float], ...]:
    """For each of GRID, what one bad and one good unit say: ln(p1 / p0), ln((1 - p1) / (1 - p0))."""
    alternatives = [min(ratio * limit, (1 + limit) / 2) for ratio in GRID]
    return tuple((math.log(p1 / limit), math.log((1 - p1) / (1 - limit))) for p1 in alternatives)


def _mixed(
    test: Test, mixture: tuple[float, ...], past: tuple[float, ...], ratios: tuple[float, ...], weight: float
) -> tuple[float, ...]:
    """M_r after a look, of M_r before it and L looks ago."""
    ceiling = _CEILING_THRESHOLDS * test.threshold
    grown = [(m + weight) * math.exp(min(ratio, _EXPONENT_MAX)) for m, ratio in zip(mixture, ratios, strict=True)]
    if test.settle_s > 0:
        return tuple([min(m, _SETTLE_GROWTH * (then + weight), ceiling) for m, then in zip(grown, past, strict=True)])
    return tuple([min(m, ceiling) for m in grown])


def _check_counts(events: float, units: float) -> None:
    if not (0 <= events < math.inf and 0 <= units < math.inf):
        raise ValueError(f"{events} events of {units} units is no look")


def _extended(run: Run | None, ratios: tuple[float, ...], window_start: datetime) -> Run:
    if run is None:
        return Run(window_start, 1, ratios)
    sums = tuple([total + ratio for total, ratio in zip(run.log_sums, ratios, strict=True)])
    return Run(run.onset, run.looks_with_units + 1, sums)


def _floats(numbers: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)
