"""The rotation of keys, and the reset of their spend: /key/{key}/regenerate and /key/{key}/reset_spend."""

import re
from datetime import timedelta

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest
from tenants.durations import read_duration
from tenants.grants import check_key
from tenants.keys import rotate_key
from tenants.limits import LIMIT_FIELDS, check_limits, read_spend, read_usd, render_limits, reset_spend
from tenants.models import Scope
from tenants.permissions import Reach
from tenants.rest.authentication import caller_of
from tenants.rest.fields import read_body, read_text
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


class ResetKeySpend(KeyView):
    least_reach = Reach.TEAMS

    def post(self, request: Request, reference: str) -> Response:
        body = read_body(request, known={"reset_to"})
        if body.get("reset_to") is None:
            raise BadRequest("'reset_to' must be an amount in USD.", param="reset_to")
        pusd = read_usd(body["reset_to"], "reset_to")
        with transaction.atomic():
            key = self.find(reference)
            place = (key.organization, Scope.KEY, key.id)
            before = read_spend(*place, template_id=key.budget_template_id)
            if pusd > read_usd(before["spend"], "reset_to"):
                raise BadRequest("'reset_to' must not be more than the current spend.", param="reset_to")
            reset_spend(*place, pusd)
        after = read_spend(*place, template_id=key.budget_template_id)
        return Response(
            {
                "key_hash": key.digest,
                "spend": after["spend"],
                "previous_spend": before["spend"],
                "max_budget": render_limits(*place)["max_budget"],
                "budget_reset_at": after["budget_reset_at"],
            }
        )


def _read_grace(value: object) -> timedelta | None:
    """None where the former text stops at once."""
    if value is None or value == "" or (isinstance(value, str) and NO_GRACE.fullmatch(value.strip().lower())):
        return None
    return read_duration(value, "grace_period")
