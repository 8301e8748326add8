"""What only /v1/responses adds to the pipeline: state that lasts from one call to the next."""
