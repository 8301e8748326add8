"""The public conformance suites, run against a gateway."""
