"""What the data plane routes to, and what it remembers."""

from gateway.models.conversation import Conversation, ConversationItem, IdempotencyKey
from gateway.models.deployment import Deployment
from gateway.models.stored_response import BackgroundRun, EventBatch, StoredResponse

__all__ = [
    "BackgroundRun",
    "Conversation",
    "ConversationItem",
    "Deployment",
    "EventBatch",
    "IdempotencyKey",
    "StoredResponse",
]
