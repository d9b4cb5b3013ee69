"""Passwords travel by the environment: they are in no argument of a process of ours, and in no file."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.cli import app as cli
from benchmarks.commands.splits import splits_command
from orchestrator.tracking.uri import HANDED_ON, chosen_uri, how_to_see, page
from querying.base.files import read_json
from querying.base.redaction import redacted
from tests.benchmarks.commands.test_splits_command import TINY
from tests.orchestrator.studies.test_sweep_trials import Told
from tests.small import SMALL

ROOT = Path(__file__).parents[2]
CANARY = "canary9c3e77"
SERVER = f"http://user:{CANARY}@127.0.0.1:9"  # nothing listens on this port
ENVIRONMENT = {
    "MLFLOW_TRACKING_URI": SERVER, "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-password",
    "MLFLOW_TRACKING_TOKEN": f"{CANARY}-token", "AWS_SECRET_ACCESS_KEY": f"{CANARY}-key",
}  # fmt: skip


def holding(*folders):
    """Files that hold it."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if CANARY.encode() in _bytes(path)]


def _bytes(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:  # it was scratch of somebody at work
        return b""


def arguments(*mentioned):
    """Of all living processes whose arguments mention one of these."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:  # it has ended
            continue
        if any(str(word).encode() in words for word in mentioned) and path.parent.name != str(os.getpid()):
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_what_the_environment_keeps_secret_is_in_no_message(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss/word1@host/x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("HF_TOKEN", "none")
    assert redacted(f"Bearer {CANARY}: refused p@ss/word1") == "Bearer ***: refused ***"
    assert (
        redacted("https://me:p%40ss/word1@host/x: none at /home/me/token")
        == "https://***@host/x: none at /home/me/token"
    )


def test_an_option_that_holds_a_password_is_said_and_the_command_to_see_it_holds_none(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert chosen_uri(SERVER, tmp_path) == SERVER
    assert "every user of this machine can read the arguments of this process" in caplog.text
    assert "MLFLOW_TRACKING_URI" in caplog.text
    assert CANARY not in caplog.text
    caplog.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert chosen_uri(None, tmp_path) == SERVER
    assert chosen_uri("http://host", tmp_path) == "http://host"
    assert caplog.text == ""
    assert how_to_see(SERVER) == "http://***@127.0.0.1:9"
    assert page(SERVER + "/") == "http://***@127.0.0.1:9/#/experiments?workflowType=machine_learning"
    assert page("sqlite:///a.db") == "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
    assert how_to_see(f"postgresql://me:{CANARY}@h/db") == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'


def test_a_traceback_holds_no_password(monkeypatch, capsys):
    def app(**_):
        raise ConnectionError(f"no answer from {SERVER}")

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["s4al", "--debug", "run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == 1
    assert "Traceback" in said
    assert "ConnectionError: no answer from http://***@127.0.0.1:9" in said
    assert CANARY not in said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracking", [SERVER, None, "none"])
def test_cells_side_by_side_get_the_address_by_their_environment(toy_data, tmp_path, monkeypatch, tracking):
    begun, given = [], {}
    monkeypatch.setattr(
        "benchmarks.commands.splits.run_all",
        lambda tasks, at_once, progress, environment: (begun.extend(tasks), given.update(environment)),
    )
    monkeypatch.setattr("benchmarks.commands.splits.print_cells", lambda *_: None)
    monkeypatch.setattr("benchmarks.commands.splits._miou", lambda one: 0.0)
    monkeypatch.setattr("benchmarks.commands.splits.fitting", lambda *_: 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    splits_command(
        "toy_splits", TINY, methods="supervised", splits="1/4", seeds="0,1", family=None, data=toy_data.root,
        out=tmp_path / "out", backend="local", address=None, tracking=tracking, parallel=2,
    )  # fmt: skip
    assert len(begun) == 2
    assert CANARY not in str(begun)
    monkeypatch.setattr(os, "environ", {**os.environ, **given})
    assert chosen_uri(None, tmp_path / "cell") == (tracking or SERVER)
    assert holding(tmp_path) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trial_gets_the_address_by_its_environment_and_tune_writes_it_nowhere(local_ray, tmp_path, monkeypatch):
    """The trial refuses it, which shows that it came; Tune's state and all processes are looked at while it lives."""
    from orchestrator.studies.ray_trials import run_trials, scheduler_of

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-key")  # Tune has a list of what it hands on
    # What looks is no part of the trials: Tune would pickle it, and with it the word that it looks for.
    told, seen, states = Told(tmp_path, ["splits", "toy_splits", "--data", "x"]), [], []
    done = threading.Event()

    def look():
        while not done.wait(0.25):
            states.extend((tmp_path / "work").rglob("experiment_state*.json"))
            seen.extend(holding(tmp_path) + [line for line in arguments("ray", "benchmarks") if CANARY in line])

    looking = threading.Thread(target=look)
    looking.start()
    try:
        run_trials(
            told, scheduler=scheduler_of("fifo", "max", 1, []), at_once=1, resources={"CPU": 1}, retries=0,
            work=tmp_path / "work", environment={HANDED_ON: f"ftp://user:{CANARY}@host"},
        )  # fmt: skip
    finally:
        done.set()
        looking.join()
    assert states, "Tune keeps its state elsewhere now"
    assert "'ftp://***@host': expected sqlite" in told.how[0][1]
    assert seen == []
    assert holding(tmp_path, Path(local_ray._private.worker._global_node.get_session_dir_path())) == []


COMMANDS = {
    "run": ["run", "toy_s4al_plus", *SMALL, "train.epochs=40"],
    "splits": [
        "splits", "toy_splits", *TINY, "train.epochs=40", "--methods", "supervised,cps", "--splits", "1/4",
        "--parallel", "2",
    ],
    "sweep": ["sweep", "toy_s4al_plus", *SMALL, "cycles=0", "train.epochs=40", "--samples", "2", "--scheduler", "fifo"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_no_process_and_no_file_of_a_real_command_holds_a_secret(toy_data, tmp_path, name, end):
    """Looked at four times a second while it lives, and after its end or its death; Ray's session folder as well."""
    (tmp_path / "space.yaml").write_text("train.lr: {choice: [1e-2, 1e-1]}\n")
    words = [*COMMANDS[name], "--data", str(toy_data.root), "--out", str(tmp_path / "out"), "--debug"]
    words += ["--space", str(tmp_path / "space.yaml")] if name == "sweep" else []
    session = Path("/tmp") / f"s4al-{os.getpid()}-{name}"
    session.mkdir(mode=0o700)  # one that is missing is not taken for Ray's files, and what lies elsewhere is not seen
    environment = {**os.environ, **ENVIRONMENT, "RAY_TMPDIR": str(session)}
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, env=environment, stdout=said,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    lines, trained = set(), False
    while process.poll() is None:
        lines.update(arguments(session, tmp_path, "ray::"))
        trained = trained or bool(list((tmp_path / "out").rglob("training/progress.json")))
        if end and trained:
            time.sleep(2)
            process.send_signal(end)
        time.sleep(0.25)
    try:
        assert trained
        assert any("gcs_server" in line for line in lines), lines
        assert any("benchmarks" in line for line in lines), lines
        assert [line for line in lines if CANARY in line] == []
        assert holding(tmp_path, session) == []
        assert process.returncode == (-end if end else 0), (tmp_path / "said").read_text()
        for summary in [] if end else (tmp_path / "out").rglob("summary.json"):
            assert read_json(summary)["finished"]
    finally:
        subprocess.run(["rm", "-rf", str(session)], check=True)
