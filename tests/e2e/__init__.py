"""Tests that drive a running gateway over HTTP."""
