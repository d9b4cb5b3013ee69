"""What the files of a run folder may hold, whoever wrote them: a right seal tells that a text is whole, not what it is.

A file that says something else is DamagedError naming the key, as one whose seal is broken: what a run can make again
is made again, and whatever only reads ends with status 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from querying.base.errors import DamagedError
from querying.base.files import read_json

Text = Annotated[str, Field(max_length=100_000)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise ValueError("a name inside the folder was expected")
    return name


class Shape(BaseModel):
    """Keys that later versions add are not looked at; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _File(Shape):
    size: Count
    sha256: Sha256


class Manifest(Shape):
    seconds: Annotated[Number, Field(ge=0)]
    inputs: dict[Text, Text]
    files: dict[Annotated[Text, AfterValidator(_inside)], _File]
    settings: dict[Text, bool | int | Number | Text | None] | None = None
    made_on: list[Text] | None = None


class _Best(Shape):
    miou: Number


class _PseudoLabels(Shape):
    kept: Share | None
    precision: Share | None
    class_share: dict[Text, Share | None]
    class_precision: dict[Text, Share | None]
    class_recall: dict[Text, Share | None]
    vanished: list[Text]


class _Learning(Shape):
    fall: Number
    falling: bool


class _Cycle(Shape):
    cycle: Count
    miou: Share
    class_iou: Annotated[dict[Text, Share | None], Field(min_length=1)]
    labelled_pixels: Count
    labelled_fraction: Share
    labelled_fraction_valid: Share | None
    cells: Count
    seconds: dict[Text, Number]
    best_on_val: _Best | None = None
    pseudo_labels: _PseudoLabels | None = None
    learning: _Learning | None = None


class Summary(Shape):
    recipe: Text
    seed: int
    evaluated_on: Text
    cycles: list[_Cycle]
    supervised_miou: Share | None
    finished: bool


class Row(Shape):
    """A row of the record, or of an epoch's history."""

    __pydantic_extra__: dict[str, bool | int | Number | Text | None]
    run: Text
    cycle: Count
    stage: Text


class _Drift(Shape):
    time: Text
    since: Annotated[Text, Field(alias="from")]
    changes: list[Text]


class _Data(Shape):
    root: Text
    name: Text
    sha256: Text


class Provenance(Shape):
    data: _Data | None = None
    commit: Text | None = None
    code: Text | None = None
    device: Text | None = None
    first_weights: Text | None = None
    id: Text | None = None
    own_code: dict[Text, Text] | None = None
    machine: dict[Text, Text] | None = None
    libraries: dict[Text, Text] | None = None
    drift: list[_Drift] = []
    environments: list[dict[Text, Any]] = []


class LabelledSet(Shape):
    source: Text
    source_sha256: Sha256 | None
    sha256: Sha256
    ids: Annotated[list[Text], Field(min_length=1)]


class BatchSize(Shape):
    batch_size: Annotated[int, Field(ge=1)]
    seconds_per_image: dict[Text, float]
    stopped_by: Text
    device: Text


def _span(times: list[float | None]) -> list[float | None]:
    if len(times) != 2 or times[0] is None:
        raise ValueError("when work began and when it ended was expected")
    return times


class TrackingNote(Shape):
    """`mlflow.json` of a run, a grid or a sweep."""

    uri: Text
    key: Text | None = None
    place: Text | None = None
    experiment: Text | None = None
    parent: Text | None = None
    group: Text | None = None
    status: Text | None = None
    rows: Count = 0
    children: dict[Text, Text] = {}
    began: dict[Text, Number] = {}
    closed: list[Text] = []
    work: list[Annotated[list[Number | None], AfterValidator(_span)]] = []


class ReportNote(Shape):
    """`report.json`: file of the report -> its SHA-256."""

    __pydantic_extra__: dict[str, Sha256]


class ModelNote(Shape):
    """`model.json`: which checkpoint `model.onnx` was exported from, and its SHA-256."""

    cycle: Count
    checkpoint: Text
    sha256: Sha256


class _Recipe(Shape):
    name: Text


class SweepSettings(Shape):
    """`sweep.json`."""

    recipe: _Recipe
    space: list[Any]
    search: Text
    scheduler: Text
    objective: Text
    mode: Literal["max", "min"]
    seed: int
    data: Text
    samples: Count


class _Point(Shape):
    step: Number
    miou: Share


class TrialNote(Shape):
    """`trials/NUMBER.json` of a sweep."""

    number: Count
    values: dict[Text, Any]
    state: Literal["drawn", "finished", "pruned", "failed"]
    rows: list[_Point]
    outcome: dict[Text, Number]
    error: Text


def shaped(data: Mapping[str, Any], shape: type[Shape], where: Path) -> None:
    """DamagedError names the first key of `where` that is none of the shape's."""
    try:
        shape.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))[:200]
        raise DamagedError(
            f"{where}: holds what s4al did not write: key {key or '(all of it)'}: {first['msg']}"
        ) from None


def read_shaped(path: Path, shape: type[Shape], reads: int = 1) -> dict[str, Any]:
    """Contents of a sealed file that are of this shape; DamagedError where they are not, or the file is missing."""
    data = read_json(path, reads)
    shaped(data, shape, path)
    return data


def read_summary(path: Path) -> dict[str, Any]:
    return read_shaped(path, Summary)
