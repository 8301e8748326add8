"""Tests of gateway.pipeline.responses."""
