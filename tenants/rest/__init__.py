"""The management API of keys and teams."""
