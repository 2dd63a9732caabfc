"""The showcase: what the api and worker containers run, built on ``holdfast``."""
