"""Tests of gateway.protocol.dialects.anthropic."""
