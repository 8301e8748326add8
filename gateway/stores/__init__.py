"""The pipeline's ports over the database: SQL and the ORM, nothing else."""
