"""Reports: their periods, parameters and texts."""
