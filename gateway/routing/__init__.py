"""The choice of the deployments that a call is sent to."""
