"""Tests against a real model that runs on this machine."""
