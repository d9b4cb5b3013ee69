"""Objects of S3, Google Cloud Storage and what speaks as they do: whole or not at all, with bounded patience."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from querying.base.errors import InfrastructureError, UserError
from querying.base.redaction import one_line, shortened
from querying.base.storage.place import Remote

if TYPE_CHECKING:
    from mmap import mmap

T = TypeVar("T")
PATIENCE = "S4AL_STORE_PATIENCE"
"""Variable of the environment: seconds for which a store may fail before a command gives up."""
_PATIENCE_S = 60.0
_PART = 16 * 2**20
"""Bytes that are read by one request: small enough for a deadline on each, large enough for few of them."""
_SLOWEST = 2**19
"""Bytes a second; a request that is slower is given up and made again."""
READINGS = 6
"""Times that is read what is not what was written: a bit may have changed on the way."""
MAX_PUT = 5 * 2**30
"""Bytes of an object that one request may write, which a store can refuse where there is one already."""
_ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"), "gs": ("GOOGLE_BASE_URL",)}
_EXTRAS = {"s3": "s3", "gs": "gcs"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for a public bucket AWS_SKIP_SIGNATURE to true",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or for a public bucket GOOGLE_SKIP_SIGNATURE to true",
}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>(?:.*?<Message>(.*?)</Message>)?", re.DOTALL)
_METADATA = re.compile(r"169\.254\.\d+\.\d+|/latest/(api|meta-data)|metadata\.google|computeMetadata|(?i:credential)")
_REFUSED = (
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",
)


def read(place: Remote) -> bytes:
    """A whole object, such as an index; FileNotFoundError where there is none."""
    return b"".join(opened(place)[1])


def opened(place: Remote, patience: float | None = None, later: float | None = None) -> tuple[int, Iterator[bytes]]:
    """Size and bytes of an object, in parts; FileNotFoundError where there is none.  Where it is replaced or cut
    meanwhile, parts of both come, or fewer bytes: who reads it compares its hash.  `later` is the patience for each of
    the parts after the first."""
    obstore = _library(place)

    def part(begin: int) -> tuple[int, bytes]:
        try:
            found = obstore.get(_store(place), place.key, options={"range": (begin, begin + _PART)})
            return found.meta["size"], bytes(found.bytes())
        except Exception as error:
            if _status(error) == 416:  # nothing there: it is empty, or has become shorter
                return 0, b""
            raise

    size, first = _patient(place, lambda: part(0), patience)

    def parts() -> Iterator[bytes]:
        yield first
        for begin in range(_PART, size, _PART):
            yield _patient(place, lambda begin=begin: part(begin), later)[1]  # type: ignore[misc]

    return size, parts()


def create(place: Remote, data: bytes | mmap) -> bool:
    """Write an object if there is none; False where there is one, which may be ours: a request of which the answer was
    lost is made again."""
    obstore = _library(place)

    if len(data) > MAX_PUT:
        raise UserError(f"{place}: {len(data) / 2**30:.1f} GiB, more than the 5 of an object: a smaller --shard-size")

    def put() -> bool:
        try:
            seconds = 60 << (len(data) // (60 * _SLOWEST)).bit_length()  # few different ones: each is a client
            obstore.put(_store(place, seconds), place.key, data, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    try:
        return _patient(place, put)
    except FileNotFoundError as error:  # of a store that does not tell what is missing
        raise UserError(f"{place}: the store finds no bucket {place.bucket!r}: make it first") from error


def replace(place: Remote, data: bytes, patience: float | None = None) -> None:
    """Write a small object, whatever is there."""
    obstore = _library(place)
    _patient(place, lambda: obstore.put(_store(place), place.key, data, use_multipart=False), patience)


def remove(place: Remote) -> None:
    """Remove an object; nothing where there is none."""
    obstore = _library(place)
    with suppress(FileNotFoundError):
        _patient(place, lambda: obstore.delete(_store(place), place.key))


def sizes(folder: Remote) -> dict[str, int]:
    """Bytes of all objects below a prefix, by what stands after it."""
    obstore = _library(folder)

    def listed() -> dict[str, int]:
        pages = obstore.list(_store(folder), folder.key or None)
        skip = len(folder.key) + 1 if folder.key else 0
        return {meta["path"][skip:]: meta["size"] for page in pages for meta in page}

    return _patient(folder, listed)


def _library(place: Remote) -> Any:
    """UserError where it is not installed."""
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError:
        extra = _EXTRAS[place.scheme]
        raise UserError(f"{place}: needs a library that is not installed: pip install 's4al-plus[{extra}]'") from None
    return obstore


@cache
def _client(scheme: str, bucket: str, seconds: int, endpoint: str) -> Any:
    from obstore.store import GCSStore, S3Store

    return {"s3": S3Store, "gs": GCSStore}[scheme](
        bucket,
        client_options={
            "connect_timeout": "5s",
            "timeout": f"{seconds}s",
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
        **({"checksum_algorithm": "SHA256"} if scheme == "s3" else {}),
    )


def _store(place: Remote, seconds: int = _PART // _SLOWEST) -> Any:
    """A client whose requests may take so many seconds each."""
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS[place.scheme])), "")
    return _client(place.scheme, place.bucket, seconds, endpoint)


def _patient(place: Remote, call: Callable[[], T], patience: float | None = None) -> T:
    """What `call` gives, made again for as long as the fault may pass; then InfrastructureError.  UserError at once for
    what will not pass."""
    from obstore.exceptions import BaseError

    patience = patience_s() if patience is None else patience
    end, wait = time.monotonic() + patience, 0.25
    while True:
        try:
            return call()
        except FileNotFoundError as error:
            if _code(error)[0] == "NoSuchBucket":
                raise _no_bucket(place) from None
            raise
        except BaseError as error:
            mistake = _mistake(place, error)
            if mistake:
                raise mistake from None
            if time.monotonic() + wait > end:
                raise InfrastructureError(
                    f"{place}: the store has failed for {patience_s():.0f} s ({_shown(error)}): is it up, and"
                    f" {' or '.join(_ENDPOINTS[place.scheme][-2:])} right?  The same command continues"
                ) from None
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


def patience_s() -> float:
    """Seconds for which a store may fail."""
    text = os.environ.get(PATIENCE, "")
    try:
        return float(text) if text else _PATIENCE_S
    except ValueError:
        raise UserError(f"{PATIENCE}={text}: a number of seconds was expected") from None


def _mistake(place: Remote, error: Exception) -> UserError | None:
    """What the user has to change; None for what may pass."""
    from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError

    code, _ = _code(error)
    if code == "NoSuchBucket":
        return _no_bucket(place)
    first = str(error).partition("\n\nDebug source")[0]
    if _METADATA.search(first) and not code:
        return UserError(f"{place}: no credentials: set {_CREDENTIALS[place.scheme]}")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or code in _REFUSED:
        return UserError(
            f"{place}: the store refuses it ({_shown(error)}): other rights, or {_CREDENTIALS[place.scheme]}"
        )
    status = _status(error)
    passing = isinstance(error, GenericError) and "redirect" not in first and "builder error" not in first
    if passing and (status is None or status >= 500 or status in (408, 429)):
        return None
    return UserError(f"{place}: the store refuses it: {_shown(error)}")


def _no_bucket(place: Remote) -> UserError:
    where = next(filter(os.environ.get, _ENDPOINTS[place.scheme]), None)
    return UserError(
        f"{place}: there is no bucket {place.bucket!r}: make it, or correct its name{f' or {where}' if where else ''}"
    )


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _code(error: Exception) -> tuple[str, str]:
    found = _CODE.search(str(error))
    return (found[1], found[2] or "") if found else ("", "")


def _shown(error: Exception) -> str:
    """The store's own words, or the library's, on a short line."""
    code, message = _code(error)
    text = f"{code}: {message}" if code else str(error).partition("\n\nDebug source")[0]
    return shortened(one_line(text), 160)
