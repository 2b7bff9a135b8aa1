"""What a Byzantine worker does instead, and what it must know for that. An attack knows no socket,
no server and no clock.

Attacks compose: `sign_flip:scale=10+flood:rho=10+late:after=200` lies in the vector and in time,
from its 200th answer on. Adding one is a class in one of the files beside this and a line in the
table; a user's own is named by its import path.
"""

from collections.abc import Callable, Mapping

from workers.attacks.adaptive import Adaptive, HiddenVulnerability, RadiusWalk, ReferenceCapture
from workers.attacks.attack import Attack, Chain, Knows
from workers.attacks.collusion import Alie, InnerProduct, Mimic, MinMax, MinSum
from workers.attacks.directed import FangKrum, FangTrimmedMean
from workers.attacks.malformed import Malformed
from workers.attacks.stale import Replay, VersionLie
from workers.attacks.timing import Burst, Flood, Late, Silent, Stops, Timed
from workers.attacks.vectors import (
    BitFlip,
    Constant,
    Decoy,
    Gaussian,
    HonestPlusConstant,
    LabelFlip,
    LyingGrowth,
    MalformedInputs,
    Nan,
    PartialDrop,
    RandomDisturbance,
    SignFlip,
    SlowDrift,
    Whisper,
    Zero,
)

__all__ = ["ATTACKS", "Attack", "Chain", "Knows"]

# A factory may ask, by parameter name, for the run's `seed`, for its place at the `board`, and for
# `sight`, which there is in a simulation only.
ATTACKS: Mapping[str, Callable[..., Attack]] = {
    "honest": Attack,
    "sign_flip": SignFlip,
    "constant": Constant,
    "honest_plus_constant": HonestPlusConstant,
    "gaussian": Gaussian,
    "zero": Zero,
    "nan": Nan,
    "label_flip": LabelFlip,
    "malformed_inputs": MalformedInputs,
    "malformed": Malformed,
    "lying_growth": LyingGrowth,
    "decoy": Decoy,
    "whisper": Whisper,
    "bit_flip": BitFlip,
    "partial_drop": PartialDrop,
    "random_disturbance": RandomDisturbance,
    "slow_drift": SlowDrift,
    "alie": Alie,
    "ipm": InnerProduct,
    "min_max": MinMax,
    "min_sum": MinSum,
    "mimic": Mimic,
    "fang_krum": FangKrum,
    "fang_trimmed_mean": FangTrimmedMean,
    "hidden_vulnerability": HiddenVulnerability,
    "radius_walk": RadiusWalk,
    "reference_capture": ReferenceCapture,
    "adaptive": Adaptive,
    "version_lie": VersionLie,
    "replay": Replay,
    "flood": Flood,
    "burst": Burst,
    "silent": Silent,
    "timed": Timed,
    "late": Late,
    "stops": Stops,
}
