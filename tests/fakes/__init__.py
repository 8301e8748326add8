"""Scripted upstreams, clocks and stores that tests hand in at the ports."""
