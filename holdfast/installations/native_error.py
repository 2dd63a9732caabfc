"""The error of the native stack that its user must handle."""

from __future__ import annotations


class NativeError(Exception):
    """An error that the user must handle. Its message is one line."""
