"""The way of a request from ASGI to the pipeline and of its answer back."""
