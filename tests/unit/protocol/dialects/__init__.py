"""Tests of gateway.protocol.dialects."""
