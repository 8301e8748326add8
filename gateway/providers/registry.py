"""PROVIDERS: every provider of this folder by the prefix that stands before its models in `provider/model`."""

from gateway import providers
from gateway.protocol.provider import Provider
from gateway.protocol.registry import scan

PROVIDERS: dict[str, Provider] = scan(providers, "PROVIDER")
