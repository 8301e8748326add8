"""Tests of gateway.protocol.dialects.responses."""
