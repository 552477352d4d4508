"""One source's estimator: where true time stands against the raw clock, how fast it runs, and how wrong both may be.

Comes in: measurements of true time minus the raw clock. Goes out: predictions for any raw time. It must never read a clock, and
never be given an invalid sample. docs/explanation/clock-discipline.md explains each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, isfinite, log, sqrt

from tsq.discipline.model import Likelihood, Model, State
from tsq.discipline.route import STAMP, Change, Route, Routes

# The wander w of each model: the standard deviation of the frequency's change in a second.
WANDERS = tuple(10 ** (-10 + step / 2) for step in range(7))
# Oscillators of computers, without correction.
FREQUENCY_SD = 150e-6
# What a model's likelihoods in the past are worth: about the last 100 measurements decide.
_MEMORY = 0.99
_LEAST_WEIGHT = 1e-3
_LEAST_LIKELIHOOD = 1e-300
# Delays are taken for exponential ones (the box) until measurements say otherwise: ln 20.
_BOX_FIRST = 3.0
_LEAST_HALF_WIDTH = 1e-9
# The least delay D is above the least possible one by about this much of M/√n, uncertain by the second.
_LEAST_ABOVE, _LEAST_UNSURE = 0.63, 0.165
# An outlier is as likely at any offset in a span of ten times the largest of h, 10 M and 1 µs on each side.
_OUTLIER_HEIGHT, _OUTLIER_EXCESS, _OUTLIER_LEAST = 0.1, 10.0, 1e-6
# So many conflicts in a row: the state is wrong, not the measurements.
_CONFLICTS = 4
# What the frequency may have changed by then.
_FREQUENCY_CHANGE = 1e-6
# A measurement is impossible for a state if its offset is further away than half its delay and so many standard deviations.
_IMPOSSIBLE_SDS, _IMPOSSIBLE_LEAST = 6.0, 10e-6
# So many impossible measurements that agree, or do not agree with one another.
_AGREEING, _DISAGREEING = 2, 3
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Measurement:
    """One exchange. at_ns: the raw clock, ns. difference_ns: true time minus the raw clock, as measured, ns. delay: seconds."""

    at_ns: int
    difference_ns: int
    delay: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is known at the raw time at_ns. difference_ns: true time minus the raw clock; sd: its standard deviation, seconds.

    frequency: of true time against the raw clock, minus 1; frequency_sd. covariance: of both, seconds. asymmetry: the part of the
    measured offsets that the present route's asymmetry explains, seconds.
    """

    at_ns: int
    difference_ns: int
    sd: float
    frequency: float
    frequency_sd: float
    covariance: float = 0.0
    asymmetry: float = 0.0


