"""Towards the nodes: reaching them, looking at them, and asking whose a client is."""
