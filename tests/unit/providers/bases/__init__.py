"""Tests of gateway.providers.bases."""
