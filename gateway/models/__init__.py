"""What the data plane routes to."""

from gateway.models.deployment import Deployment

__all__ = ["Deployment"]
