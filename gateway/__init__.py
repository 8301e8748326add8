"""The Django project and composition root of the data plane: it routes calls to upstreams and remembers responses."""
