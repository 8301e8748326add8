"""The commands of billing that `manage.py` runs."""
