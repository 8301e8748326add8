"""How a process starts, listens, drains and ends."""
