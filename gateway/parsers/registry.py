"""The tool-call text parsers of this folder, by the names that a deployment's `tool_call_parser` takes."""

from gateway import parsers
from gateway.parsers.contract import ToolParser
from gateway.protocol.registry import scan

PARSERS: dict[str, ToolParser] = scan(parsers, "PARSER")
