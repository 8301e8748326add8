"""Finds the members of a folder: one public constant a module; a name that is taken stops the start."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def scan(package: ModuleType, constant: str) -> dict[str, Any]:
    """{member.name: member} over the modules of `package`; the constant is one member or a tuple of them."""
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        members = getattr(module, constant, ())
        for member in members if isinstance(members, tuple) else (members,):
            if member.name in found:
                raise LookupError(f"{package.__name__}: two members are named {member.name!r}")
            found[member.name] = member
    return found
