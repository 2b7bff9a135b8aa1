"""What is no gradient: other bytes than the server asked for, which it must refuse without harm.

Never in here: a vector that could be one.
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kardam.messages import Vector
from workers.attacks.attack import Attack

Form = Literal["any", "short", "long", "empty", "double", "half", "swapped", "mixed"]

FORMS: tuple[Form, ...] = get_args(Form)[1:]


class Malformed(Attack):
    """A number too few (`short`) or too many (`long`), or none (`empty`); numbers of eight bytes
    (`double`) or two (`half`), or with their bytes in the other order (`swapped`); here and there
    NaN and both infinities among honest numbers (`mixed`). By default `any` of these, drawn anew.
    """

    def __init__(self, form: Form = "any") -> None:
        self.forms = FORMS if form == "any" else (form,)

    def spell(self, v: Vector, rng: np.random.Generator) -> NDArray[Any]:
        match self.forms[rng.integers(len(self.forms))]:
            case "short":
                return v[:-1]
            case "long":
                return np.append(v, v[-1:])
            case "empty":
                return v[:0]
            case "double":
                return v.astype(np.float64)
            case "half":
                return v.astype(np.float16)
            case "swapped":
                return v.byteswap()
            case _:  # mixed
                bad = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), v.size)
                good = rng.random(v.size) < 0.9
                good[rng.integers(v.size)] = False
                return np.where(good, v, bad)
