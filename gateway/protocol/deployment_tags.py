"""Tags of a deployment: the member `tags` of its parameters, which is not for the upstream's body.

Source: https://docs.litellm.ai/docs/proxy/tag_routing.
"""

TAGS = "tags"
MAX_TAGS = 50
MAX_TAG_CHARS = 255
NO_TAGS = frozenset[str]()


def read_tags(value: object) -> frozenset[str]:
    """The tags of a stored value; none where it is no list."""
    return frozenset(tag for tag in value if isinstance(tag, str)) if isinstance(value, list) else NO_TAGS


def find_tags_problem(value: object) -> str:
    """The problem of a value that is written; empty for none."""
    if isinstance(value, list) and len(value) <= MAX_TAGS and all(map(_is_tag, value)):
        return ""
    return f"must be a list of at most {MAX_TAGS} texts, each of at most {MAX_TAG_CHARS} characters"


def _is_tag(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= MAX_TAG_CHARS
