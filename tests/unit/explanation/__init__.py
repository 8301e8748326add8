"""Tests of gateway.explanation."""
