"""Tests that drive the console with Chromium."""
