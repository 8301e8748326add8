#!/usr/bin/env python
"""The command line of Tollgate: `manage.py serve`, `worker`, `beat`, `create_key` and Django's own commands."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:  # its text names the variable
        sys.exit(f"Tollgate cannot start: {error}")
