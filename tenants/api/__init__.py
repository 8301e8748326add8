"""Our own management API under /api/: one file for each resource, over the services that LiteLLM's routes call too."""
