"""The operator's console in a real browser: against a fake life, and against a native stack."""
