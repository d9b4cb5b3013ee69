"""An address at which no cluster can be is one line that names where it came from."""

import pytest

from orchestrator.backends.open import check_backend
from querying.base.errors import UserError


def test_the_variable_is_named_where_it_holds_the_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match=r"^RAY_ADDRESS 'http://127.0.0.1:8265': expected HOST:PORT"):
        check_backend("ray", None)
    with pytest.raises(UserError, match=r"^--address 'here': expected HOST:PORT"):
        check_backend("ray", "here")
    check_backend("local", None)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("a..b:1", "no Ray cluster answers there"),
        (f"{'a' * 70}.org:1", "no Ray cluster answers there"),
        ("127.0.0.1:²", "expected HOST:PORT"),
        (f"127.0.0.1:{'9' * 5000}", "no Ray cluster answers there"),
        ("127.0.0.1:99999999999999999999", "no Ray cluster answers there"),
        ("127.0.0.1:70000", "no Ray cluster answers there"),
    ],
)
def test_what_is_no_host_or_no_port_is_one_line(address, message):
    with pytest.raises(UserError, match=rf"^--address .*{message}") as caught:
        check_backend("ray", address)
    assert "\n" not in str(caught.value)
