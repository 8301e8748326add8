"""The parts of /v1/responses that keep state from one call to the next."""
