"""Tests of reading invoices and of comparing them with spend, without any database."""
