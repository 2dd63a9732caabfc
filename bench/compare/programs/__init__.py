"""What runs in the peers' own environment: one module a peer, each a worker and a driver."""
