"""The database models of deployments, stored responses and conversations."""

from gateway.models.conversation import Conversation, ConversationItem, IdempotencyKey
from gateway.models.deployment import Deployment
from gateway.models.deployment_health import DeploymentHealth
from gateway.models.router_settings import RouterSettings
from gateway.models.stored_response import BackgroundRun, EventBatch, StoredResponse

__all__ = [
    "BackgroundRun",
    "Conversation",
    "ConversationItem",
    "Deployment",
    "DeploymentHealth",
    "EventBatch",
    "IdempotencyKey",
    "RouterSettings",
    "StoredResponse",
]
