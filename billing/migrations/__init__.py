"""The database migrations of prices, spend logs and rollups."""
