"""The console's screens of the spend log: importing this registers them."""

from billing.admin import spend_log

__all__ = ["spend_log"]
