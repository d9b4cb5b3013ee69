"""`s4al run`: every check that can be made without torch or Ray first, then the loop, then the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.recipes.catalogue import resolve
from orchestrator.backends.open import check_backend, started
from orchestrator.folder.layout import RunLayout
from orchestrator.process.interrupt import handled
from orchestrator.recipe.config import RunConfig
from orchestrator.run.context import RunContext
from orchestrator.run.preflight import (
    check_data,
    check_first_images,
    check_same_run,
    few_images,
    with_local_list,
    with_local_weights,
)
from orchestrator.run.start import carry_out
from orchestrator.run.weights_check import check_weights
from orchestrator.tracking.uri import chosen_uri
from querying.base.errors import UserError
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend


def run_command(
    recipe: str,
    overrides: list[str],
    data: Place | None,
    out: Path | None,
    backend: str,
    address: str | None,
    tracking: str | None,
    allow_drift: bool = False,
    quick: bool = False,
    part: bool = False,
) -> None:
    config = resolve(recipe, overrides, quick=quick)
    if part and config.annotator != "human":
        raise UserError("--partial: only where people answer (annotator=human)")
    out = out or Path("runs") / config.name
    check_backend(backend, address)
    config = with_local_list(with_local_weights(config))
    index = DataIndex.load(data or generated(config, out))
    layout = RunLayout(out)
    check_data(config, index, layout.decided)
    if not layout.decided:
        check_first_images([config], index)
    check_same_run(config, index, layout, allow_drift=allow_drift)
    check_weights(config, layout)
    uri = chosen_uri(tracking, out)
    if few := few_images(index, config.data.evaluate_on):
        print(few, flush=True)

    from orchestrator.process.progress import shown

    def conclude(context: RunContext, summary: dict[str, Any]) -> Path | None:
        from benchmarks.commands.ending import conclude_run

        return conclude_run(context, summary)

    @contextmanager
    def ready() -> Iterator[Backend]:
        if not layout.decided:
            from orchestrator.run.estimate import disk_line

            progress.say(disk_line(config, index, layout.root))
        with started(backend, address, progress) as opened:
            yield opened

    from benchmarks.formats.answers_in import reread

    with handled():
        with shown() as progress:
            report = carry_out(
                config,
                index,
                layout,
                ready(),
                progress,
                uri=uri,
                patience=0,
                allow_drift=allow_drift,
                part=part,
                reread=reread,
                conclude=conclude,
            )
        from benchmarks.report.printed import after_run
        from benchmarks.report.terminal_tables import print_outcome

        print_outcome(layout, uri, report)
        after_run(layout.root)


def generated(config: RunConfig, out: Path) -> Path:
    if config.data.dataset != "toy":
        raise UserError(f"recipe {config.name} needs --data DST (made by `s4al ingest`)")
    from benchmarks.datasets.ingest import ingest

    root = out.parent / "toy-data"
    if not (root / "index.json").exists():
        print(f"generating toy scenes in {root} ...", flush=True)
        ingest("toy", None, root, size=None)
    return root