class Estimator:
    """The estimator of one source. frequency, frequency_sd: what is known beforehand. weights: of the models of wander."""

    def __init__(self, frequency: float = 0.0, frequency_sd: float = FREQUENCY_SD, weights: tuple[float, ...] = ()) -> None:
        self._frequency, self._frequency_sd = frequency, frequency_sd
        self._models = [Model(wander_squared=w * w, log_weight=part) for w, part in zip(WANDERS, _logs(weights), strict=True)]
        self._weights = [exp(model.log_weight) for model in self._models]
        # The mixture of all models; offsets are relative to _reference_ns, and all of it holds at the raw time _at_ns.
        self._mixture = State()
        self._wander_squared = self._mean_wander_squared()
        self._at_ns = self._reference_ns = 0
        self._routes: Routes | None = None
        # ln (probability of the box / probability of the normal shape).
        self._shape = _BOX_FIRST
        self._conflicts = 0
        self._impossible: list[Measurement] = []
        self._forgotten = False
        # The newest prediction.
        self._predicted: Prediction | None = None

    @property
    def started(self) -> bool:
        """Whether there was a measurement."""
        return self._routes is not None

    @property
    def weights(self) -> tuple[float, ...]:
        """The models' weights."""
        return tuple(self._weights)

    @property
    def wander(self) -> float:
        """The learned wander of the oscillator: the standard deviation of the frequency's change in a second."""
        return sqrt(self._wander_squared)

    @property
    def noise(self) -> float:
        """The standard deviation of one measurement's offset on the present route, seconds (R in the poll rule)."""
        if self._routes is None:
            return STAMP
        route, share = self._routes.present, self._normal_share()
        return max((1 - share) * route.excess / sqrt(12) + share * route.deviation / 2, STAMP)

    @property
    def least_delay(self) -> float:
        """D: the least delay of the present route, seconds; 0 before the first measurement."""
        return self._routes.present.least if self._routes is not None else 0.0

    def add(self, measurement: Measurement) -> None:
        """Use a measurement, which is newer than all before."""
        self._predicted = None
        if self._routes is None:
            self._start(measurement)
            return
        seconds = self._seconds_to(measurement.at_ns)
        self._at_ns = measurement.at_ns
        for model in self._models:
            model.advance(seconds, model.wander_squared)
        self._mixture.advance(seconds, self._wander_squared)
        self._follow_route(self._routes, measurement.delay)
        measured = (measurement.difference_ns - self._reference_ns) * _NS
        if self._forgotten or self._is_torn(measurement, measured):
            self._restart(measured, measurement.delay)
        else:
            self._use(self._routes, measured, measurement.delay)
        self._mix()

    def predict(self, at_ns: int) -> Prediction:
        """The prediction for a raw time that is not before the last measurement. Raises ValueError before the first one."""
        if self._routes is None:
            raise ValueError("there is no measurement")
        if self._predicted is not None and self._predicted.at_ns == at_ns:
            return self._predicted
        state = State()
        state.take(self._mixture)
        state.advance(self._seconds_to(at_ns), self._wander_squared)
        self._predicted = Prediction(
            at_ns,
            self._reference_ns + round(state.offset / _NS),
            sqrt(state.tt),
            state.frequency,
            sqrt(state.ff),
            state.tf,
            state.asymmetry,
        )
        return self._predicted

    def shift(self, seconds: int) -> None:
        """True time was set by whole seconds: a leap second."""
        self._reference_ns += seconds * 1_000_000_000
        self._predicted = None
        self._impossible.clear()

    def forget_offset(self) -> None:
        """The raw clock stood still for an unknown time, as in a suspended machine: the next measurement gives the offset anew."""
        self._forgotten = self.started

    def _seconds_to(self, at_ns: int) -> float:
        if at_ns < self._at_ns:
            raise ValueError(f"the raw time {at_ns} ns is before the last measurement, {self._at_ns} ns")
        return (at_ns - self._at_ns) * _NS

    def _start(self, measurement: Measurement) -> None:
        """θ is the measured offset, anywhere within half the delay; D = d, M = d/4, n = 1."""
        self._at_ns, self._reference_ns = measurement.at_ns, measurement.difference_ns
        self._routes = Routes(measurement.delay)
        for model in self._models:
            model.frequency, model.ff = self._frequency, self._frequency_sd**2
            model.restart(0.0, _first_variance(measurement.delay), 0.0)
        self._mix()

    def _follow_route(self, routes: Routes, delay: float) -> None:
        """Another route may be as asymmetric as its least delay differs: P_bb += ΔD²/12. On the first route b is 0."""
        change, moved = routes.add(delay)
        if change is Change.NONE:
            return
        for state in (*self._models, self._mixture):
            if change is Change.BACK:
                state.drop_asymmetry()
            else:
                state.bb += moved * moved / 12

    def _is_torn(self, measurement: Measurement, measured: float) -> bool:
        """Whether the offset jumped: two measurements agree that it is where it cannot be if the state is right.

        Whatever the route: a right server's offset is wrong by no more than half the delay. Three that do not agree widen P.
        """
        away = measured - self._mixture.offset
        sd = sqrt(self._mixture.tt)
        if abs(away) <= measurement.delay / 2 + _IMPOSSIBLE_SDS * sd + _IMPOSSIBLE_LEAST:
            self._impossible.clear()
            return False
        self._impossible.append(measurement)
        if len(self._impossible) < _AGREEING:
            return False
        before = self._impossible[-2]
        seconds = max((measurement.at_ns - before.at_ns) * _NS, _NS)
        moved = (measurement.difference_ns - before.difference_ns) * _NS - self._mixture.frequency * seconds
        allowed = (measurement.delay + before.delay) / 2 + _IMPOSSIBLE_SDS * sqrt(self._mixture.ff) * seconds + _IMPOSSIBLE_LEAST
        if abs(moved) <= allowed:
            return True
        if len(self._impossible) >= _DISAGREEING:
            self._widen(away, moved / seconds)
            self._impossible.clear()
        return False

    def _restart(self, measured: float, delay: float) -> None:
        for model in self._models:
            model.restart(measured, _first_variance(delay), _FREQUENCY_CHANGE**2)
        self._impossible.clear()
        self._conflicts, self._forgotten = 0, False

    def _widen(self, away: float, frequency: float) -> None:
        """P_θθ += away², P_ff += frequency²."""
        for model in self._models:
            model.tt += away * away
            model.ff += frequency * frequency

    def _use(self, routes: Routes, measured: float, delay: float) -> None:
        """Update every model, and its weight: L <- 0.99 L + ln T."""
        route = routes.present
        half_width = max((delay - route.least + _LEAST_ABOVE * route.spread) / 2, _LEAST_HALF_WIDTH)
        softness = hypot(_LEAST_UNSURE * route.spread, STAMP)
        outlier = _OUTLIER_HEIGHT / (2 * max(half_width, _OUTLIER_EXCESS * route.excess, _OUTLIER_LEAST))
        likelihood = Likelihood(measured, half_width, softness, outlier, _normal_variance(route), self._normal_share())
        against = as_box = as_normal = 0.0
        for model, weight in zip(self._models, self._weights, strict=True):
            weighed = likelihood.weigh(model)
            model.log_weight = _MEMORY * model.log_weight + weighed.logarithm
            as_box += weight * weighed.as_box
            as_normal += weight * weighed.as_normal
            if weighed.conflicts:
                against += weight
        if route.deviation:
            self._shape = _MEMORY * self._shape + log(max(as_box, _LEAST_LIKELIHOOD) / max(as_normal, _LEAST_LIKELIHOOD))
        self._conflicts = self._conflicts + 1 if against > 0.5 else 0
        if self._conflicts >= _CONFLICTS:
            self._widen(measured - self._mixture.offset - self._mixture.asymmetry, _FREQUENCY_CHANGE)
            self._conflicts = 0

    def _normal_share(self) -> float:
        """How probable it is that delays are normally distributed."""
        return 1 / (1 + exp(min(self._shape, 700.0)))

    def _mix(self) -> None:
        """The moment-matched mixture, relative to a reference of whole ns; a model of no weight begins anew from it."""
        most = max(model.log_weight for model in self._models)
        parts = [exp(model.log_weight - most) for model in self._models]
        whole = sum(parts)
        weights = self._weights = [part / whole for part in parts]
        mixture = self._mixture
        mixture.take(_mixed(self._models, weights))
        shift_ns = round(mixture.offset / _NS)
        self._reference_ns += shift_ns
        mixture.offset -= shift_ns * _NS
        least = most + log(_LEAST_WEIGHT)
        for model, weight in zip(self._models, weights, strict=True):
            if weight < _LEAST_WEIGHT:
                model.take(mixture)
                model.log_weight = least
            else:
                model.offset -= shift_ns * _NS
        self._wander_squared = self._mean_wander_squared()

    def _mean_wander_squared(self) -> float:
        return exp(sum(weight * log(model.wander_squared) for model, weight in zip(self._models, self._weights, strict=True)))


