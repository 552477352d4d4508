"""One model of the raw clock: how far it is from true time, how its frequency wanders, and what a measurement says about it.

Comes in: seconds that pass, and measurements' likelihoods. Goes out: the state (θ, f, b) and its covariance P, in the letters of
docs/explanation/clock-discipline.md. It must never hold a large number: θ is relative to a reference that the estimator keeps.
"""

from dataclasses import dataclass
from math import log, sqrt
from typing import NamedTuple

from tsq.discipline.normal import between, density

# A measurement is an outlier, as likely at any offset, with this probability.
OUTLIER = 0.01
# One update may reduce the variance of the measured sum θ + b to this part at the least.
_LEAST_REMAINDER = 1e-6
_LEAST_VARIANCE = 1e-26
_LEAST_LIKELIHOOD = 1e-300
# A box that is this much narrower than the softness of its edges is a point.
_POINT = 1e-4
# An outlier's span is at least 10 s on each side.
_SPANS = 1 / 20


@dataclass(slots=True)
class State:
    """θ (`offset`): true time minus the raw clock minus the reference, seconds; f (`frequency`): its rate.

    b (`asymmetry`): what the asymmetry of the present route adds to measured offsets, seconds.

    P: tt, tf, tb, ff, fb, bb are the variances and covariances of θ (t), f and b.
    """

    offset: float = 0.0
    frequency: float = 0.0
    asymmetry: float = 0.0
    tt: float = 0.0
    tf: float = 0.0
    tb: float = 0.0
    ff: float = 0.0
    fb: float = 0.0
    bb: float = 0.0

    def take(self, other: "State") -> None:
        """Become a copy of another state."""
        self.offset, self.frequency, self.asymmetry = other.offset, other.frequency, other.asymmetry
        self.tt, self.tf, self.tb = other.tt, other.tf, other.tb
        self.ff, self.fb, self.bb = other.ff, other.fb, other.bb

    def advance(self, seconds: float, wander_squared: float) -> None:
        """Let time pass: θ += f t, P <- F P Fᵀ + w² [[t³/3, t²/2], [t²/2, t]] on (θ, f)."""
        t, q, tf, ff = seconds, wander_squared, self.tf, self.ff
        self.offset += self.frequency * t
        # Rounding may leave a covariance that is a little too large.
        self.tt = max(self.tt + t * (2 * tf + t * (ff + q * t / 3)), _LEAST_VARIANCE)
        self.tf = tf + t * (ff + 0.5 * q * t)
        self.tb += t * self.fb
        self.ff = ff + q * t

    def update(self, slope: float, curvature: float) -> None:
        """Use a measurement of θ + b: x += k G, P += k kᵀ K, where G and K are the derivatives of ln T by θ + b."""
        kt, kf, kb = self.tt + self.tb, self.tf + self.fb, self.tb + self.bb
        variance = max(kt + kb, _LEAST_VARIANCE)
        if 1 + variance * curvature < _LEAST_REMAINDER:
            curvature = (_LEAST_REMAINDER - 1) / variance
        self.offset += kt * slope
        self.frequency += kf * slope
        self.asymmetry += kb * slope
        self.tt = max(self.tt + kt * kt * curvature, _LEAST_VARIANCE)
        self.tf += kt * kf * curvature
        self.tb += kt * kb * curvature
        self.ff = max(self.ff + kf * kf * curvature, 0.0)
        self.fb += kf * kb * curvature
        self.bb = max(self.bb + kb * kb * curvature, 0.0)

    def restart(self, offset: float, variance: float, frequency_variance: float) -> None:
        """Forget θ for a measured value of θ + b; f keeps its value with the variance added, b and its variance stay."""
        self.offset = offset - self.asymmetry
        self.tt, self.tf, self.tb = variance + self.bb, 0.0, -self.bb
        self.ff, self.fb = self.ff + frequency_variance, 0.0

    def drop_asymmetry(self) -> None:
        """The route whose b is 0 is back."""
        self.asymmetry = self.tb = self.fb = self.bb = 0.0


@dataclass(slots=True)
class Model(State):
    """A state under one assumption. wander_squared: w², the variance of the frequency's change in a second. log_weight: L."""

    wander_squared: float = 1e-18
    log_weight: float = 0.0


class Weighed(NamedTuple):
    """logarithm: ln T. conflicts: the measurement is rather an outlier. as_box, as_normal: T under each shape of delays."""

    logarithm: float
    conflicts: bool
    as_box: float
    as_normal: float


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a measurement says, in seconds: z (`measured`) under two shapes of delays.

    half_width: h; softness: s0, of the edges of the box. normal_variance: r², of offsets whose delays are normally distributed, 0:
    unknown; normal_share: how probable that shape is. outlier: p0.
    """

    measured: float
    half_width: float
    softness: float
    outlier: float
    normal_variance: float = 0.0
    normal_share: float = 0.0

    def weigh(self, model: Model) -> Weighed:
        """Update the model.

        p = [Φ(α) - Φ(β)] / 2h, α = (y - z + h)/s, β = (y - z - h)/s; g = the density of y - z with the variance S + r²;
        p and g are mixed by their shares; T = 0.99 p + 0.01 p0; G = T'/T, K = T''/T - G².
        """
        away = model.offset + model.asymmetry - self.measured
        variance = max(model.tt + 2 * model.tb + model.bb, _LEAST_VARIANCE)
        s = sqrt(variance + self.softness * self.softness)
        as_box, first, second = box(away, self.half_width, s)
        p, as_normal = as_box, 0.0
        if self.normal_variance:
            share = self.normal_share
            as_normal, slope, bend = point(away, sqrt(variance + self.normal_variance))
            p += share * (as_normal - p)
            first += share * (slope - first)
            second += share * (bend - second)
        # An outlier is never likelier than a state as uncertain as this one can make an honest measurement.
        inside, outside = (1 - OUTLIER) * p, OUTLIER * min(self.outlier, _SPANS / s)
        total = max(inside + outside, _LEAST_LIKELIHOOD)
        slope = (1 - OUTLIER) * first / total
        model.update(slope, (1 - OUTLIER) * second / total - slope * slope)
        return Weighed(log(total), inside < outside, (1 - OUTLIER) * as_box + outside, (1 - OUTLIER) * as_normal + outside)


def box(away: float, half_width: float, s: float) -> tuple[float, float, float]:
    """p(away) of a uniform distribution over ± half_width plus a normal one with the standard deviation s, and p', p''."""
    if half_width < _POINT * s:
        return point(away, s)
    alpha, beta = (away + half_width) / s, (away - half_width) / s
    at_alpha, at_beta, height = density(alpha), density(beta), 0.5 / half_width
    p = between(beta, alpha) * height
    return p, (at_alpha - at_beta) * height / s, (beta * at_beta - alpha * at_alpha) * height / (s * s)


def point(away: float, s: float) -> tuple[float, float, float]:
    """p(away) of a normal distribution with the standard deviation s, and p', p''."""
    x = away / s
    p = density(x) / s
    return p, -x * p / s, (x * x - 1) * p / (s * s)
