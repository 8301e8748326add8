"""Finds the members of a folder: one public constant a module. A name that two members share stops the start."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def scan(package: ModuleType, constant: str) -> dict[str, Any]:
    """{member.name: member} over the modules of `package`; the constant is one member or a tuple of them."""
    members: dict[str, Any] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        exported = vars(module).get(constant, ())
        for member in exported if isinstance(exported, tuple) else (exported,):
            if member.name in members:
                raise LookupError(f"{package.__name__}: two members are named {member.name!r}")
            members[member.name] = member
    return members
