"""PARSERS: every tool-call text parser of this folder by its name, as a deployment's `tool_call_parser` says it."""

from gateway import parsers
from gateway.parsers.contract import ToolParser
from gateway.protocol.registry import scan

PARSERS: dict[str, ToolParser] = scan(parsers, "PARSER")
