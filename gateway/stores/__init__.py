"""The pipeline's ports over the database, the ORM's threads, and what keeps a process in step with the database."""
