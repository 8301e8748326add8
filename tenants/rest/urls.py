"""Routes of keys and teams, each with and without a trailing slash, as LiteLLM's clients call them."""

from django.urls import re_path

from tenants.rest.keys import BlockKey, DeleteKeys, GenerateKey, KeyInfo, ListKeys, UnblockKey, UpdateKey
from tenants.rest.teams import ListTeams, NewTeam, TeamInfo
from tenants.rest.views import UnknownRoute

urlpatterns = [
    re_path(r"^key/generate/?$", GenerateKey.as_view()),
    re_path(r"^key/info/?$", KeyInfo.as_view()),
    re_path(r"^key/list/?$", ListKeys.as_view()),
    re_path(r"^key/update/?$", UpdateKey.as_view()),
    re_path(r"^key/delete/?$", DeleteKeys.as_view()),
    re_path(r"^key/block/?$", BlockKey.as_view()),
    re_path(r"^key/unblock/?$", UnblockKey.as_view()),
    re_path(r"^team/new/?$", NewTeam.as_view()),
    re_path(r"^team/info/?$", TeamInfo.as_view()),
    re_path(r"^team/list/?$", ListTeams.as_view()),
    re_path(r"^(?:key|team)/", UnknownRoute.as_view()),
]
