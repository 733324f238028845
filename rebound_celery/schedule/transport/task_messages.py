"""Makes the messages of Celery tasks that are stored without kombu's publishing: in a script that changes more."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from kombu import serialization

from . import celery_form


def stored_task(app: Any, queue: str, task: str, task_id: str, args: Sequence[Any], priority: int) -> bytes:
    """See `schedule.port.stored_task`."""
    made = app.amqp.as_task_v2(task_id, task, args=tuple(args), kwargs={}, ignore_result=True)
    headers, properties, parts, _event = made
    content_type, encoding, body = serialization.dumps(parts, app.conf.task_serializer)
    is_binary = isinstance(body, bytes)
    return celery_form.encode(
        {
            "body": base64.b64encode(body).decode() if is_binary else body,
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": {
                **properties,
                "delivery_mode": 2,
                "priority": priority,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "body_encoding": "base64" if is_binary else None,
            },
        }
    )
