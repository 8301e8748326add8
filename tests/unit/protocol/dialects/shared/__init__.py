"""Tests of gateway.protocol.dialects.shared."""
