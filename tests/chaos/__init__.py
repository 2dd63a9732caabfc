"""The seeded fault campaign: ``python -m tests.chaos --seed S --minutes M [--backend native|compose]``."""
