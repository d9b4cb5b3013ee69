"""What people are asked, through each format and the commands: the ledger is that of masks that came with the data."""

import json
import random
import shutil
from pathlib import Path

import pytest

from benchmarks.cli.app import app
from benchmarks.commands.people.annotate import export_command, import_command
from orchestrator.annotation.package import read_package
from orchestrator.annotation.rounds import current_round
from querying.base.errors import UserError, WaitingForLabels
from tests.annotated import image_id, make_data, truth
from tests.benchmarks.formats.painted import ANSWER, answered_in_a_folder
from tests.small import small_run

IMAGES, FIRST = 24, 6
KEYS = ("cycles=2", "query.region_size=16", "query.per_image=1", "train.epochs=1", "train.steps_per_epoch=1",
        "query.scales=[1]", "query.threshold=0.3", "augment.cutout_size=8")  # fmt: skip
HUMAN = (*KEYS, "annotator=human", f"initial.images={FIRST}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    (root / "first.txt").write_text("".join(f'"{image_id(number)}"\n' for number in range(FIRST)))
    return make_data(root / "all", IMAGES, IMAGES), make_data(root / "few", IMAGES, FIRST), root / "first.txt"


@pytest.fixture(scope="module")
def simulated(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("simulated") / "run"
    small_run(data[0], run, *KEYS, f"initial.list={data[2]}")
    return run


@pytest.fixture(scope="module")
def asked(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("asked") / "run"
    with pytest.raises(WaitingForLabels):
        small_run(data[1], run, *HUMAN)
    return run


@pytest.fixture
def waiting(asked, tmp_path):
    return shutil.copytree(asked, tmp_path / "run")


def ledger_bytes(run):
    return {path.name: path.read_bytes() for path in sorted((run / "ledger").iterdir())}


@pytest.mark.parametrize("format_", ANSWER)
def test_the_ledger_is_that_of_the_simulated_run_whatever_the_format(
    data, simulated, waiting, tmp_path, format_, capsys
):
    """Dealt to three people, who share a fifth, taken in one after the other."""
    masks, run = truth(IMAGES), waiting
    for cycle in (1, 2):
        dst = tmp_path / f"out{cycle}"
        export_command(run, dst, format_, "brush", 3, 0.2, 0.9)
        package = read_package(current_round(run).package)
        assert package.cycle == cycle
        order = random.Random(cycle).sample((1, 2, 3), 3)
        statuses = [
            import_command(
                run, ANSWER[format_](package, dst / str(n), masks, n), False, f"p{n}", "majority", "ask", False
            )
            for n in order
        ]
        assert statuses == [3, 3, 0]
        said = capsys.readouterr().out
        assert "agreement on" in said
        assert "100.0 % of their pixels" in said
        if cycle == 1:
            with pytest.raises(WaitingForLabels, match="labels of cycle 2"):
                small_run(data[1], run, *HUMAN)
    assert small_run(data[1], run, *HUMAN)["finished"]
    assert ledger_bytes(run) == ledger_bytes(simulated)


def everything(run):
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()
            and path.name != "run.lock"}  # fmt: skip


@pytest.mark.parametrize("format_", ANSWER)
def test_the_same_file_again_is_nothing_new_and_a_dry_run_and_a_damaged_file_write_nothing(
    waiting, tmp_path, format_, capsys
):
    export_command(waiting, tmp_path / "out", format_, "brush", 1, 0.0, 1.0)
    package, before = read_package(current_round(waiting).package), everything(waiting)
    source = ANSWER[format_](package, tmp_path / "out", truth(IMAGES), 1)
    arguments = ("p", "majority", "ask", False)
    assert import_command(waiting, source, True, *arguments) == 0
    assert everything(waiting) == before
    broken = tmp_path / "broken"
    if source.is_dir():
        shutil.copytree(source, broken)
        mask = next((broken / "masks").iterdir())
        mask.write_bytes(mask.read_bytes()[:40])
    else:
        broken.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken"):
        import_command(waiting, broken, False, *arguments)
    assert everything(waiting) == before
    assert import_command(waiting, source, False, *arguments) == 0
    after = everything(waiting)
    assert set(after) > set(before)
    capsys.readouterr()
    assert import_command(waiting, source, False, *arguments) == 0
    assert "nothing new" in capsys.readouterr().out
    assert everything(waiting) == after


def test_an_import_of_which_a_file_is_damaged_is_made_again_from_its_source(waiting, tmp_path, capsys):
    for place, format_ in enumerate(ANSWER):
        export_command(waiting, tmp_path / format_, format_, "brush", 1, 0.0, 1.0)
        package = read_package(current_round(waiting).package)
        source = ANSWER[format_](package, tmp_path / format_, truth(IMAGES), place)
        import_command(waiting, source, False, f"p{place}", "majority", "ask", False)
    folders = sorted(current_round(waiting).answers.glob("import-*"))
    assert len(folders) == 3
    content = [(folder / "regions.parquet").read_bytes() for folder in folders]
    for folder in folders:
        (folder / "regions.parquet").write_bytes(b"x")
    import_command(waiting, source, True, "p2", "majority", "ask", False)
    assert capsys.readouterr().out.count("was made again from its source") == 3
    assert [(folder / "regions.parquet").read_bytes() for folder in folders] == content


def call(*words):
    return app(args=[*map(str, words)], standalone_mode=False)


def test_the_commands_take_their_options_and_refuse_what_does_nothing(waiting, tmp_path, capsys):
    out = tmp_path / "out"
    assert not call("annotate", "export", waiting, out, "--annotators", 2, "--shared", 0.5, "--no-pre")
    assert f"{out / '2'}: " in capsys.readouterr().out
    [path] = (out / "1").rglob("tasks.json")
    assert {one["data"]["pre"] for one in json.loads(path.read_text())} == {False}
    for words, message in (
        (("--shared", 0.5), "--shared 0.5: what do they share"),
        (("--format", "cvat", "--tag", "bitmask"), "--tag bitmask: only with --format labelstudio"),
    ):
        with pytest.raises(UserError, match=message):
            call("annotate", "export", waiting, tmp_path / "other", *words)
    package = read_package(current_round(waiting).package)
    source = answered_in_a_folder(package, _folder(waiting, tmp_path), truth(IMAGES), 1)
    with pytest.raises(UserError, match="--as NAME"):
        call("annotate", "import", waiting, source)
    with pytest.raises(UserError, match="--blank background is for CVAT's masks alone"):
        call("annotate", "import", waiting, source, "--as", "me", "--blank", "background")
    assert call("annotate", "import", waiting, source, "--as", "me", "--dry-run") == 0
    (source / "masks" / package.images[0].file).unlink()
    assert call("annotate", "import", waiting, source, "--as", "me") == 3
    assert call("annotate", "import", waiting, source, "--as", "me", "--partial") == 0


def _folder(run: Path, tmp_path: Path) -> Path:
    export_command(run, tmp_path / "folder", "folder", "brush", 1, 0.0, 1.0)
    return tmp_path / "folder"
