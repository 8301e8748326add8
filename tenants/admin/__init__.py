"""The console's screens of organizations, teams, users and virtual keys: importing this registers them."""

from tenants.admin import audit, budget, budget_template, end_user, organization, team, user, virtual_key

__all__ = ["audit", "budget", "budget_template", "end_user", "organization", "team", "user", "virtual_key"]
