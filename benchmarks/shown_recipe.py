"""A recipe as YAML for people: its keys in groups, each below what it means.  What reads YAML reads the same recipe."""

import re
import textwrap

import yaml
from pydantic import BaseModel

from orchestrator.config import RunConfig

WIDTH = 100
"""Of a line of comment."""


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
