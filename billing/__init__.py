"""Prices, spend logs and reports: they record what each call cost."""
