"""The console's screens of deployments, stored responses and conversations: importing this registers them."""

from gateway.admin import conversation, deployment, stored_response

__all__ = ["conversation", "deployment", "stored_response"]
