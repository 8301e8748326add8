"""Row-level security of PostgreSQL: a second wall between organizations, behind the filters of the ORM."""
