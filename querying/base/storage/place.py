"""A place is a folder or file on a file system, or a URL in an object store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from querying.base.errors import UserError

SCHEMES = ("s3", "gs")
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,221}")


@dataclass(frozen=True, slots=True)
class Remote:
    """An object, or the folder of objects below a prefix; it has of a Path what the two have in common, and no more, so
    that the type checker finds who would look for it on the local disk."""

    scheme: str
    bucket: str
    key: str
    """Without a slash at either end; empty for the whole bucket."""

    def __truediv__(self, name: str) -> Remote:
        return Remote(self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def resolve(self) -> Remote:
        return self


Place = Path | Remote


@overload
def place(text: str) -> Place: ...
@overload
def place(text: str | None) -> Place | None: ...
def place(text: str | None) -> Place | None:
    """A path, or the URL of a bucket.  UserError for a URL that is neither, or holds what does not belong there."""
    if text is None:
        return None
    found = _URL.fullmatch(text)
    if not found:
        return Path(text)
    bucket, _, key = found["rest"].partition("/")
    if "@" in bucket:
        raise UserError(f"{found['scheme']}://***@{bucket.rpartition('@')[2]}: credentials belong in the environment")
    if found["scheme"] not in SCHEMES:
        raise UserError(f"{text}: data lie in a folder, or at s3://BUCKET/PATH or gs://BUCKET/PATH")
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{text}: {found['scheme']}://BUCKET/PATH was expected, and {bucket!r} is no name of a bucket")
    if not all(part.isprintable() and part not in ("", ".", "..") for part in parts):
        raise UserError(f"{text}: a path in a bucket has no empty part, no . and no .. in it")
    return Remote(found["scheme"], bucket, "/".join(parts))
