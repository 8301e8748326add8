"""Tests of gateway.protocol.dialects.bedrock."""
