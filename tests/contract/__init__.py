"""One suite a port, run over each adapter of it: SQLite and PostgreSQL, memory and database."""
