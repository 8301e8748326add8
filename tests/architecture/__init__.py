"""Tests of the rules that the source itself follows."""
