"""What `celery inspect conf`, `celery report` and Flower show of rebound's settings has no secret in it."""

from __future__ import annotations

import base64

from celery import Celery
from celery.utils.serialization import jsonify

from rebound_celery import HttpOptions, Rebound

SECRET = "hunter2hunter2hunter2hunter2"
KEY = f"whsec_{base64.b64encode(SECRET.encode()).decode()}"
SETTINGS = {
    "rebound_kafka_security": {"sasl_mechanism": "PLAIN", "sasl_username": "shop", "sasl_password": SECRET},
    "rebound_http_proxy": f"http://shop:{SECRET}@proxy:3128",
    "rebound_operator_url": f"https://shop:{SECRET}@ops.example/hook?token={SECRET}",
    "rebound_http_destinations": {
        "*": {"headers": {"Authorization": SECRET}, "query": {"token": SECRET}, "secret": KEY, "strict": True},
        "https://a.example/*": {"proxy": f"http://shop:{SECRET}@other:3128", "secret": [{"key": KEY}]},
        "https://b.example/*": HttpOptions(headers={"X-Token": SECRET}, secret=KEY),
    },
}


def test_the_settings_are_shown_without_secrets() -> None:
    app = Celery("shop", set_as_current=False)
    Rebound(app)
    app.conf.update(SETTINGS)

    for shown in (app.conf.humanize(), str(jsonify(app.conf.table(), unknown_type_filter=repr))):
        assert SECRET not in shown
        assert KEY not in shown
        for kept in ("proxy:3128", "https://***@ops.example/hook", "Authorization", "strict", "https://a.example/*"):
            assert kept in shown


def test_the_settings_of_an_app_with_a_namespace_are_shown_without_secrets() -> None:
    app = Celery("shop", set_as_current=False)
    Rebound(app)
    app.config_from_object({f"CELERY_{name.upper()}": value for name, value in SETTINGS.items()}, namespace="CELERY")

    assert SECRET not in app.conf.humanize()
    assert app.rebound.settings.http_proxy == SETTINGS["rebound_http_proxy"], "only what is shown changes"
