"""Tests of one module each, without a socket; the folders mirror the source."""
