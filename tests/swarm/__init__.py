"""A Swarm of one node: the stack file for real, and rolling updates under load."""
