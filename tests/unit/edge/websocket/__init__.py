"""Tests of gateway.edge.websocket."""
