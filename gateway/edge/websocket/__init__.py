"""WebSocket mode of /v1/responses: from a socket to the pipeline and back."""
