"""The isolation matrix: every route of the management API × 14 actors × 5 kinds of objects, by `isolation_table`.

The routes come from the URL resolver, so a route without a row fails here.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tenants.rest.authentication import Guarded
from tenants.rest.idempotency import IdempotentWrites
from tenants.rest.views import ManagementView, UnknownRoute
from tests.contract.isolation_table import ACTORS, KINDS, ROUTES, Route
from tests.contract.isolation_world import World, call

pytestmark = pytest.mark.django_db
#: The routes that are tried behind row-level security too: a sample, or all in a run with that wall.
WALLED_ROUTES = list(ROUTES) if os.environ.get("TOLLGATE_TESTS_ROW_SECURITY") == "1" else list(ROUTES)[::10]
METHODS = ("get", "post", "put", "patch", "delete")
STATUSES = {"n": 404, "f": 403, "u": 401, "b": 400}


def find_patterns(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, type[Any], set[str]]]:
    """The expression, the class and the methods of every view outside the console."""
    for entry in resolver.url_patterns:
        expression = f"{prefix}{entry.pattern}"
        if isinstance(entry, URLResolver):
            if not expression.startswith("console"):
                yield from find_patterns(entry, expression)
        elif isinstance(entry, URLPattern):
            view = getattr(entry.callback, "view_class", None) or getattr(entry.callback, "cls", None)
            if view is not None:
                actions = getattr(entry.callback, "actions", None)  # of a viewset
                yield expression, view, set(actions or [name for name in METHODS if hasattr(view, name)])


def expand(expression: str) -> list[str]:
    """The paths of an expression, with `{name}` for its parameters."""
    text = expression.removeprefix("^").removesuffix("$").removesuffix("/?")
    text = re.sub(r"\(\?!.*?\$\)", "", text)
    text = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"{\1}", text)
    text = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", text)
    optional = re.search(r"\(\?:([^()|]*)\)\?", text)
    if optional:
        ends = text[: optional.start()], text[optional.end() :]
        return expand(ends[0] + ends[1]) + expand(ends[0] + optional[1] + ends[1])
    choice = re.search(r"\(\?:([^()]*)\)", text)
    if choice:
        ends = text[: choice.start()], text[choice.end() :]
        return [path for word in choice[1].split("|") for path in expand(ends[0] + word + ends[1])]
    return [f"/{text.strip('/')}"]


VIEWS = [
    (expression, view, methods)
    for expression, view, methods in find_patterns(get_resolver())
    if issubclass(view, Guarded) and not issubclass(view, UnknownRoute)
]
FOUND = {
    f"{method.upper()} {path}" for expression, _, methods in VIEWS for path in expand(expression) for method in methods
}


def test_every_route_has_a_row_and_every_row_a_route():
    assert set(ROUTES) == FOUND


@pytest.mark.parametrize("view", sorted({view for _, view, _ in VIEWS}, key=lambda view: view.__name__))
def test_every_view_names_its_area(view: type[Any]):
    assert any("area" in vars(cls) for cls in view.__mro__ if cls not in (Guarded, ManagementView)), view


@pytest.mark.parametrize("view", sorted({view for _, view, _ in VIEWS}, key=lambda view: view.__name__))
def test_every_view_honours_idempotency_keys(view: type[Any]):
    assert issubclass(view, IdempotentWrites)


@pytest.mark.parametrize("name", ROUTES)
def test_a_route_serves_what_the_table_says(client: Client, world: World, name: str):
    assert find_deviations(client, world, name) == []


@pytest.mark.only_on("walled")
@pytest.mark.parametrize("name", WALLED_ROUTES)
def test_a_route_serves_the_same_behind_row_security(client: Client, world: World, name: str):
    assert find_deviations(client, world, name) == []


def find_deviations(client: Client, world: World, name: str) -> list[str]:
    """The cells of the table that the answers differ from."""
    route = ROUTES[name]
    failures = []
    for actor in ACTORS:
        cells = route.policy[actor]
        bodies: dict[str, bytes] = {}
        for kind, cell in zip(KINDS, cells, strict=False):
            object_id = world.objects[route.kind][kind] if route.kind else kind
            path, fields = route.path(name, object_id), route.fields(object_id)
            response = call(client, world.keys.get(actor), name, path, fields)
            text = response.content.decode()
            marker = world.objects[route.marker][kind] if route.marker else object_id
            failures += [f"{actor} {kind}: {problem}" for problem in compare(route, cell, marker, response)]
            bodies[kind] = text.replace(object_id, "{id}").encode()
        if not route.is_list and route.kind:
            for kind, cell in zip(KINDS, cells, strict=False):
                if cell in "nb" and cells[4] == cell and bodies[kind] != bodies["absent"]:
                    failures.append(f"{actor} {kind}: {bodies[kind]!r} tells it from an absent one")
    return failures


def compare(route: Route, cell: str, marker: str, response: Any) -> list[str]:
    """The answers that differ from the table."""
    status, text = response.status_code, response.content.decode()
    if cell in STATUSES:
        return [] if status == STATUSES[cell] else [f"{status} instead of {STATUSES[cell]}: {text[:200]}"]
    if status >= 300:
        return [f"{status} instead of an answer: {text[:200]}"]
    if route.is_list and (f'"{marker}"' in text) != (cell == "+"):
        return [f"{marker} {'missing' if cell == '+' else 'shown'}: {text[:200]}"]
    return []
