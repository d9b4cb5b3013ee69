"""The configuration of a run: one validated, frozen tree; YAML in and out; `key=value` overrides."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from orchestrator.recipe.older_recipes import as_it_was
from orchestrator.recipe.strict_yaml import MAX_YAML_BYTES, parse_yaml
from querying.base.errors import UserError
from querying.settings import DIFFICULTY_NAMES, QuerySettings, Settings
from training.settings.methods import MethodSettings, check_method, check_network, check_parts
from training.settings.training import (
    AugmentSettings,
    EvaluateSettings,
    ModelSettings,
    ReCoSettings,
    TeacherSettings,
    TrainSettings,
    one_word,
)
from training.settings.traits import traits_of

OTHER_WORDS = {"model.encoder": "model.backbone"}
"""Keys that have another word: that word -> the key's name in a recipe that is written in full."""


class DataSettings(Settings):
    dataset: str | None = None
    """Name of the data set that the recipe is made for; None admits any."""
    size: tuple[int, int] | None = None
    """Height and width that the recipe expects; None admits any."""
    evaluate_on: str = "test"
    """Split for the reported mIoU.  Nothing is ever chosen on it: the last checkpoint counts."""


class InitialSettings(Settings):
    fraction: float = Field(0.1, gt=0, le=1)
    """Share of the train images that are labelled whole before cycle 0."""
    images: int | None = Field(None, ge=1)
    """An explicit number of images instead."""
    list: str | None = None
    """The images themselves instead: a list that comes along (`cityscapes/u2pl/1_8`), or a file with a name a line."""
    cover: bool = False
    """Draw images so that every class is in one of them; the truth of all train images is read for it."""


