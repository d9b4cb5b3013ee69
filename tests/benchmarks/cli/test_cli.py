"""The command line as a user meets it: every mistake is one line, exit status 2, quick, and leaves nothing behind."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.studies.cells import METHODS

ROOT = Path(__file__).parents[3]


def s4al(*args, **kwargs):
    command = [sys.executable, "-m", "benchmarks", *map(str, args)]
    return subprocess.run(command, cwd=kwargs.pop("cwd", ROOT), capture_output=True, text=True, timeout=120, **kwargs)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def other_run(tmp_path, toy):
    """A run folder that holds another seed."""
    from orchestrator.folder.recipe_file import write_recipe
    from orchestrator.recipe.provenance import provenance as _provenance
    from querying.dataset.shards import DataIndex
    from tests.small import small_config

    folder = tmp_path / "out"
    folder.mkdir()
    provenance = _provenance(DataIndex.load(toy), folder / "backbone.safetensors")
    write_recipe(folder / "recipe.yaml", small_config("seed=5"), provenance)
    return folder


CASES = {
    "missing data": (["camvid_cpu", "--data", "{tmp}/none"], "{tmp}/none"),
    "no data given": (["camvid_cpu"], "--data"),
    "unknown recipe": (["camvid_cpuu", "--data", "{toy}"], "did you mean 'camvid_cpu'?"),
    "misspelt key": (["toy_s4al_plus", "query.treshold=0.5", "--data", "{toy}"], "did you mean 'query.threshold'?"),
    "out of range": (["toy_s4al_plus", "query.threshold=2", "--data", "{toy}"], "query.threshold: "),
    "wrong data": (["camvid_cpu", "--data", "{toy}"], "holds 'toy', recipe camvid_cpu is for 'camvid'"),
    "large region": (["toy_s4al_plus", "query.region_size=49", "--data", "{toy}"], "query.region_size=49"),
    "all border": (["toy_s4al_plus", "query.region_size=24", "--data", "{toy}"], "query.exclude_border"),
    "many labels": (
        ["toy_s4al_plus", "initial.images=25", "--data", "{toy}"],
        "initial.images=25: the train split has 24",
    ),
    "unknown split": (["toy_s4al_plus", "data.evaluate_on=tset", "--data", "{toy}"], "tset"),
    "no weights": (["toy_s4al_plus", "model.weights={tmp}/w", "--data", "{toy}"], "model.weights={tmp}/w"),
    "dead address": (["toy_s4al_plus", "--data", "{toy}", "--address", "127.0.0.1:{port}"], "127.0.0.1:{port}"),
    "odd address": (["toy_s4al_plus", "--data", "{toy}", "--address", "nowhere"], "'nowhere': expected HOST:PORT"),
    "bad tracking": (["toy_s4al_plus", "--data", "{toy}", "--tracking", "ftp://x"], "--tracking 'ftp://x'"),
    "wrong option": (["toy_s4al_plus", "--dta", "{toy}"], "--dta"),
    "yaml missing": (["{tmp}/none.yaml", "--data", "{toy}"], "{tmp}/none.yaml: cannot be read"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_leaves_nothing(case, toy_data, tmp_path):
    names = {"tmp": tmp_path, "toy": toy_data.root, "port": closed_port()}
    args, culprit = CASES[case]
    out = tmp_path / "out"
    started = time.monotonic()
    done = s4al("run", *[a.format(**names) for a in args], "--out", out)
    seconds = time.monotonic() - started
    assert done.returncode == 2, done.stderr
    assert culprit.format(**names) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not out.exists()
    assert seconds < 60  # five on a quiet machine: see docs/results/index.md


def test_an_output_folder_of_another_recipe_is_refused(toy_data, tmp_path):
    from tests.small import SMALL

    folder = other_run(tmp_path, toy_data.root)
    done = s4al("run", "toy_s4al_plus", *SMALL, "--data", toy_data.root, "--out", folder)
    assert (done.returncode, "seed is 5 there, 0 here" in done.stderr) == (2, True), done.stderr
    assert sorted(p.name for p in folder.iterdir()) == [".recipe.yaml.copy", "recipe.yaml"]


def test_a_folder_with_other_things_in_it_is_refused(toy_data, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    done = s4al("run", "toy_s4al_plus", "--data", toy_data.root, "--out", tmp_path)
    assert (done.returncode, "is not empty and not a run folder" in done.stderr) == (2, True), done.stderr


def test_a_folder_that_can_not_be_written_is_refused(toy_data, tmp_path):
    (tmp_path / "file").write_text("")
    done = s4al("run", "toy_s4al_plus", "--data", toy_data.root, "--out", tmp_path / "file" / "run")
    assert (done.returncode, "file/run" in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_weights_that_do_not_fit_are_refused_before_training(toy_data, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    done = s4al(
        "run", "toy_s4al_plus", f"model.weights={tmp_path}/w.safetensors", "--data", toy_data.root,
        "--out", tmp_path / "out", "--backend", "local",
    )  # fmt: skip
    assert (done.returncode, "w.safetensors: conv_stem.weight" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out" / "cycle-000").exists()


def test_show_prints_what_run_accepts(tmp_path):
    shown = s4al("show", "camvid_cpu", "train.lr=0.02")
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    again = s4al("show", tmp_path / "mine.yaml")
    assert again.stdout == shown.stdout
    assert "lr: 0.02" in shown.stdout


def test_recipes_are_listed_one_name_a_line():
    listed = [line.split()[0] for line in s4al("recipes").stdout.splitlines()]
    assert {
        "toy_s4al_plus",
        "toy_splits",
        "camvid_cpu",
        "camvid_s4al_plus",
        "camvid_full",
        "cityscapes_s4al_plus",
    } <= set(listed)


@pytest.mark.parametrize("command", ["", "ingest", "run", "sweep", "compare", "replay", "show"])
def test_help_everywhere(command):
    done = s4al(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_the_help_of_splits_names_every_method():
    words = re.findall(r"[\w+]+", s4al("splits", "--help").stdout)
    assert set(METHODS) <= set(words)


@pytest.mark.parametrize(
    ("args", "culprit"),
    [
        (["toy", "{tmp}/a", "{tmp}/b"], "takes DST, got 2 paths"),
        (["camvid", "{tmp}/none", "{tmp}/b"], "{tmp}/none"),
        (["toy", "{tmp}/b", "--size", "96"], "--size '96'"),
        (["toy", "{tmp}/b", "--images", "1,2"], "--images '1,2'"),
        (["toy", "{tmp}/b", "--encoding", "webp"], "--encoding 'webp'"),
        (["folder", "{tmp}", "{tmp}/b"], "--classes"),
        (["movies", "{tmp}", "{tmp}/b"], "movies"),
    ],
)
def test_ingest_mistakes(args, culprit, tmp_path):
    done = s4al("ingest", *[a.format(tmp=tmp_path) for a in args])
    assert done.returncode == 2, done.stderr
    assert culprit.format(tmp=tmp_path) in done.stderr
    assert not (tmp_path / "b").exists()


def test_verify_names_what_is_damaged_and_says_what_to_do(toy_data, tmp_path):
    folder = other_run(tmp_path, toy_data.root)
    done = s4al("verify", folder)
    assert (done.returncode, done.stdout) == (0, f"{folder}: intact\n")
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("seed: 5", "seed: 6"))
    done = s4al("verify", folder)
    assert done.returncode == 4
    assert "recipe.yaml: not what was written" in done.stderr
    shutil.copytree(toy_data.root, tmp_path / "data")
    assert s4al("verify", tmp_path / "data").stdout.endswith("data: intact\n")
    shard = tmp_path / "data/images/train-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    done = s4al("verify", tmp_path / "data")
    assert (done.returncode, "train-00001.arrow: differs" in done.stderr) == (4, True)
    assert s4al("verify", tmp_path).returncode == 2


def test_status_of_a_started_run(toy_data, tmp_path):
    folder = other_run(tmp_path, toy_data.root)
    done = s4al("status", folder)
    assert (done.returncode, "next: checkpoint of cycle 0" in done.stdout) == (0, True)
    assert s4al("status", tmp_path).returncode == 2
