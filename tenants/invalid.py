"""The refusals of services that write to the database."""

from typing import ClassVar


class ArgumentInvalid(ValueError):
    """An argument that a service cannot store; `param` is its name, `code` the error code that clients look for."""

    code: ClassVar[str | None] = None

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param
        self.message = message


class KeyInvalid(ArgumentInvalid):
    """An argument that no key, team or limit can have. The message never quotes a key."""
