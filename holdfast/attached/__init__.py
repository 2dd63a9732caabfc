"""Protects a DBOS application that its user wrote without Holdfast: takeover, drain, wake-ups, metrics."""
