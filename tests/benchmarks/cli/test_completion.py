"""What a shell is told when Tab is pressed: commands, recipes, and the keys of a recipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("s4al he", ["headroom"]),
        ("s4al run toy_s", ["toy_s4al_plus", "toy_splits"]),
        ("s4al run toy_s4al_plus train.batch", ["train.batch_size=", "train.batch_size_unlabelled="]),
    ],
)
def test_words_are_completed(typed, offered):
    s4al = Path(sys.executable).with_name("s4al")
    environment = {**os.environ, "_S4AL_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    told = subprocess.run([s4al], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == offered
