"""What is written beside the scores, against loops over pixels in float64."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings, strategies as st

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import seal
from orchestrator.run.inputs import stage_inputs
from querying.base.errors import DamagedError
from querying.base.files import sha256, write_json
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from querying.scoring.extra_files import SCHEMAS, class_mixtures, extra_batch, majority_classes, read_extra


@given(st.integers(0, 2**16), st.sampled_from([1, 2, 3, 5, 7]))
@settings(deadline=None)
def test_classes_and_mixtures_of_regions(seed, size):
    grid = RegionGrid(7, 11, size)
    log_p = torch.randn(1, 5, 7, 11, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(dim=1)
    p_CHW = log_p[0].double().exp().numpy()
    label_HW = p_CHW.argmax(axis=0)
    classes, mixtures = majority_classes(log_p, grid), class_mixtures(log_p, grid).reshape(-1, 5)
    assert classes.dtype == np.uint8
    assert mixtures.dtype == np.float32
    order = [3, 0, 4, 2, 1]
    renamed = majority_classes(log_p[:, order], grid)
    for region in range(grid.num_regions):
        cell = (slice(None), *grid.box(region))
        mean_C = p_CHW[cell].reshape(5, -1).mean(axis=1)
        count_C = np.bincount(label_HW[grid.box(region)].ravel(), minlength=5)
        best = max(range(5), key=lambda c: (count_C[c], mean_C[c]))
        assert classes[region] == best
        assert order[renamed[region]] == best
        assert mixtures[region] == pytest.approx(mean_C, abs=1e-5)


def write(folder, kind, *rows):
    path = folder / f"{kind}-00000.arrow"
    with pa.ipc.new_file(path, SCHEMAS[kind]) as writer:
        for row in rows:
            writer.write_batch(extra_batch(kind, [row[0]], [row[1]]))
    write_json(folder / "shard-00000.json", {path.name: sha256(path)})
    return path


def test_what_was_written_is_read_in_order_and_in_shape(tmp_path):
    rows = [(name, np.arange(6, dtype=np.float32) + at) for at, name in enumerate("cab")]
    ids, value = read_extra(write(tmp_path, "mixtures", *rows), "mixtures", (3, -1))
    assert ids == ["c", "a", "b"]
    assert value.shape == (3, 3, 2)
    assert value[1].ravel().tolist() == [1, 2, 3, 4, 5, 6]
    ids, value = read_extra(write(tmp_path, "features"), "features")
    assert ids == []
    assert len(value) == 0


def test_a_file_that_is_not_what_was_written_is_named(tmp_path):
    path = write(tmp_path, "classes", ("a", np.array([1, 2], np.uint8)), ("b", np.array([1, 2, 3], np.uint8)))
    with pytest.raises(ValueError, match=r"classes-00000\.arrow: 2 values for one image, 3 for another"):
        read_extra(path, "classes", (2,))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"classes-00000\.arrow"):
        read_extra(path, "classes", (2,))


def test_a_query_is_made_from_the_files_beside_the_scores_too(tmp_path):
    layout, ledger = RunLayout(tmp_path), Ledger(tmp_path / "ledger")
    ledger.append(0, [])
    scores = layout.scores(0)
    scores.mkdir(parents=True)

    def inputs(*kinds, number=1):
        for path in scores.iterdir():
            path.unlink()
        for kind in kinds:
            (scores / f"{kind}-00000.arrow").write_text(f"{kind} {number}")
        seal(scores, inputs={}, seconds=0.0)
        return stage_inputs(layout, ledger, "select", 0)

    plain = inputs("regions", "pseudo")
    assert plain.keys() == {"labels", "scores"}
    more = inputs("regions", "pseudo", "classes")
    assert more.items() > plain.items()
    assert inputs("regions", "pseudo", "classes", number=2)["classes"] != more["classes"]
