"""`make bench`: its options, the files that it leaves, and that the forms it compares compute the same."""

import itertools
import json
import os
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.performance import __main__ as bench, peers, timing
from benchmarks.performance.benches import scale, selection
from benchmarks.performance.benches.data import per_image, training_data
from benchmarks.performance.benches.parts import looped_mean, plain_png
from benchmarks.performance.benches.training import bare, case, ours, plain
from benchmarks.performance.figure import margin
from benchmarks.performance.reference_reco import looped_contrast, looped_samples
from benchmarks.performance.result import as_markdown, found
from querying.base.errors import UserError
from querying.dataset.codecs import decode_label
from querying.labels.regions import RegionGrid
from training.losses.reco import contrast, prototypes
from training.settings.training import ModelSettings, ReCoSettings

SMALL = ModelSettings(aspp_channels=16, decoder_channels=16, low_level_channels=8, embedding_dim=8, dropout=0.0)


def fake(monkeypatch, **benches):
    for name, main in benches.items():
        monkeypatch.setitem(sys.modules, f"benchmarks.performance.benches.{name}", SimpleNamespace(main=main))
    monkeypatch.setattr(bench, "BENCHES", dict.fromkeys(benches, "of a test"))
    monkeypatch.setattr(bench, "alone", lambda work, **keys: work(**keys))  # fakes are of this process


