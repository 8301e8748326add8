"""The rotation of keys: /key/{key}/regenerate."""

import re
from datetime import timedelta

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest
from tenants.durations import read_duration
from tenants.grants import check_key
from tenants.keys import rotate_key
from tenants.limits import LIMIT_FIELDS, check_limits
from tenants.rest.authentication import caller_of
from tenants.rest.fields import read_text
from tenants.rest.key_views import KeyView, change_key, render_issued
from tenants.rest.keys import KEY_FIELDS, KEY_NAMES
from tenants.rest.unenforced_fields import read_fields

NO_GRACE = re.compile(r"0+ ?[a-z]*")


class RegenerateKey(KeyView):
    """Gives the key a new text, and changes the fields of the body. With `grace_period` both texts work for a time."""

    wire_names = {**KEY_NAMES, "text": "new_key"}

    def post(self, request: Request, reference: str = "") -> Response:
        known = KEY_FIELDS | LIMIT_FIELDS | {"key", "new_key", "grace_period", "new_master_key", "spend"}
        body = read_fields(request, known=known)
        if body.get("new_master_key") is not None:
            raise BadRequest(
                "The master key comes from TOLLGATE_MASTER_KEY; change it there and restart.", param="new_master_key"
            )
        check_limits(body)
        grace = _read_grace(body.get("grace_period"))
        named = read_text(body, "key")
        if reference and named not in {None, reference}:
            raise BadRequest("The path and 'key' name two keys.", param="key")
        with transaction.atomic():
            key = self.find(reference or named)
            check_key(caller_of(request), key)
            changes = {name: value for name, value in body.items() if name in KEY_FIELDS | LIMIT_FIELDS | {"spend"}}
            changed = change_key(caller_of(request), key, changes) if changes else key
            issued = rotate_key(changed, text=body.get("new_key"), grace=grace)
        return Response(render_issued(issued.key, issued.text, body))


def _read_grace(value: object) -> timedelta | None:
    """None where the former text stops at once."""
    if value is None or value == "" or (isinstance(value, str) and NO_GRACE.fullmatch(value.strip().lower())):
        return None
    return read_duration(value, "grace_period")
