"""What a scope request may get wrong."""

from holdfast.errors import NotFound


class UnknownInstance(NotFound):
    """There is no configured instance with this name. Use "alpha" or "beta"."""
