"""Acceptance tests: the whole native stack, with real processes and signals."""

from tests.support.reporting import pytest_runtest_makereport, pytest_terminal_summary

__all__ = ["pytest_runtest_makereport", "pytest_terminal_summary"]
