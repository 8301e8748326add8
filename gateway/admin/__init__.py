"""The console's screens of deployments, routing, stored responses and conversations: importing this registers them."""

from gateway.admin import conversation, deployment, routing, stored_response

__all__ = ["conversation", "deployment", "routing", "stored_response"]
