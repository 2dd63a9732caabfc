"""Holdfast: durable workflows that survive their containers."""

__version__ = "0.1.0"
