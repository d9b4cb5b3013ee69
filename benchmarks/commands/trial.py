"""`python -m benchmarks trial`: one trial of a sweep, in the process that Tune's actor has started for it."""

from pathlib import Path

from orchestrator.backends.open import started
from orchestrator.folder.layout import RunLayout
from orchestrator.process.interrupt import follow_parent, handled
from orchestrator.run.start import carry_out
from orchestrator.studies.sweep import SweepRecord, config_of, group_of
from orchestrator.tracking.uri import default_uri
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex


def trial_command(root: Path, number: int, data: Place, backend: str, address: str) -> None:
    """The address where it is tracked comes by the environment (`handed_on`)."""
    from orchestrator.process.progress import shown

    record, uri = SweepRecord(root), default_uri(root)
    settings, sample = record.settings(), record.samples[number]
    config, index = config_of(settings["recipe"], sample), DataIndex.load(data)
    group = group_of(root, settings, number)
    with handled(), shown() as progress:
        follow_parent()
        ready = started(backend, None if backend == "local" else address, progress)
        carry_out(config, index, RunLayout(record.folder(number)), ready, progress, uri=uri, group=group)
