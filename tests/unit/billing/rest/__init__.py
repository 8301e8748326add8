"""Tests of billing.rest."""
