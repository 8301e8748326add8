"""The management API of deployments."""
