"""Alerts: found from budgets, sums and spend rows; written once; sent to channels."""
