"""The reference pages are what the program says, and every key has a meaning."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_the_reference_is_what_the_program_says(pages):
    for name, text in pages.items():
        assert (DOCS / "reference" / name).read_text() == text, f"run python docs/make_reference.py for {name}"


def test_every_key_has_a_meaning(pages):
    rows = [line for line in pages["recipe_keys.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if row.rstrip(" |").count(" | ") < 3 or row.endswith("|  |")]
