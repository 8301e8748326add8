"""Forecasts of one call: the limits, budgets and deployments that apply to it; nothing is taken."""
