"""The commands that `manage.py` and `tollgate` run."""
