"""Tests of gateway.protocol.dialects.openai."""
