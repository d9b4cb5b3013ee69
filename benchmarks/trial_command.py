"""`python -m benchmarks trial`: one trial of a sweep, in the process that Tune's actor has started for it."""

from pathlib import Path

from benchmarks.backends import started
from benchmarks.run_command import begin, settled
from benchmarks.sweep_record import SweepRecord, config_of, group_of
from orchestrator.interrupt import GRACE_S, follow_parent, handled
from orchestrator.layout import RunLayout, locked
from orchestrator.record import Record
from orchestrator.tracking import mirrored
from orchestrator.tracking_uri import default_uri
from querying.shards import DataIndex


def trial_command(root: Path, number: int, data: Path, backend: str, address: str) -> None:
    """The address where it is tracked comes by the environment (`handed_on`)."""
    from orchestrator.loop import run
    from orchestrator.progress import shown

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
