"""Which proxy a post goes through: `rebound_http_proxy`, and what the environment says to all HTTP clients."""

from __future__ import annotations

import pytest

from rebound_celery.config import Settings
from rebound_celery.destinations.http_proxy import Proxies
from rebound_celery.environment import environment_proxies
from rebound_celery.errors import InvalidSettingError

ENVIRONMENT = {"http": "http://plain:3128", "https": "http://secure:3128"}


def proxy_of(proxies: Proxies, url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    proxy = proxies.of(scheme, host, int(port))
    return None if proxy is None else proxy.origin


def test_each_scheme_has_its_proxy_and_all_proxy_stands_in() -> None:
    assert proxy_of(Proxies(None, ENVIRONMENT), "http://receiver:80") == "http://plain:3128"
    assert proxy_of(Proxies(None, ENVIRONMENT), "https://receiver:443") == "http://secure:3128"
    assert proxy_of(Proxies(None, {"http": "plain:1", "all": "other:2"}), "https://receiver:443") == "http://other:2"
    assert proxy_of(Proxies(None, {}), "https://receiver:443") is None


def test_the_setting_wins_over_the_environment() -> None:
    assert proxy_of(Proxies("", ENVIRONMENT), "http://receiver:80") is None
    assert proxy_of(Proxies("http://mine:1", {**ENVIRONMENT, "no": "*"}), "https://receiver:443") == "http://mine:1"


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("*", "http://receiver:80"),
        ("receiver", "http://receiver:80"),
        ("RECEIVER", "http://receiver:80"),
        ("a,b, receiver", "http://receiver:80"),
        ("a b receiver", "http://receiver:80"),
        ("example", "http://a.b.example:80"),
        (".example", "http://a.example:80"),
        (".example", "http://example:80"),
        ("*.example", "http://a.example:80"),
        ("example", "http://example.:80"),
        ("receiver:8080", "http://receiver:8080"),
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("10.0.0.0/8", "http://10.7.7.7:80"),
        ("10.0.0.1/8", "http://10.7.7.7:80"),
        ("::1", "http://::1:80"),
        ("[::1]", "http://::1:80"),
        ("[::1]:80", "http://::1:80"),
        ("fd00::/8", "http://fd12::1:80"),
        ("0:0:0:0:0:0:0:1", "http://::1:80"),
        ("bücher.example", "http://a.xn--bcher-kva.example:80"),
        (".BÜCHER.example:080", "http://xn--bcher-kva.example:80"),
        ("127.1", "http://127.0.0.1:80"),
    ],
)
def test_no_proxy_spares(entries: str, url: str) -> None:
    assert proxy_of(Proxies(None, {"all": "proxy:1", "no": entries}), url) is None


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("", "http://receiver:80"),
        (" , ,", "http://receiver:80"),
        ("receive", "http://receiver:80"),
        ("ample", "http://example:80"),
        ("a.example", "http://example:80"),
        ("receiver:8080", "http://receiver:80"),
        ("10.0.0.0/8", "http://11.0.0.1:80"),
        ("10.0.0.0/99", "http://10.0.0.1:80"),
        ("0.0.1", "http://127.0.0.1:80"),
        ("1", "http://127.0.0.1:80"),
        ("10.0.0.0/8", "http://ten.example:80"),
        ("fd00::/8", "http://10.0.0.1:80"),
    ],
)
def test_no_proxy_does_not_spare(entries: str, url: str) -> None:
    assert proxy_of(Proxies(None, {"all": "proxy:1", "no": entries}), url) == "http://proxy:1"


def test_a_proxys_user_and_password_become_basic_authentication() -> None:
    proxy = Proxies(None, {"http": "http://us%40er:p%2Fw@proxy:3128/"}).of("http", "receiver", 80)

    assert proxy is not None
    assert (proxy.origin, proxy.authorization) == ("http://proxy:3128", "Basic dXNAZXI6cC93")


@pytest.mark.parametrize(
    "text", ["socks5://u:secret@proxy:1", "https://u:secret@proxy", "http://u:secret@proxy/x", "http://"]
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ValueError, match="http://host:port") as refused:
        Proxies(None, {"all": text}).of("http", "receiver", 80)
    assert "secret" not in str(refused.value)

    with pytest.raises(InvalidSettingError, match=r"^rebound_http_proxy=") as invalid:
        Settings.read({"rebound_http_proxy": text}, {})
    assert "secret" not in str(invalid.value)


@pytest.mark.parametrize("value", [7, b"http://proxy", ["http://proxy"]])
def test_a_setting_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidSettingError, match=r"^rebound_http_proxy="):
        Settings.read({"rebound_http_proxy": value}, {})


def test_the_setting_is_read_and_its_password_is_not_shown() -> None:
    settings = Settings.read({"rebound_http_proxy": "http://u:secret@proxy:1"}, {})

    assert settings.http_proxy == "http://u:secret@proxy:1"
    assert "secret" not in repr(settings)
    assert Settings.read({}, {}).http_proxy is None
    assert Settings.read({"rebound_http_proxy": ""}, {}).http_proxy == ""
    assert Settings.read({}, {"REBOUND_HTTP_PROXY": ""}).http_proxy == ""
    assert Settings.read({}, {"REBOUND_HTTP_PROXY": "proxy:1"}).http_proxy == "proxy:1"


def test_the_environments_proxies_are_read_in_both_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "upper:1")
    monkeypatch.setenv("http_proxy", "lower:1")
    monkeypatch.setenv("HTTPS_PROXY", "secure:1")
    monkeypatch.setenv("no_proxy", "a,b")

    assert environment_proxies() == {"http": "lower:1", "https": "secure:1", "no": "a,b"}
