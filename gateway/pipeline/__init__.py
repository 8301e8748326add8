"""The stations of one call, free of any framework."""
