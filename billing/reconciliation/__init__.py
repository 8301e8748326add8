"""Reconciliation: the invoices of providers beside what the gateway has counted, and the causes of differences."""
