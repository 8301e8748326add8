"""The numbers of the gateway for Prometheus, counted in each process and added up over those of a home."""