def test_the_list_names_every_module_that_is_there(capsys):
    assert bench.main(["--list"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    folder = bench.Path(bench.__file__).parent / "benches"
    assert listed == {path.stem for path in folder.glob("*.py")} - {"__init__"}


def test_only_runs_what_it_names_and_stores_it(tmp_path, capsys, monkeypatch):
    calls = []

    def main(*, rounds=7, threads):
        calls.append((rounds, threads))
        return [
            found("quick", "a thing", "here", 3.0, bar=2.0),
            found("large", "another", "here", 9.0, bar=6.0, at_most=True, unit="ms"),
            found("plain", "a third", "here", 1.0, unit="s"),
            found("wrong", "a fourth", "here", 3.0, bar=2.0, holds=False),
        ]

    fake(monkeypatch, one=main, two=None)
    assert bench.main(["--only", "one", "--out", str(tmp_path / "b"), "--threads", "1", "--rounds", "2"]) == 0
    assert calls == [(2, 1)]
    stored = json.loads((tmp_path / "b/bench.json").read_text())
    assert [result["passes"] for result in stored["results"]] == [True, False, True, False]
    assert stored["machine"]["threads"] == 1
    text = (tmp_path / "b/bench.md").read_text()
    assert "| a thing | 3x | >= 2x | holds |" in text
    assert "| another | 9 ms | <= 6 ms | falls short |" in text
    assert "| a third | 1 s | - |  |" in text
    assert "| a fourth | 3x | >= 2x | falls short |" in text
    assert text in capsys.readouterr().out
    assert (tmp_path / "b/bench.png").read_bytes().startswith(b"\x89PNG")


def test_each_benchmark_has_a_process_of_its_own():
    first, second = bench.alone(os.getpid), bench.alone(os.getpid)
    assert len({os.getpid(), first, second}) == 3
    with pytest.raises(UserError, match="no such thing"):
        bench.alone(_refused, what="thing")


def _refused(what):
    raise UserError(f"no such {what}")


def test_what_was_measured_is_there_when_the_next_one_fails(tmp_path, monkeypatch):
    def broken(**_):
        raise RuntimeError("no")

    fake(monkeypatch, one=lambda **_: [found("quick", "a thing", "here", 3.0)], two=broken)
    with pytest.raises(RuntimeError):
        bench.main(["--out", str(tmp_path)])
    assert "a thing" in (tmp_path / "bench.md").read_text()
    assert not (tmp_path / "bench.png").exists()  # no result has a bar


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "selectoin"], "--only selectoin: no such benchmark; did you mean selection?"),
        (["--only", "selection,"], "--only : no such benchmark"),
        (["--peer", "reco"], "--peer reco: give it as NAME=PATH"),
        (["--peer", "other=."], "--peer other: no such peer; known are reco, s4al"),
        (["--peer", "reco=/no/such"], "--peer reco: /no/such is not a folder"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys, tmp_path):
    assert bench.main([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_a_mistake(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert bench.main(["--only", "start", "--out", str(tmp_path / "out")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_the_margin_is_above_one_where_the_bar_holds():
    assert margin(found("a", "", "", 3.0, bar=2.0)) == 1.5
    assert margin(found("a", "", "", 3.0, bar=2.0, at_most=True)) == pytest.approx(2 / 3)
    assert "falls short" not in as_markdown([found("a", "", "", 0.0, bar=2.0, at_most=True)])


PEER = """
import torch
def compute_reco_loss(rep, label, mask, prob, strong_threshold, temp, num_queries, num_negatives):
    assert rep.shape[0] == label.shape[0] and label.shape == prob.shape and mask.shape[1] == 1
    assert (label.sum(1) == 1).all()
    return (rep ** 2).sum()
"""


def test_a_peer_is_timed_from_its_checkout(tmp_path, monkeypatch, capsys):
    (tmp_path / "module_list.py").write_text(PEER)
    small = lambda folder: peers.reco_forms(folder, (9, 12))
    monkeypatch.setitem(peers.PEERS, "reco", ("ReCo over a peer", small))
    assert bench.main(["--peer", f"reco={tmp_path}", "--rounds", "1", "--out", str(tmp_path / "out")]) == 0
    [result] = json.loads((tmp_path / "out/bench.json").read_text())["results"]
    assert result["name"] == "peer_reco"
    assert set(result["ms"]) == {"ours", "peer"}


@pytest.mark.slow  # trains a step in bf16, which most processors emulate
def test_a_peer_that_is_a_package_is_timed_without_our_path_changing(tmp_path):
    folder = tmp_path / "networks"
    folder.mkdir()
    (folder / "parts.py").write_text("from torchvision.models.utils import load_state_dict_from_url\n")
    (folder / "__init__.py").write_text(
        "import torch\nfrom .parts import *\n"
        "def get_deeplab(backbone, num_classes, pretrained_flag):\n"
        "    assert (backbone, pretrained_flag) == ('mbv2', False)\n"
        "    return torch.nn.Conv2d(3, num_classes, 1)\n"
    )
    path = list(sys.path)
    forms = peers.s4al_forms(tmp_path, (64, 64))
    assert forms["peer"]().shape == (4, 11, 64, 64)
    assert forms["ours"]().shape == (4, 11, 16, 16)
    assert sys.path == path
    assert "networks" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "module_list.py: does not exist, so"),
        ("import no_such_module_at_all", "module_list.py: can not be imported: No module named"),
        ("compute = 1", "has no compute_reco_loss, so"),
        ("def (", "can not be imported: invalid syntax"),
    ],
)
def test_a_folder_that_is_no_checkout_of_the_peer_is_said(tmp_path, text, message):
    if text:
        (tmp_path / "module_list.py").write_text(text)
    with pytest.raises(UserError, match=message):
        peers.time_peer("reco", tmp_path, rounds=1)


def test_the_product_and_the_plain_port_have_the_same_losses():
    """In float32, with the same weights and no dropout; ReCo draws other samples."""
    data = case(64, 96, model=SMALL, reco=ReCoSettings(queries=16, negatives=32))
    first, second = ours(data, "fp32")(), plain(data)()
    assert set(first) == set(second) == {"ce", "ce_u", "reco"}
    for name in ("ce", "ce_u"):
        assert first[name].item() == pytest.approx(second[name].item(), rel=1e-4)
    assert first["reco"].item() == pytest.approx(second["reco"].item(), rel=0.1)
    bare(data, "fp32")()
    assert not own_gradients(second)
    assert {"_ExpansionBackward", "_CostBackward", "_EndBackward"} <= own_gradients(first)


def own_gradients(losses):
    """Names of the gradients in the losses' graph that are not PyTorch's."""
    seen, ahead = set(), [loss.grad_fn for loss in losses.values()]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return {type(node).__name__ for node in seen if isinstance(node, torch.autograd.function.BackwardCFunction)}


def test_the_looped_reco_is_that_of_the_product_on_the_same_samples():
    draw = torch.Generator().manual_seed(0)
    embed = torch.randn(600, 16, generator=draw, dtype=torch.float64)
    label = torch.randint(4, (600,), generator=draw)
    label[::7] = 255
    hard = torch.rand(600, generator=draw) < 0.5
    mean, classes = prototypes(embed, label)
    samples = looped_samples(label, hard, mean, classes, ReCoSettings(queries=8, negatives=16), draw)
    values = []
    for loss in (lambda x: looped_contrast(x, mean, samples, temperature=0.5),
                 lambda x: contrast(x, embed, mean, samples, temperature=0.5)):  # fmt: skip
        x = embed.clone().requires_grad_()
        value = loss(x)
        values.append((value.detach(), *torch.autograd.grad(value, x)))
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)
    own = classes[samples.anchor_J]
    assert hard[samples.query_JQ].all()
    assert (label[samples.query_JQ] == own[:, None]).all()
    assert samples.negative_JQM.shape == (4, 8, 16)
    assert ((label[samples.negative_JQM] != own[:, None, None]) & (label[samples.negative_JQM] != 255)).all()


def test_naive_forms_give_what_ours_give():
    grid, draw = RegionGrid(50, 70, 20), torch.Generator().manual_seed(0)
    score = torch.rand(2, 50, 70, generator=draw)
    torch.testing.assert_close(looped_mean(grid, score), grid.mean(score))
    label = np.random.default_rng(0).integers(0, 11, (9, 7), dtype=np.uint8)
    assert np.array_equal(decode_label(plain_png(label)), label)


def test_the_data_benchmark_draws_pool_images_with_bought_cells(tmp_path):
    data = training_data(tmp_path, 60, 90)
    batch = data.batch(0, 0, 1, labelled=1, unlabelled=3)
    assert batch.image.shape == (1, 3, 60, 90)
    assert batch.image_u.shape == (3, 3, 60, 90)
    assert len(data.pool) == 12
    assert set(data.pool) < set(data.bought)
    spent = per_image({"strong": lambda step: data.batch(step, 0, 1, labelled=0, unlabelled=2)}, 3, 2, 2)["strong"]
    assert 0 < spent.least <= spent.median


def test_the_least_is_of_each_piece_and_the_first_round_does_not_count(monkeypatch):
    """Two pieces of 1 and 3 s, a first round that costs 100 more, and a neighbour in one of two rounds."""
    cost = iter([101, 103, 1, 8, 6, 3])
    clock = itertools.accumulate(value for each in cost for value in (0, each))
    monkeypatch.setattr("benchmarks.performance.benches.data.time.thread_time", lambda: float(next(clock)))
    assert per_image({"work": lambda piece: None}, 2, 2, 10)["work"] == pytest.approx((0.2, 0.45))


@pytest.mark.parametrize("form", ["per_image", "global"])
def test_the_selection_benchmark_selects_what_it_says(form):
    shards = selection.DrawnShards(300, 128)
    cells = selection.FORMS[form](iter(shards), 300)
    assert cells.num == 1200
    assert shards.seconds > 0
    measured = selection.measured(form, 300, 1)
    assert measured["seconds"] >= 0
    assert measured["result_mb"] == pytest.approx(1200 * 16 / 2**20, abs=0.1)


def test_the_scale_simulation_goes_through_every_part(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "INDEX_SHARDS", 10)
    monkeypatch.setattr(scale, "SHARD_IMAGES", 128)
    parts = scale.simulate(tmp_path, 300)
    assert set(parts) == set(scale.WHAT)
    assert parts["global"]["cells"] == parts["per_image"]["cells"] == 1200
    assert len(list(tmp_path.glob("regions-*.arrow"))) == 3


def test_a_ratio_compares_what_ran_in_the_same_round(monkeypatch):
    now, phases = [0.0], {"slow": iter([9, 2, 6, 2]), "quick": iter([9, 1, 3, 2])}

    def form(name):
        now[0] += next(phases[name])

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    spent = timing.in_turns({name: partial(form, name) for name in phases}, 3)
    assert spent == {"slow": [2, 6, 2], "quick": [1, 3, 2]}  # the first round warms up
    assert timing.times(spent["slow"], spent["quick"]) == 2
    assert timing.times([1.0, 2.0, 9.0], [1.0, 1.0, 10.0]) == 1
    assert timing.milliseconds({"slow": spent["slow"], "quick": 0.5}) == {"slow": 2000, "quick": 500}