class RunConfig(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=100)
    """The recipe's name, also that of the default run folder and of the experiment in MLflow."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of every draw: first images, first weights, batches, augmentation."""
    cycles: int = Field(1, ge=0, le=999)
    """Queries to make; the run trains cycles + 1 times."""
    budget: float | None = Field(None, gt=0, le=1)
    """Share of all train pixels that may be bought, the initial images included."""
    stop_at: float | None = Field(None, gt=0, le=1)
    """Stop when mIoU reaches this share of the fully supervised mIoU (needs `reference`).

    Both are measured on `data.evaluate_on`: where that is the test split, the number of cycles was chosen on it.
    """
    annotator: Literal["simulated", "human"] = "simulated"
    """Who answers the queries: the masks that came with the data, or people, for whom the run waits (exit status 3).
    The masks of the first images come with the data in either case."""
    reference: bool = False
    """Also train on all labels, with the same code and the schedule of the last cycle."""
    data: DataSettings = DataSettings()
    initial: InitialSettings = InitialSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    teacher: TeacherSettings = TeacherSettings()
    reco: ReCoSettings = ReCoSettings()
    augment: AugmentSettings = AugmentSettings()
    methods: MethodSettings = MethodSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    query: QuerySettings = QuerySettings()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.stop_at is not None and not self.reference:
            raise ValueError("stop_at needs reference=true: there is nothing to compare with")
        for cycle in {0, 1} if self.cycles else {0}:
            train = self.train_at(cycle, last=False)
            for key in ("batch_size", "batch_size_unlabelled"):
                if getattr(train, key) % train.workers:
                    raise ValueError(f"train.{key}={getattr(train, key)} is not divisible by {train.workers} workers")
            # Supervised training has no pool where a query buys nothing, or the last cell of every image asked about.
            pool = 0 if traits_of(train.method).pool == "bought" else train.batch_size_unlabelled
            if (train.batch_size + pool) // train.workers < 2:
                raise ValueError("a worker needs at least 2 images per step (BatchNorm of the image pool)")
            check_parts(train, self.model, self.reco, (train.batch_size + pool) // train.workers)
        in_pool = self.cycles and self.query.buys_parts and traits_of(self.train.method).pool in ("bought", "pseudo")
        if in_pool and not self.train.batch_size_unlabelled:
            raise ValueError("train.batch_size_unlabelled=0 would leave the bought cells out of the training")
        if self.evaluate.best_on_val and not self.train.validate_epochs:
            raise ValueError("evaluate.best_on_val=true needs train.validate_epochs: how often to look")
        if self.query.acquisition == "bald" and not (self.model.dropout or self.model.drop_path):
            raise ValueError("query.acquisition=bald needs model.dropout above 0: its passes would all be the same")
        asks = self.cycles and self.query.asked  # not so the fully supervised reference of a run
        if asks and self.query.acquisition in DIFFICULTY_NAMES and self.train.method != "deal":
            raise ValueError(f"query.acquisition={self.query.acquisition} needs train.method=deal, whose branch it is")
        if self.annotator == "human" and asks and self.query.region_size == 1:
            raise ValueError("annotator=human with query.region_size=1: nobody can label single pixels in a frame")
        check_method(self.train, self.methods, self.cycles, self.query.asked)
        check_network(self.train, self.model, self.reco)
        return self

    def train_at(self, cycle: int, *, last: bool) -> TrainSettings:
        """Settings of one cycle: the teacher's in cycle 0, a longer `last` cycle where asked for."""
        changes: dict[str, Any] = {}
        traits = traits_of(self.train.method)
        if cycle == 0 and not traits.labels_pool:
            set_keys = {k: v for k, v in self.teacher.model_dump().items() if v is not None}
            changes = {"method": traits.first or self.train.method, "batch_size_unlabelled": 0} | set_keys
        elif traits.pool == "nothing" or (traits.pool == "bought" and not self.query.buys_parts):
            changes = {"batch_size_unlabelled": 0}
        elif traits.later:
            changes = {"method": traits.later}
        if cycle and last and self.train.last_epochs:
            changes["epochs"] = self.train.last_epochs
        return self.train.model_copy(update=changes)

    def as_reference(self) -> RunConfig:
        """The fully supervised run: all labels, the losses of this run, the schedule of its last cycle."""
        last = self.train_at(self.cycles, last=True)
        schedule = TeacherSettings(
            epochs=last.epochs, steps_per_epoch=last.steps_per_epoch, batch_size=self.train_at(0, last=False).batch_size
        )
        return self.model_copy(
            update={
                "name": f"{self.name}.reference",
                "cycles": 0,
                "budget": None,
                "stop_at": None,
                "reference": False,
                "initial": InitialSettings(fraction=1.0),
                "teacher": schedule,
                "train": self.train.model_copy(update={"method": "supervised"}),
            }
        )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def changed(base: RunConfig, where: str = "", **changes: Any) -> RunConfig:
    """A validated copy; a mapping changes the keys that it names inside its group.  A UserError begins with `where`."""
    tree = base.model_dump()
    for key, value in changes.items():
        new = one_word(value) if key == "model" else value
        tree[key] = {**tree[key], **new} if isinstance(new, dict) else new
    return build(tree, where)


def load_yaml(path: Path, most: int = MAX_YAML_BYTES) -> RunConfig:
    """A resolved configuration as `s4al show` prints it, or a part of one over the defaults; at most `most` bytes.

    One that an earlier version has resolved keeps what it meant (`orchestrator/recipe/older_recipes.py`)."""
    try:
        with path.open("rb") as file:
            text = file.read(most + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return build_tree(parse_yaml(text, str(path), most), path)


def build_tree(tree: object, path: Path) -> RunConfig:
    """The configuration that the text of `path` says."""
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values")
    keys = {key: value for key, value in tree.items() if key != "provenance"}  # what a run ran with, not what to run
    return build({"name": path.stem, **as_it_was(keys)}, where=f"{path}: ")


def override(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """Apply `key=value` pairs; values are YAML scalars or lists."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    given: dict[str, tuple[str, str]] = {}
    for assignment in assignments:
        word, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"{assignment!r} is not of the form key=value")
        key = OTHER_WORDS.get(word, word)
        before, value = given.setdefault(key, (word, text))
        if before != word and value != text:
            raise UserError(f"{before}={value} and {assignment} are two words for one key: give one of them")
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                raise UserError(unknown_key(key))
            node = node[parent]
        if leaf not in node:
            raise UserError(unknown_key(key))
        if isinstance(node[leaf], dict):
            raise UserError(f"{key} is a group: set one of {', '.join(f'{key}.{k}' for k in node[leaf])}")
        node[leaf] = parse_yaml(text, key)
    return build(tree)


def build(tree: Mapping[str, Any], where: str = "") -> RunConfig:
    """Validate; every mistake becomes one line that names the key and, if misspelt, the nearest right one."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # A tuple's or a literal's position is not part of the user's key.
        key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        if first["type"] == "extra_forbidden":
            raise UserError(where + unknown_key(key)) from None
        message = first["msg"].removeprefix("Value error, ")
        shown = f" (got {shorten(repr(first['input']))})" if not isinstance(first["input"], (dict, BaseModel)) else ""
        if first["type"] == "literal_error" and isinstance(first["input"], str):
            shown += nearest(first["input"], [w.strip("'") for w in _literals(key)])
        raise UserError(f"{where}{key + ': ' if key else ''}{message}{shown}") from None


def unknown_key(key: str) -> str:
    return f"unknown key {shorten(repr(key))}{nearest(key, list(flat_keys(RunConfig)))}"


def shorten(text: str) -> str:
    """At most 80 characters of what somebody wrote."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(word: str, known: Sequence[str]) -> str:
    """`: did you mean 'x'?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not close:  # the right leaf under a wrong or missing parent
        leaf = word.rsplit(".", 1)[-1]
        tails = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        close = [tails[m] for m in difflib.get_close_matches(leaf, list(tails), n=1, cutoff=0.7)]
    return f": did you mean {close[0]!r}?" if close else ""


def flat_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flat_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested mapping to dotted keys, for MLflow parameters and for showing differences."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (str, int, float, bool)) else json.dumps(value)
    return flat


def _literals(key: str) -> Sequence[str]:
    model: Any = RunConfig
    *groups, leaf = key.split(".")
    for group in groups:
        model = model.model_fields[group].annotation
    field = model.model_fields[leaf]
    return [str(value) for value in getattr(field.annotation, "__args__", None) or field.examples or ()]
