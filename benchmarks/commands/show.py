"""A recipe as YAML for people: its keys in groups, each below what it means.  What reads YAML reads the same recipe."""

import re
import sys
import textwrap
from collections.abc import Sequence

import yaml
from pydantic import BaseModel

from benchmarks.recipes.catalogue import resolve
from orchestrator.recipe.config import RunConfig
from orchestrator.run.preflight import check_data
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex
from training.settings.training import BACKBONES

WIDTH = 100
"""Width of a line of comment."""


def show_recipe(recipe: str, overrides: Sequence[str], data: Place | None) -> None:
    """Print it; where there are `data`, below comments that say how long a run on them will take here."""
    config = resolve(recipe, overrides)
    if data:
        index = DataIndex.load(data)
        check_data(config, index)
        print("measuring a few steps on images of that size ...", file=sys.stderr, flush=True)
        from orchestrator.run.estimate import estimate_lines

        for line in estimate_lines(config, index):
            print(f"# {line}")
        print()
    if config.model.weights == "imagenet" and config.model.backbone not in BACKBONES and not config.model.own_encoder:
        from training.network.encoder_check import weights_line  # loads torch

        print(f"# {weights_line(config.model.backbone)}\n")
    print(commented(config), end="")


def commented(config: RunConfig) -> str:
    """The YAML of `to_yaml` with a comment before every key that has a description in its settings' class."""
    return "\n".join(_lines(config, 0)) + "\n"


def _lines(settings: BaseModel, depth: int) -> list[str]:
    found, indent = list[str](), "  " * depth
    dumped = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found += [""] * (not depth)
            found += [*_comment(field.description, indent), f"{indent}{name}:", *_lines(value, depth + 1)]
        else:
            text = yaml.safe_dump({name: dumped[name]}, sort_keys=False)
            found += [*_comment(field.description, indent), *textwrap.indent(text, indent).splitlines()]
    return found


def _comment(description: str | None, indent: str) -> list[str]:
    text = re.sub(r"\s+", " ", description or "").strip()
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
