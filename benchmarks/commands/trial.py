"""`python -m benchmarks trial`: one trial of a sweep, in the process that Tune's actor has started for it."""

from pathlib import Path

from orchestrator.backends.open import started
from orchestrator.folder.layout import RunLayout, locked
from orchestrator.folder.record import Record
from orchestrator.process.interrupt import GRACE_S, follow_parent, handled
from orchestrator.run.start import begin, settled
from orchestrator.studies.sweep import SweepRecord, config_of, group_of
from orchestrator.tracking.mirror import mirrored
from orchestrator.tracking.uri import default_uri
from querying.dataset.shards import DataIndex


def trial_command(root: Path, number: int, data: Path, backend: str, address: str) -> None:
    """The address where it is tracked comes by the environment (`handed_on`)."""
    from orchestrator.process.progress import shown
    from orchestrator.run.loop import run

    record, uri = SweepRecord(root), default_uri(root)
    settings, sample = record.settings(), record.samples[number]
    config, index = config_of(settings["recipe"], sample), DataIndex.load(data)
    layout = RunLayout(record.folder(number))
    with (
        handled(),
        shown() as progress,
        started(backend, None if backend == "local" else address, progress) as ready,
        locked(layout.root, patience=GRACE_S + 5),  # one of a sweep that was killed may still be saving
    ):
        follow_parent()
        begin(config, index, layout)
        mirror = settled(config, index, layout, ready, uri, progress, group_of(root, settings, number))
        with mirrored(mirror):
            run(config, index, layout, ready, Record(layout.metrics), mirror, progress)
            mirror.finish(None, None)
