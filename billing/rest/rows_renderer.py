"""RowsRenderer: JSON of many rows, written some at a time."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rest_framework.renderers import JSONRenderer

PART_ROWS = 50


class RowsRenderer(JSONRenderer):
    """json.dumps of thousands of rows is one step of the interpreter, and every stream of the process waits for it. So
    a list, or those that an object has, are written in parts."""

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        write = partial(super().render, accepted_media_type=accepted_media_type, renderer_context=renderer_context)

        def write_list(rows: list[Any]) -> bytes:
            starts = range(0, len(rows), PART_ROWS)
            return b"[%b]" % b",".join(write(rows[start : start + PART_ROWS])[1:-1] for start in starts)

        if isinstance(data, list):
            return write_list(data)
        if not isinstance(data, dict):
            return bytes(write(data))
        members = (
            write(name) + b":" + write_list(value) if isinstance(value, list) else write({name: value})[1:-1]
            for name, value in data.items()
        )
        return b"{%b}" % b",".join(members)
