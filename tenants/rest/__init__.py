"""The management API of keys, teams and organizations."""
