"""Loads the objects of the openai package with the first call that needs them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.sdk.results import ResultMaker


def load_results() -> "ResultMaker":
    """Raises ImportError, which names the extra."""
    try:
        from gateway.sdk.results import RESULTS  # noqa: PLC0415 - takes longer than the rest of the SDK
    except ModuleNotFoundError as error:
        raise ImportError("The SDK answers with objects of the openai package: pip install 'tollgate[sdk]'.") from error
    return RESULTS
