"""The parts that several dialects share."""
