"""Levers beside the plain run: which run is compared with which, and by how much, by hand."""

import pytest

from benchmarks.report import lever_table as module
from benchmarks.report.lever_table import lever_table


class Run:
    def __init__(self, *cycles):
        self.cycles = [{"miou": miou, "class_iou": {"road": 0.9, "pole": pole}} for miou, pole in cycles]

    @property
    def last(self):
        return self.cycles[-1]


@pytest.fixture
def table(monkeypatch, tmp_path):
    runs = {
        "teacher-seed0": Run((0.40, 0.0)),
        "classes-seed0": Run((0.42, 0.1)),
        "classes-seed1": Run((0.50, 0.3)),  # without a teacher of its seed
        "student-seed0": Run((0.40, 0.0), (0.41, 0.02)),
        "student-seed1": Run((0.44, 0.0), (0.43, 0.04)),
        "previous-seed0": Run((0.40, 0.0), (0.45, 0.05)),
        "previous-seed1": Run((0.44, 0.0), (0.45, 0.05)),
    }
    monkeypatch.setattr(module, "load_findings", lambda paths: [runs[paths[0].name]])
    return lever_table([tmp_path / name for name in runs], ["pole"])


def test_each_is_compared_with_its_own(table):
    text, numbers = table
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()}
    assert [*rows][2:] == ["teacher", "student", "classes", "previous"]
    assert rows["teacher"] == ["1", "40.00", "", "", "0.0"]
    assert rows["classes"] == ["2", "46.00", "+2.00", "teacher", "20.0 (+10.00)"]
    # mean 0, standard deviation 1.414 of two pairs: 12.706 * 1.414 / sqrt(2)
    assert rows["student"] == ["2", "42.00", "+0.00 ± 12.71", "teacher", "3.0 (+3.00)"]
    assert rows["previous"] == ["2", "45.00", "+3.00 ± 12.71", "student", "5.0 (+2.00)"]
    assert numbers["previous/difference"] == "+3.00"
    assert numbers["previous/pole"] == "5.0"
