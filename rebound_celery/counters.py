"""The counters with labels that are kept in Redis: their names, and the form of a field's name.

A field is a metric, a bar, and its labels as a JSON object. The scripts of the schedule know nothing of labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: How deliveries ended: destination, result, message, and the label keys of the app's setting.
DELIVERIES = "deliveries"
#: Retries that were delivered: attempt, and the label keys of the app's setting.
RETRIES = "retries"
#: Dead letters that were written: reason, topic, and the label keys of the app's setting.
DEAD_LETTERS = "dead_letters"
#: How long destinations took: destination, and the upper bound in milliseconds (`le`); and the sum of the milliseconds.
DELIVERY_TIME = "delivery_time"
DELIVERY_TIME_SUM = "delivery_time_sum"
#: How long messages were due until a worker claimed them. The script `claim` counts it, and its field has the bound in
#: milliseconds instead of labels.
CLAIM_DELAY = "claim_delay"
CLAIM_DELAY_SUM = "claim_delay_sum"

#: The upper bounds of both histograms, in milliseconds, as `counted.lua` has them. Above the last one is "inf".
BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 900000, 3600000)
INFINITE = "inf"

#: How many fields a metric may have. What would need another is counted with OTHER as the value of its open labels.
MAX_FIELDS = 200
OTHER = "other"

#: The longest value of a label, in characters.
_LONGEST = 120


def field(metric: str, labels: Mapping[str, str]) -> str:
    """The name of the field of a metric with these labels."""
    short = {name: value[:_LONGEST] for name, value in labels.items()}
    return f"{metric}|{json.dumps(short, separators=(',', ':'))}"


def labels_of(text: str) -> dict[str, str] | None:
    """The labels in what follows the bar of a field's name; None if a later version wrote something else."""
    try:
        found: Any = json.loads(text) if text else {}
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {str(name): str(value) for name, value in found.items()}
