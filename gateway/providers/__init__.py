"""The providers, one a file: the URL, credentials and quirks of a service that runs models."""
