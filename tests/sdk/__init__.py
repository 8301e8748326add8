"""The library gateway.sdk against scripted upstreams, without a server and without Django."""
