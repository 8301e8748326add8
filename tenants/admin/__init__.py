"""The console's screens of organizations, teams, users and virtual keys: importing this registers them."""

from tenants.admin import organization, team, user, virtual_key

__all__ = ["organization", "team", "user", "virtual_key"]
