"""The types of parsed JSON. `Any` means JSON in this module alone; every other module imports these names."""

from collections.abc import Mapping
from typing import Any

#: Any JSON value: an object, an array, a string, a number, a boolean or null.
Json = Any
#: A JSON object that its holder may change.
JsonObject = dict[str, Json]
#: A JSON object that its reader leaves as it is.
JsonMapping = Mapping[str, Json]
