"""Provider classes that several providers share."""
