"""PROVIDERS: every provider of this folder by its name; PREFIXES also by the other names that stand for it in
`provider/model`."""

from gateway import providers
from gateway.protocol.provider import Provider
from gateway.protocol.registry import scan

PROVIDERS: dict[str, Provider] = scan(providers, "PROVIDER")
PREFIXES: dict[str, Provider] = PROVIDERS | {
    alias: provider for provider in PROVIDERS.values() for alias in provider.aliases
}
