"""YAML that holds plain data and nothing else: a mistake is one line, and small input costs little time."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from querying.base.errors import UserError

MAX_YAML_BYTES = 50_000
"""A recipe has some 4,000; the parser takes up to a second for as many as this."""
MAX_FLOW_LEVEL = 20


class _StrictLoader(yaml.SafeLoader):
    """Refuses tags, duplicate keys and aliases.

    Of YAML 1.1's plain scalars only null, true, false, decimal integers and floats are not text: `no`, `010`, `1:30`
    and dates stay what was written, for the validation to judge.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (as the base class has it)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        if getattr(self.peek_event(), "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not allowed: {self.peek_event().tag}")
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level > MAX_FLOW_LEVEL:  # before the scanner looks a thousand brackets ahead, for each of them
            raise yaml.YAMLError("lists are nested too deeply")
        super().fetch_flow_collection_start(token_class)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError("a key must be a word")
            if key.value in seen:
                raise yaml.YAMLError(f"key {key.value!r} appears twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
):  # fmt: skip
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def parse_yaml(text: str, where: str, most: int = MAX_YAML_BYTES) -> Any:
    """Strict YAML of at most `most` bytes.  UserError names `where`."""
    if len(text) > most:
        raise UserError(f"{where}: larger than {most} bytes")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a SafeLoader, made stricter)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
