"""The management API of the spend log."""
