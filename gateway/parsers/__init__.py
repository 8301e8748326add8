"""The parsers that read tool calls and thinking out of a model's text, one form a file."""
