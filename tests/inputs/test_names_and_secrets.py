"""Names that somebody chose: shown as they are, never obeyed; and passwords, which are never shown."""

import os
import posixpath
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks.cli import app as cli
from benchmarks.datasets.classes.class_file import read_classes
from benchmarks.datasets.ingest import ingest
from benchmarks.deploy.predict import find_checkpoint
from benchmarks.report.plain_tables import markdown_cell
from orchestrator.folder.record import Record
from orchestrator.tracking.mirror import MlflowMirror
from orchestrator.tracking.store import metric_name
from orchestrator.tracking.uri import check_uri
from querying.base.errors import UserError
from querying.base.redaction import one_line, redacted
from querying.dataset.schemas import QUERY
from querying.dataset.shards import ImageStore
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from tests.small import small_config

ROOT = Path(__file__).parents[2]
CANARY = "canary7d1f"
NAMES = ["<script>alert(1)<", "=cmd|' C'!A0", "-2+3", "@SUM(1)", "[red]x[]", "%s{}$x", "..", " ", "Ünïcödé", "x" * 251]


def save(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 2, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def raw_folder(root, names):
    for number, name in enumerate(names):
        for part in ("images", "masks"):
            save(root / part / f"{name}.png", number)
    (root / "classes.txt").write_text("<b>road</b>\n=cmd()\n")
    return root


def test_image_names_come_back_exactly_from_shards_and_ledger(tmp_path):
    names = [name for name in NAMES if name != ".."]  # as a file's name it has no suffix
    src = raw_folder(tmp_path / "raw", names)
    index = ingest("folder", src, tmp_path / "out", size=None, classes_file=src / "classes.txt", val_fraction=0,
                   test_fraction=0)  # fmt: skip
    assert sorted(ImageStore(index, "train").ids()) == sorted(names)
    assert index.classes == ("<b>road</b>", "=cmd()")
    ledger, grid = Ledger(tmp_path / "ledger"), RegionGrid(16, 16, 16)
    query = pa.Table.from_pylist([{"image_id": name, "region": 0, "score": 0.0} for name in names], schema=QUERY)
    ledger.append(0, SimulatedOracle(index, grid).annotate(0, query))
    assert sorted(ledger.images(0)) == sorted(names)


@pytest.mark.parametrize(
    "name", [b"a\nb", b"a\x1b[31mb", b"\xff\xfe", b"a\rb", "a\u2028b".encode(), "a\u202eb".encode()]
)
def test_a_name_that_a_terminal_would_obey_is_refused_in_one_printable_line(tmp_path, name):
    src = raw_folder(tmp_path / "raw", ["a", "c", "d"])
    for part in ("images", "masks"):
        os.rename(src / part / "a.png", os.fsencode(src / part) + b"/" + name + b".png")
    command = [sys.executable, "-m", "benchmarks", "ingest", "folder", src, tmp_path / "out", "--classes"]
    done = subprocess.run([*command, src / "classes.txt"], cwd=ROOT, capture_output=True, timeout=120)
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n")) == (2, 1), said
    assert said.strip().isprintable()
    assert "characters that can not be printed" in said
    assert not (tmp_path / "out").exists()


def test_a_class_name_that_a_terminal_would_obey_is_refused_with_its_line(tmp_path):
    (tmp_path / "classes.txt").write_text("road\n\x1b[2Jsky\n")
    with pytest.raises(UserError, match=r"classes\.txt: line 2: class '\\x1b\[2Jsky' has characters"):
        read_classes(tmp_path / "classes.txt")


def test_a_folder_beside_the_cycles_is_not_taken_for_one(tmp_path):
    for name in ("cycle-000", "cycle-000-copy", "cycle-x", "damaged-1-cycle-001"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
    assert find_checkpoint(tmp_path, None) == tmp_path / "cycle-000" / "checkpoint"


def test_a_cell_of_the_markdown_table_stays_one_cell():
    for name in NAMES:
        assert markdown_cell(name).replace("\\|", "").count("|") == 0
        assert "<" not in markdown_cell(name)


def test_class_names_become_names_that_mlflow_takes_and_stay_different():
    names = [
        f"class_iou/{name}" for name in [*NAMES, "a<", "a>", "a/b", "a//b", "../x", ".", "", "x" * 400, "road", "a b"]
    ]
    given = [metric_name(name) for name in names]
    assert len(set(given)) == len(names)
    for name in given:
        assert len(name) <= 250
        assert posixpath.normpath(name) == name
        assert all(c.isalnum() or c in "/_.- :" for c in name), name
    assert metric_name("class_iou/road") == "class_iou/road"
    assert metric_name("train/images_per_second") == "train/images_per_second"
    assert metric_name("miou") == "miou"


SECRETS = {
    f"http://user:{CANARY}@host:80/x?y=1": "http://***@host:80/x?y=1",
    f"postgresql+psycopg2://{CANARY}:p@ss{CANARY}@host/db": "postgresql+psycopg2://***@host/db",
    f"failed: https://{CANARY}@h/a and https://b@c": "failed: https://***@h/a and https://***@c",
    f"https:/user:{CANARY}@host/data": "https:/***@host/data",  # as a path prints it
    f"/data?token={CANARY}&x=1": "/data?token=***&x=1",
    f"s3://bucket/x?X-Amz-Security-Token={CANARY}": "s3://bucket/x?X-Amz-Security-Token=***",
    f"x?api_key={CANARY}; PASSWORD={CANARY}": "x?api_key=***; PASSWORD=***",
    "sqlite:////a/b@c/mlflow.db": "sqlite:////a/b@c/mlflow.db",
    "train.lr=0.1 a@b.c tokens are 3": "train.lr=0.1 a@b.c tokens are 3",
}


@pytest.mark.parametrize("text", SECRETS)
def test_a_password_is_not_shown_and_nothing_else_is_hidden(text):
    assert redacted(text) == SECRETS[text]
    assert one_line(f"{text}\n\x1b\udcff") == f"{SECRETS[text]} \\x1b\\udcff"


@pytest.mark.filterwarnings("ignore")
def test_the_password_of_a_tracking_server_is_in_no_file_and_no_message(tmp_path, caplog, capfd):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://user:{CANARY}@127.0.0.1:{probe.getsockname()[1]}"
    record = Record(tmp_path / "metrics.jsonl")
    record.log({"run": "main", "cycle": 0, "stage": "evaluate", "miou": 0.5, "labelled_fraction": 0.1})
    mirror = MlflowMirror(tmp_path, small_config(), {"name": "toy", "digest": "a" * 64, "root": "x"}, uri)
    mirror.sync()
    mirror.finish(None, None)
    assert caplog.text.count("MLflow at http://***@127.0.0.1") >= 2
    assert CANARY not in caplog.text + "".join(capfd.readouterr())
    assert [path for path in tmp_path.rglob("*") if path.is_file() and CANARY in path.read_text()] == []
    with pytest.raises(UserError) as caught:
        check_uri(f"ftp://user:{CANARY}@host")
    assert CANARY not in str(caught.value)


def test_a_password_on_the_command_line_is_not_repeated(monkeypatch, capsys):
    def app(**_):
        raise UserError(f"https:/user:{CANARY}@host/x?token={CANARY}/index.json:\ndoes not exist")

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["s4al", "run"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "s4al: https:/***@host/x?token=*** does not exist\n"


FLOORS = {"pillow": (13,), "ray": (2, 52), "mlflow": (3, 17, 2), "pyarrow": (17,), "torch": (2, 6)}


def test_versions_with_known_holes_are_below_the_floors():
    """JPEG overflow; job API without a token (CVE-2025-62593); CVE-2026-53995; CVE-2023-47248; CVE-2025-32434."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = {part.partition(">=")[0].partition("[")[0]: part.partition(">=")[2] for part in wanted}
    for name, floor in FLOORS.items():
        assert tuple(map(int, lowest[name].split("."))) >= floor, name
