"""What each method is, a row a method: recipes, checks, stages and the registry read it here.

Imports nothing heavy (see querying/settings.py).  A new method is a row here, a file in `training/methods` and a test.
"""

from dataclasses import dataclass
from typing import Literal

Pool = Literal["nothing", "bought", "pseudo", "own"]
"""What a method learns of the pool: nothing; the images of which something is bought, as they were bought; all images,
by the pseudo-labels of the cycle before; all images, by labels that it makes while it trains."""


@dataclass(frozen=True, slots=True)
class Traits:
    implementation: str
    """`module:Class`, a `training.methods.method.Method`; imported when something is trained."""
    pool: Pool
    first: str | None = None
    """The method that trains in cycle 0 instead, where nothing is pseudo-labelled or bought yet."""
    later: str | None = None
    """The method that trains in all other cycles instead."""
    cells_in_pool: bool = False
    """Learns bought cells where the pool is; otherwise their images are drawn with the labelled ones, too."""
    mixes: bool = False
    """Pastes pool images into each other, so that each worker needs two of them."""
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
    "supervised": Traits("training.methods.supervised:Supervised", "bought", cells_in_pool=True),
    "self_training": Traits(
        "training.methods.self_training:SelfTraining", "pseudo", first="supervised", cells_in_pool=True,
    ),
    "st++": Traits(
        "training.methods.st_plus_plus:STPlusPlus", "pseudo", later="self_training", cells_in_pool=True, cycles=2,
        queries=False,
    ),
    "mean_teacher": Traits("training.methods.mean_teacher:MeanTeacher", "own"),
    "cps": Traits("training.methods.cps:CPS", "own"),
    "unimatch": Traits("training.methods.unimatch:UniMatch", "own", mixes=True),
    "u2pl": Traits("training.methods.u2pl:U2PL", "own", mixes=True),
    "cct": Traits("training.methods.cct:CCT", "own"),
    "ael": Traits("training.methods.ael:AEL", "own", mixes=True),
    "s4al": Traits("training.methods.s4al:S4AL", "own", cells_in_pool=True, mixes=True),
    "equal": Traits("training.methods.equal:EquAL", "own", cells_in_pool=True),
    "deal": Traits("training.methods.deal:DEAL", "nothing"),
}
# fmt: on
