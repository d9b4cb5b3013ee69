import pytest

from benchmarks.cli import app
from querying.base.errors import UserError


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("annotate export s3://b/run x --format folder", "project"),
        ("annotate import gs://b/run x", "project"),
        ("annotate import x s3://b/answers.json", "file"),
        ("headroom toy_s4al_plus --out s3://b/x", "out"),
        ("init s3://b/x --images x --classes a,b", "dir|folder|root"),
        ("predict runs/x s3://b/images --out o", "images"),
        ("report runs/x --out s3://b/report", "out"),
    ],
)
def test_an_address_where_a_path_is_asked_for_is_said_and_nothing_is_made(words, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^(s3|gs)://b/.*: ({name}) is a file or folder of this machine"):
        app.app(args=words.split(), standalone_mode=False)
    assert not list(tmp_path.iterdir())
