"""The HTTP endpoints that fail or are disabled: to see them, enable or disable them, and recover what they missed."""

from __future__ import annotations

from .endpoints import Endpoint, Endpoints

__all__ = ["Endpoint", "Endpoints"]
