"""The database migrations of deployments, stored responses and conversations."""
