"""Scheduled reports: when they are due, the one way to change them, and the worker's part that makes and sends them."""
