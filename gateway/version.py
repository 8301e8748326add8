"""The version, equal to the top heading of docs/CHANGELOG.md (a test compares them)."""

VERSION = "0.1.0"
