"""An index that is built while rows are written."""

from tenants.migrations._online_index import AddIndexOnline

__all__ = ["AddIndexOnline"]