def _logs(weights: Sequence[float]) -> list[float]:
    """The logarithms of the weights, each at least the least one; equal weights in place of unusable ones."""
    whole = sum(weights)
    if len(weights) != len(WANDERS) or not isfinite(whole) or whole <= 0 or min(weights) < 0:
        weights, whole = [1.0] * len(WANDERS), float(len(WANDERS))
    return [log(max(weight / whole, _LEAST_WEIGHT)) for weight in weights]


def _normal_variance(route: Route) -> float:
    """Of an offset on a route with normally distributed delays: a quarter of that of the delay, whatever the directions' shares."""
    return route.deviation**2 / 4 + STAMP**2 if route.deviation else 0.0


def _first_variance(delay: float) -> float:
    """Of an offset that may be anywhere within half the delay."""
    return max(delay, STAMP) ** 2 / 12


def _mixed(models: Sequence[State], weights: Sequence[float]) -> State:
    """The mean and the covariance of the mixture: Σ a x, Σ a (P + (x - mean)(x - mean)ᵀ)."""
    t = f = b = 0.0
    for model, a in zip(models, weights, strict=True):
        t += a * model.offset
        f += a * model.frequency
        b += a * model.asymmetry
    tt = tf = tb = ff = fb = bb = 0.0
    for model, a in zip(models, weights, strict=True):
        dt, df, db = model.offset - t, model.frequency - f, model.asymmetry - b
        tt += a * (model.tt + dt * dt)
        tf += a * (model.tf + dt * df)
        tb += a * (model.tb + dt * db)
        ff += a * (model.ff + df * df)
        fb += a * (model.fb + df * db)
        bb += a * (model.bb + db * db)
    return State(t, f, b, tt, tf, tb, ff, fb, bb)
