"""Everything that a URL can carry is used in the request, or refused with the reason when the message is scheduled."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.errors import InvalidSettingError
from rebound_celery.message.address import parse_address
from rebound_celery.urls.http_url import read_http_url


@pytest.mark.parametrize(
    ("url", "request_url"),
    [
        ("http://receiver", "http://receiver/"),
        ("http://receiver?a=1", "http://receiver/?a=1"),
        ("HTTPS://Receiver.Example/Path", "https://receiver.example/Path"),
        ("http://receiver:/a", "http://receiver/a"),
        ("http://receiver:80/a", "http://receiver/a"),
        ("https://receiver:0443/a", "https://receiver/a"),
        ("http://receiver:443/", "http://receiver:443/"),
        ("http://receiver:65535/", "http://receiver:65535/"),
        ("http://receiver./a", "http://receiver./a"),
        ("http://my_service-1:8000/a", "http://my_service-1:8000/a"),
        ("http://127.0.0.1/a", "http://127.0.0.1/a"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://[2001:DB8:0::1]/a", "http://[2001:db8::1]/a"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://straße.example/", "http://xn--strae-oqa.example/"),
        ("http://日本。example/", "http://xn--wgv71a.example/"),
        ("http://receiver/größe?q=ö&r=%C3%B6", "http://receiver/gr%C3%B6%C3%9Fe?q=%C3%B6&r=%C3%B6"),
        ("http://receiver/a%2Fb%20c", "http://receiver/a%2Fb%20c"),
        ("http://receiver/100%?q=50%&r=%41", "http://receiver/100%25?q=50%25&r=%41"),
        ('http://receiver/{a}|"b"?c[]=<d>', "http://receiver/%7Ba%7D%7C%22b%22?c%5B%5D=%3Cd%3E"),
        ("http://receiver/a;b=1,c/!$&'()*+=:@?d=/?:@", "http://receiver/a;b=1,c/!$&'()*+=:@?d=/?:@"),
        ("http://receiver/a?", "http://receiver/a?"),
        ("http://receiver//a//b", "http://receiver//a//b"),
        ("http://user:secret@receiver/a", "http://receiver/a"),
        ("http://receiver/" + "a" * 7_000, "http://receiver/" + "a" * 7_000),
    ],
)
def test_what_the_request_is_sent_to(url: str, request_url: str) -> None:
    assert read_http_url(url).request_url == request_url


@pytest.mark.parametrize(
    ("userinfo", "text"),
    [
        ("user:secret", "user:secret"),
        ("user", "user:"),
        ("user:", "user:"),
        (":token", ":token"),
        ("us%40er:p%2Fw%3A", "us@er:p/w:"),
        ("user:a:b", "user:a:b"),
        ("us@er:a@b", "us@er:a@b"),
        ("üser:größe", "üser:größe"),
        ("user:100%", "user:100%"),
    ],
)
def test_user_and_password_become_basic_authentication(userinfo: str, text: str) -> None:
    authorization = read_http_url(f"http://{userinfo}@receiver/").authorization

    assert authorization is not None
    scheme, _, token = authorization.partition(" ")
    assert (scheme, base64.b64decode(token).decode()) == ("Basic", text)


def test_a_url_without_user_has_no_authorization() -> None:
    assert read_http_url("http://receiver/").authorization is None
    assert read_http_url("http://@receiver/").authorization is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://receiver/a#part", "fragment"),
        ("http://receiver/a#", "fragment"),
        ("http://user:p#w@receiver/", "fragment"),
        ("http://us%3Aer:pw@receiver/", "has no ':'"),
        ("http://user:p%0D%0Aw@receiver/", "control characters"),
        ("http://user:p/w@receiver/", "port"),
        ("http://receiver:0/", "1 to 65535"),
        ("http://receiver:65536/", "1 to 65535"),
        ("http://receiver:" + "9" * 5_000 + "/", "1 to 65535"),
        ("http://receiver:8x/", "port"),
        ("http://receiver:-1/", "port"),
        ("http://receiver:\N{FULLWIDTH DIGIT EIGHT}0/", "host"),
        ("http://a b/", "has no ' '"),
        ("http://receiver/a\tb", r"has no '\\t'"),
        ("http://receiver/\u00a0", r"has no '\\xa0'"),
        ("http://receiver/\u2028", r"has no '\\u2028'"),
        ("http://receiver/\x85", r"has no '\\x85'"),
        ("http://receiver/\ud800", r"has no '\\ud800'"),
        ("http://good\\@evil/", r"has no '\\\\'"),
        ("http://[::1]x:80/", "host"),
        ("http://x[::1]/", "host"),
        ("http://[::1/", "host"),
        ("http://[v1.x]/", "host"),
        ("http://[receiver]/", "host"),
        ("http://[1:2]/", "host"),
        ("http://[fe80::1%25eth0]/", "zone"),
        ("http://::1/", "host"),
        ("http://a..b/", "letters, digits"),
        ("http://.a/", "letters, digits"),
        ("http://a%41/", "letters, digits"),
        ("http://a,b/", "letters, digits"),
        (f"http://{'a' * 64}/", "letters, digits"),
        (f"http://{'a.' * 130}/", "letters, digits"),
        ("http://ü..b/", "."),
        ("http://☃\u200b/", "."),
        (f"http://{'ü' * 64}/", "."),
        ("http://receiver/" + "a" * 8_000, "8000 bytes"),
        ("http://receiver/" + "ö" * 1_400, "8000 bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"^destination url=.* cannot be used: ") as refused:
        parse_address(url)

    assert refused.match(reason)
    assert len(str(refused.value)) < 600


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_any_url_is_used_in_ascii_or_refused(host: str, path: str, query: str) -> None:
    try:
        read = read_http_url(f"http://{host}/{path}?{query}")
    except ValueError:
        return
    assert read.request_url.isascii()
    assert read.request_url.isprintable()
    assert " " not in read.request_url
    assert read_http_url(read.request_url)._replace(authorization=read.authorization) == read
