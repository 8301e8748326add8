"""Tests of gateway.protocol.json."""
