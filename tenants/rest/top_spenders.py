"""/spend/keys and /spend/users: those that spent most first, in the shapes of /key/list and /user/list."""

from django.db.models import F
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.models import User, VirtualKey
from tenants.permissions import Reach
from tenants.rest.fields import read_count, read_query
from tenants.rest.key_list import order_keys
from tenants.rest.key_views import KeyView
from tenants.rest.keys import render_keys
from tenants.rest.users import UserView, lifetime_spend, render_users

MAX_ROWS = 1000


class SpendKeys(KeyView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"limit"})
        limit = read_count(query, "limit", default=MAX_ROWS, maximum=MAX_ROWS)
        keys = order_keys(self.rows(VirtualKey.objects.all()), {"sort_by": "spend"})
        return Response(render_keys(list(keys.select_related("user", "organization", "budget_template")[:limit])))


class SpendUsers(UserView):
    """`user_id` names one."""

    least_reach = Reach.OWN

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"limit", "user_id"})
        limit = read_count(query, "limit", default=MAX_ROWS, maximum=MAX_ROWS)
        users = self.rows(User.objects.all())
        if "user_id" in query:
            users = users.filter(username=query["user_id"])
        dearest = F("lifetime_pusd").desc(nulls_last=True)
        ordered = users.annotate(lifetime_pusd=lifetime_spend()).order_by(dearest, "-pk")
        return Response(render_users(ordered.select_related("organization")[:limit]))
