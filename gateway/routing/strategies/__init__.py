"""The routing strategies, one a file, each with a constant STRATEGY."""
