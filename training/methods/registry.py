"""All methods by the name that a recipe uses (`train.method`)."""

from training.methods.ael import AEL
from training.methods.cct import CCT
from training.methods.cps import CPS
from training.methods.deal import DEAL
from training.methods.equal import EquAL
from training.methods.mean_teacher import MeanTeacher
from training.methods.method import Method
from training.methods.s4al import S4AL
from training.methods.self_training import SelfTraining
from training.methods.st_plus_plus import STPlusPlus
from training.methods.supervised import Supervised
from training.methods.u2pl import U2PL
from training.methods.unimatch import UniMatch

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "self_training": SelfTraining,
    "st++": STPlusPlus,
    "mean_teacher": MeanTeacher,
    "cps": CPS,
    "unimatch": UniMatch,
    "u2pl": U2PL,
    "cct": CCT,
    "ael": AEL,
    "s4al": S4AL,
    "equal": EquAL,
    "deal": DEAL,
}
