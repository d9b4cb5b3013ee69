"""A file or folder of this machine is asked for, and an address in a bucket is given: said, not taken for a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from querying.base.errors import UserError
from querying.base.storage.place import SCHEMES


class Commands(TyperGroup):
    """Commands whose parameters are looked at before they run."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        if command is None or isinstance(command, TyperGroup):
            return command
        inner = command.invoke

        def invoke(context: Any) -> Any:
            check_paths(context.params)
            return inner(context)

        command.invoke = invoke
        return command


def check_paths(values: dict[str, Any]) -> None:
    """UserError for a path that is an address."""
    for name, value in values.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            scheme, found, rest = str(one).partition(":/")
            if isinstance(one, Path) and found and scheme in SCHEMES:
                raise UserError(
                    f"{scheme}://{rest.lstrip('/')}: {name.strip('_')} is a file or folder of this machine here, and no"
                    " address in a bucket"
                )
