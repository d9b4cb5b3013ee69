"""What may be shown of a text that somebody else wrote: no password, and nothing that a terminal would obey."""

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

_USERINFO = re.compile(r"(?<=:/)(/?)[^\s/]+@")
_SECRET = re.compile(r"(?i)((?:token|secret|password|passwd|api_?key|access_?key|signature)[\w-]*=)[^&\s;'\",]+")
_RAISED = re.compile(r"^[\w.]*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning|Failure|Timeout)\b.*")
"""The last line of a traceback: the name of an exception, and what it says."""
_DEATH = re.compile(r"(?:exit detail|is dead because|caused by|Reason)\s*:?\s*(.+)", re.IGNORECASE | re.DOTALL)
"""What Ray says of a process that died, after everything that it knows of it."""
_NAMES = re.compile(r"(?i)(?:token|secret|password|passwd|api_?key|access_?key)(?:_?id)?$")
"""Names of variables whose value is a secret."""
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""Variables whose address may hold one."""
SHORTEST = 6
"""Letters of a secret that is looked for as it stands; shorter ones are in every text."""


def redacted(text: str) -> str:
    """Without the user and password of an address, without the value of a parameter that is named like a secret, and
    without what the environment's secrets are."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return _SECRET.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def _secrets() -> Iterator[str]:
    """Values of the environment, the longest first: one may hold another."""
    found = {value for name, value in os.environ.items() if _NAMES.search(name)}
    for name in ADDRESSES:
        user, _, password = os.environ.get(name, "").partition("://")[2].rpartition("@")[0].partition(":")
        found |= {f"{user}:{password}", password, unquote(password)} if password else set()
    yield from sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


def printable(text: str, but: str = "") -> str:
    """With what a terminal may obey (control characters, direction marks, bytes that are no UTF-8) escaped, except for
    characters in `but`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """On one line, redacted, and printable."""
    return printable(" ".join(redacted(text).split()))


def cause(text: str, limit: int = 300) -> str:
    """What a long message of a library comes from, on one line of at most `limit` characters.

    The end of the last traceback in it, or what follows the words with which Ray introduces the reason; else the
    message, without its middle where it is too long.
    """
    lines = [line.strip() for line in text.splitlines()]
    raised = [number for number, line in enumerate(lines) if _RAISED.match(line)]
    if "Traceback" in text and raised:
        return shortened(one_line(" ".join(lines[raised[-1] :])), limit)
    death = _DEATH.search(text)
    return shortened(one_line(death[1] if death else text), limit)


def shortened(line: str, limit: int) -> str:
    """At most so many characters: what is too long loses its middle, since a cause may stand at either end."""
    if len(line) <= limit:
        return line
    half = (limit - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"
