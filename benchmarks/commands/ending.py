"""What a run leaves when its cycles are done: model, record in MLflow, report.  None of them can cost it its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.parts import in_words
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest
from orchestrator.folder.products import MODEL_NOTE, exported_from
from orchestrator.process.progress import Progress
from orchestrator.run.context import RunContext
from querying.base.errors import Interrupted
from querying.base.files import sha256, write_json
from querying.dataset.shards import DataIndex


def conclude_run(context: RunContext, summary: Mapping[str, Any]) -> Path | None:
    """Export the last model, close the run in MLflow, then write the report and put it there, too.

    The summary is written already; what fails here is named with the command that makes it later, and left out.
    Returns the report's page, if there is one.
    """
    layout, mirror, progress = context.layout, context.mirror, context.progress
    onnx = layout.root / "model.onnx"
    exported = _export(layout, summary["cycles"][-1]["cycle"], onnx, progress)
    mirror.finish(None, onnx if exported else None)
    report = _report(layout, context.index, progress)
    if report:
        mirror.finish(report.parent, None)
    return report


def _export(layout: RunLayout, cycle: int, onnx: Path, progress: Progress) -> bool:
    progress.stage("model")
    try:
        model = {"cycle": cycle, "checkpoint": digest(layout.checkpoint(cycle), "*.safetensors")}
        if not exported_from(layout.root, model):
            from benchmarks.deploy.onnx_file import export_onnx

            export_onnx(layout.checkpoint(cycle), onnx)
            write_json(layout.root / MODEL_NOTE, {**model, "sha256": sha256(onnx)})
    except Interrupted:
        raise
    except Exception as error:  # the checkpoint is the model: another format of it is not worth a run's end
        command = shlex.join(["s4al", "export", str(layout.root), str(onnx.with_name("FILE.onnx"))])
        progress.say(f"no model.onnx: {in_words(error)}; the run is finished without it; later: {command}")
        return False
    return True


def _report(layout: RunLayout, index: DataIndex, progress: Progress) -> Path | None:
    progress.stage("report")
    try:
        from benchmarks.report.page import write_report

        return write_report([layout.root], layout.root / "report", index)
    except Interrupted:
        raise
    except Exception as error:  # every number of it is in the summary
        command = shlex.join(["s4al", "report", str(layout.root)])
        progress.say(f"report: {in_words(error)}; the run is finished without it; later: {command}")
        return None
