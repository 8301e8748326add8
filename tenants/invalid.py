"""The refusals of services that write to the database."""


class ArgumentInvalid(ValueError):
    """An argument that a service cannot store; `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param
        self.message = message
