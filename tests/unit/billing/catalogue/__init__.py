"""Tests of billing.catalogue."""
