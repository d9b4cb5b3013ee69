"""What may be shown of a text that somebody else wrote: no password, and nothing that a terminal would obey."""

import re

_USERINFO = re.compile(r"(?<=:/)(/?)[^\s/]+@")
_SECRET = re.compile(r"(?i)((?:token|secret|password|passwd|api_?key|access_?key|signature)[\w-]*=)[^&\s;'\",]+")


def redacted(text: str) -> str:
    """Without the user and password of an address, and without the value of a parameter that is named like a secret."""
    return _SECRET.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def one_line(text: str) -> str:
    """On one line, redacted, and with what is not printable (control characters, bytes that are no UTF-8) escaped."""
    words = " ".join(redacted(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
