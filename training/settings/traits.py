"""What each method is, a row a method: recipes, checks, stages and the registry read it here.

Imports nothing heavy (see querying/settings.py).  A new method is a row here, a file in `training/methods` and a test.
A method of the user's own, `package.module:Class`, has its row as `Class.traits`; it is imported to read it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from querying.base.errors import UserError
from querying.base.own_code import IMPORT_PATH, load_own

Pool = Literal["nothing", "bought", "pseudo", "own"]
"""What a method learns of the pool: nothing; the images of which something is bought, as they were bought; all images,
by the pseudo-labels of the cycle before; all images, by labels that it makes while it trains."""


@dataclass(frozen=True, slots=True)
class Traits:
    pool: Pool
    implementation: str = ""
    """`module:Class`, a `training.method_parts.method.Method`; imported for a training.  Empty: the user's own."""
    first: str | None = None
    """The method that trains in cycle 0 instead, where nothing is pseudo-labelled or bought yet."""
    later: str | None = None
    """The method that trains in all other cycles instead."""
    cells_in_pool: bool = False
    """Learns bought cells where the pool is; otherwise their images are drawn with the labelled ones, too."""
    mixes: bool = False
    """Pastes pool images into each other, so that each worker needs two of them."""
    divisible: bool = False
    """Its loss is a sum over images but for the number of pixels, which it counts in `MethodContext.whole`, so that a
    step can be computed in parts (`train.micro_batch`)."""
    cycles: int | None = None
    """The only number of cycles that it takes."""
    queries: bool = True
    """May ask for labels between its trainings."""

    @property
    def labels_pool(self) -> bool:
        """Whether it needs no cycle before it: the pool's labels are its own."""
        return self.pool == "own"


# fmt: off
TRAITS: dict[str, Traits] = {
    "supervised": Traits("bought", "training.methods.supervised:Supervised", cells_in_pool=True, divisible=True),
    "self_training": Traits(
        "pseudo", "training.methods.self_training:SelfTraining", first="supervised", cells_in_pool=True,
        divisible=True,
    ),
    "st++": Traits(
        "pseudo", "training.methods.st_plus_plus:STPlusPlus", later="self_training", cells_in_pool=True, cycles=2,
        queries=False, divisible=True,
    ),
    "mean_teacher": Traits("own", "training.methods.mean_teacher:MeanTeacher"),
    "cps": Traits("own", "training.methods.cps:CPS"),
    "unimatch": Traits("own", "training.methods.unimatch:UniMatch", mixes=True),
    "unimatch_v2": Traits("own", "training.methods.unimatch_v2:UniMatchV2", mixes=True),
    "u2pl": Traits("own", "training.methods.u2pl:U2PL", mixes=True),
    "cct": Traits("own", "training.methods.cct:CCT"),
    "ael": Traits("own", "training.methods.ael:AEL", mixes=True),
    "s4al": Traits("own", "training.methods.s4al:S4AL", cells_in_pool=True, mixes=True),
    "equal": Traits("own", "training.methods.equal:EquAL", cells_in_pool=True),
    "deal": Traits("nothing", "training.methods.deal:DEAL"),
}
# fmt: on


def is_method(name: str) -> bool:
    """Whether a recipe may name it so; whether one of the user's own exists is seen when it is loaded."""
    return name in TRAITS or IMPORT_PATH.fullmatch(name) is not None


def traits_of(method: str) -> Traits:
    """The row of a method; UserError where the user's own is not there, or brings none."""
    return TRAITS[method] if method in TRAITS else _own(method)


@cache
def _own(method: str) -> Traits:
    traits = getattr(load_own("train.method", method), "traits", None)
    if not isinstance(traits, Traits):
        raise UserError(f"train.method={method}: has no `traits = Traits(...)` (training/settings/traits.py), its row")
    for name in (traits.first, traits.later):
        if name not in (None, *TRAITS):
            raise UserError(f"train.method={method}: its traits name {name!r}; there are {', '.join(TRAITS)}")
    return traits
