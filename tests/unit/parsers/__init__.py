"""Tests of gateway.parsers."""
