"""The commands of the tenants that `manage.py` runs."""
