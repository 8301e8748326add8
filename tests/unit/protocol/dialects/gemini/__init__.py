"""Tests of gateway.protocol.dialects.gemini."""
