"""The database migrations of organizations, teams, users and virtual keys."""
