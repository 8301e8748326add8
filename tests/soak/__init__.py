"""Three replicas under load, while an upstream, a replica or the configuration changes (`make soak`)."""
