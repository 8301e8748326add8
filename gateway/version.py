"""The version, equal to the top heading of docs/CHANGELOG.md (a test holds them together)."""

VERSION = "0.1.0"
