"""The wire formats, one a folder: `client_*` is what callers speak, `upstream_*` what the gateway speaks."""
