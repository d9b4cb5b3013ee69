"""A user on a machine without bf16 instructions is told why it takes so long."""

import pytest

from orchestrator.progress import SilentProgress
from tests.small import small_run


@pytest.mark.parametrize(("fast", "precision", "told"), [(False, "bf16", 1), (True, "bf16", 0), (False, "fp32", 0)])
def test_emulated_bf16_is_said(toy_data, tmp_path, monkeypatch, fast, precision, told):
    said = []
    monkeypatch.setattr("orchestrator.stages.fast_bf16", lambda: fast)
    monkeypatch.setattr(SilentProgress, "say", lambda self, line: said.append(line))
    small_run(toy_data.root, tmp_path, "cycles=0", "train.epochs=1", f"train.precision={precision}")
    assert sum("this machine emulates it" in line for line in said) == told
