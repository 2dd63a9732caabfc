"""An attack on a stack's API by clients without a token, and what the operator sees: `make attack`."""
