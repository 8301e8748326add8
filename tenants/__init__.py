"""Organizations, teams, users and virtual keys: they decide who may call which models."""
