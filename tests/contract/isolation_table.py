"""The answer that each actor gets on each route of the management API, for each kind of object. All
expectations are here.

A policy has one line for each actor; its letters stand for the objects own, near, foreign, deleted and absent:
`+` served, `n` 404, `f` 403, `u` 401, `b` 400 (a body that names what the caller cannot reach). For a list, the letters
say which of own, near and foreign stand in the answer; `.` for one that does not.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

KINDS = ("own", "near", "foreign", "deleted", "absent")
ACTORS = (
    "anonymous",
    "revoked",
    "member",  # a key of type default; `own` objects are its user's
    "restricted",  # the same user's key of type llm_api
    "mate",  # another member of the team; `near` objects are this one's
    "service",  # a key of the team without a user
    "team_admin",
    "other_team",  # the admin of another team of the organization
    "foreign_admin",  # the admin of another organization; `foreign` objects are there
    "org_admin",
    "billing_viewer",
    "platform_viewer",
    "platform_admin",
    "master",
)


def read_policy(text: str) -> Mapping[str, str]:
    rows = dict(line.split() for line in text.splitlines() if line.strip())
    assert tuple(rows) == ACTORS, rows
    return rows


CLOSED_TO_OTHERS = """
    anonymous       uuuuu
    revoked         uuuuu
    member          fffff
    restricted      fffff
    mate            fffff
    service         fffff
    team_admin      fffff
    other_team      fffff
    foreign_admin   fffff
    org_admin       fffff
    billing_viewer  fffff
"""
PLATFORM_READ = read_policy(
    CLOSED_TO_OTHERS
    + """
    platform_viewer +++nn
    platform_admin  +++nn
    master          +++nn
"""
)
#: A key sees the models of its organization that it may call.
OWN_MODELS = read_policy(
    """
    anonymous       uuuuu
    revoked         uuuuu
    member          ++nnn
    restricted      ++nnn
    mate            ++nnn
    service         ++nnn
    team_admin      ++nnn
    other_team      ++nnn
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  ++nnn
    platform_viewer +++nn
    platform_admin  +++nn
    master          +++nn
"""
)
OWN_MODEL_LIST = read_policy(
    """
    anonymous       uuu
    revoked         uuu
    member          ++.
    restricted      ++.
    mate            ++.
    service         ++.
    team_admin      ++.
    other_team      ++.
    foreign_admin   ..+
    org_admin       ++.
    billing_viewer  ++.
    platform_viewer +++
    platform_admin  +++
    master          +++
"""
)
PLATFORM_WRITE = read_policy(
    CLOSED_TO_OTHERS
    + """
    platform_viewer fffff
    platform_admin  +++nn
    master          +++nn
"""
)
KEY_SELF = read_policy("""
    anonymous       uuuuu
    revoked         uuuuu
    member          +nnnn
    restricted      nnnnn
    mate            n+nnn
    service         nnnnn
    team_admin      ++nnn
    other_team      nnnnn
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  nnnnn
    platform_viewer +++nn
    platform_admin  +++nn
    master          +++nn
""")
KEY_WRITE = read_policy("""
    anonymous       uuuuu
    revoked         uuuuu
    member          +nnnn
    restricted      fffff
    mate            n+nnn
    service         fffff
    team_admin      ++nnn
    other_team      nnnnn
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  fffff
    platform_viewer fffff
    platform_admin  +++nn
    master          +++nn
""")
KEY_LIST = read_policy("""
    anonymous       uuu
    revoked         uuu
    member          +..
    restricted      fff
    mate            .+.
    service         fff
    team_admin      ++.
    other_team      ...
    foreign_admin   ..+
    org_admin       ++.
    billing_viewer  fff
    platform_viewer +++
    platform_admin  +++
    master          +++
""")
TEAM_READ = read_policy("""
    anonymous       uuuuu
    revoked         uuuuu
    member          fffff
    restricted      fffff
    mate            fffff
    service         fffff
    team_admin      +nnnn
    other_team      n+nnn
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  fffff
    platform_viewer +++nn
    platform_admin  +++nn
    master          +++nn
""")
TEAM_WRITE = read_policy("""
    anonymous       uuuuu
    revoked         uuuuu
    member          fffff
    restricted      fffff
    mate            fffff
    service         fffff
    team_admin      +nnnn
    other_team      n+nnn
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  fffff
    platform_viewer fffff
    platform_admin  +++nn
    master          +++nn
""")
TEAM_LIST = read_policy("""
    anonymous       uuu
    revoked         uuu
    member          fff
    restricted      fff
    mate            fff
    service         fff
    team_admin      +..
    other_team      .+.
    foreign_admin   ..+
    org_admin       ++.
    billing_viewer  fff
    platform_viewer +++
    platform_admin  +++
    master          +++
""")
ORGANIZATION_WRITE = read_policy("""
    anonymous       uuuuu
    revoked         uuuuu
    member          fffff
    restricted      fffff
    mate            fffff
    service         fffff
    team_admin      fffff
    other_team      fffff
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  fffff
    platform_viewer fffff
    platform_admin  +++nn
    master          +++nn
""")
ORGANIZATION_READ = read_policy("""
    anonymous       uuuuu
    revoked         uuuuu
    member          fffff
    restricted      fffff
    mate            fffff
    service         fffff
    team_admin      fffff
    other_team      fffff
    foreign_admin   nn+nn
    org_admin       ++nnn
    billing_viewer  fffff
    platform_viewer +++nn
    platform_admin  +++nn
    master          +++nn
""")
ORGANIZATION_LIST = read_policy("""
    anonymous       uuu
    revoked         uuu
    member          fff
    restricted      fff
    mate            fff
    service         fff
    team_admin      fff
    other_team      fff
    foreign_admin   ..+
    org_admin       ++.
    billing_viewer  fff
    platform_viewer +++
    platform_admin  +++
    master          +++
""")
BUDGET_READ = ORGANIZATION_READ | {
    "team_admin": "++nnn",
    "other_team": "++nnn",
    "billing_viewer": "++nnn",
}
BUDGET_LIST = ORGANIZATION_LIST | {"team_admin": "++.", "other_team": "++.", "billing_viewer": "++."}
ALERT_READ = ORGANIZATION_READ | {"billing_viewer": "++nnn"}
ALERT_LIST = ORGANIZATION_LIST | {"billing_viewer": "++."}
SPEND_LIST = KEY_LIST | {"restricted": "fff", "billing_viewer": "++."}
SPEND_READ = {
    actor: cells[0] * 5 if cells in {"uuu", "fff"} else cells.replace(".", "n") + "nn"
    for actor, cells in SPEND_LIST.items()
}
#: Sums that name no object: they are those of the rows that the caller sees.
SPEND_SUMS = {actor: cells[0] * 5 if cells in {"uuu", "fff"} else "+++++" for actor, cells in SPEND_LIST.items()}
TODAY = datetime.now(UTC).date()
THESE_DAYS = {"start_date": str(TODAY - timedelta(days=1)), "end_date": str(TODAY + timedelta(days=1))}
PLATFORM_LIST = {actor: cells[:3] for actor, cells in PLATFORM_READ.items()}


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `fields` makes the query or the body from the id of an object."""

    policy: Mapping[str, str]
    kind: str = ""  # of the objects: key, team, …; empty where the route names none
    fields: Callable[[str], dict[str, Any]] = field(default=lambda _: {})
    is_list: bool = False
    marker: str = ""  # the kind of ids by which a list shows an object, if it is not `kind`
    place: Mapping[str, str] = field(default_factory=dict)  # parameters of the path that are the same for all objects

    def path(self, name: str, object_id: str) -> str:
        """The path of a row's name for one object."""
        return re.sub(r"\{(\w+)\}", lambda match: self.place.get(match[1], object_id), name.partition(" ")[2])


def ids_in(name: str, **others: Any) -> Callable[[str], dict[str, Any]]:
    return lambda object_id: {name: [object_id], **others}


def id_in(name: str, **others: Any) -> Callable[[str], dict[str, Any]]:
    return lambda object_id: {name: object_id, **others}


#: An organization that the caller does not reach is none: 400 for the field of the body.
BUDGET_NEW = {actor: cells.replace("n", "b") for actor, cells in ORGANIZATION_WRITE.items()}
#: A body without anything in it, which only the door refuses otherwise.
PLATFORM_NEW = {actor: cells if cells in {"uuuuu", "fffff"} else "bbbbb" for actor, cells in PLATFORM_WRITE.items()}
#: One set of settings for the installation: there is no object.
SETTINGS_READ = {actor: cells.replace("n", "+") for actor, cells in PLATFORM_READ.items()}
SETTINGS_WRITE = {actor: cells.replace("n", "+") for actor, cells in PLATFORM_WRITE.items()}
#: There is no job in this world.
JOB_READ = {actor: cells.replace("+", "n") for actor, cells in PLATFORM_READ.items()}
JOB_WRITE = {actor: cells.replace("+", "n") for actor, cells in PLATFORM_WRITE.items()}
#: The deployments of this world have no upstream that could be asked.
MODEL_UPSTREAM = {actor: cells.replace("+", "b") for actor, cells in PLATFORM_READ.items()}
#: A mode that no model can be tested in: those who may test it learn that.
MODEL_TEST = {actor: cells.replace("+", "b") for actor, cells in ORGANIZATION_WRITE.items()}
#: The members of the team research: no one else is one, whatever users exist elsewhere.
MEMBER_WRITE = {
    actor: cells if cells in {"uuuuu", "fffff"} else "nnnnn" if cells[0] == "n" else "++bbb"
    for actor, cells in TEAM_WRITE.items()
}
#: The people of the organization acme.
PERSON_WRITE = {
    actor: cells if cells in {"uuuuu", "fffff"} else "nnnnn" if cells[0] == "n" else "++bbb"
    for actor, cells in ORGANIZATION_WRITE.items()
}
#: The bodies name the organization of `own`, which is no organization for the admin of another.
CUSTOMER_READ = ORGANIZATION_READ | {
    "foreign_admin": "bbbbb",
    "platform_viewer": "++nnn",
    "platform_admin": "++nnn",
    "master": "++nnn",
}
CUSTOMER_WRITE = CUSTOMER_READ | {"platform_viewer": "fffff", "billing_viewer": "fffff"}
#: Of those that exist already, a new one is refused.
CUSTOMER_NEW = {
    actor: cells if cells in {"uuuuu", "fffff", "bbbbb"} else "bb+++" for actor, cells in CUSTOMER_WRITE.items()
}
#: An end user that no request has named yet is blocked before its first.
CUSTOMER_BLOCK = {actor: cells.replace("n", "+") for actor, cells in CUSTOMER_WRITE.items()}


def customer_routes(name: str) -> dict[str, Route]:
    acme = {"organization_id": "acme"}
    return {
        f"POST /{name}/new": Route(CUSTOMER_NEW, "customer", id_in("user_id", **acme)),
        f"GET /{name}/info": Route(CUSTOMER_READ, "customer", id_in("end_user_id", **acme)),
        f"GET /{name}/list": Route(ORGANIZATION_LIST, "customer", is_list=True),
        f"POST /{name}/update": Route(CUSTOMER_WRITE, "customer", id_in("user_id", alias="taken", **acme)),
        f"POST /{name}/delete": Route(CUSTOMER_WRITE, "customer", ids_in("user_ids", **acme)),
        f"POST /{name}/block": Route(CUSTOMER_BLOCK, "customer", ids_in("user_ids", **acme)),
        f"POST /{name}/unblock": Route(CUSTOMER_WRITE, "customer", ids_in("user_ids", **acme)),
    }


SAMPLE = {"model": "model-own", "messages": [{"role": "user", "content": "hello"}]}


def change(policy: Mapping[str, str], **cells: str) -> Mapping[str, str]:
    return policy | cells


#: A key of another team than the caller's is refused like one of no team.
KEY_NEW = change({actor: cells.replace("n", "b") for actor, cells in TEAM_WRITE.items()}, member="+bbbb", mate="+bbbb")
SERVICE_KEY_NEW = change(KEY_NEW, member="fbbbb", mate="fbbbb")
#: Not for one's own key.
KEY_ADMIN = change(KEY_WRITE, member="fffff", mate="fffff")
KEY_DELETE = {actor: cells.replace("n", "b") for actor, cells in KEY_WRITE.items()}
KEY_BULK = {actor: cells[:3].replace("n", ".") for actor, cells in KEY_WRITE.items()}
ANY_KEY = {actor: "uuuuu" if actor in {"anonymous", "revoked"} else "+++++" for actor in ACTORS}
USER_READ = change(KEY_SELF, restricted="fffff", service="fffff")
USER_LIST = {actor: cells[:3].replace("n", ".") for actor, cells in USER_READ.items()}
USER_BULK = {actor: cells[:3].replace("n", ".") for actor, cells in ORGANIZATION_WRITE.items()}


AUDIT_READ = change(KEY_SELF, restricted="fffff", service="fffff", team_admin="nnnnn", billing_viewer="fffff")
AUDIT_LIST = {actor: cells[:3].replace("n", ".") for actor, cells in AUDIT_READ.items()}

OWN_MEMBERSHIP = dict.fromkeys(ACTORS, "nnnnn") | {
    **dict.fromkeys(("anonymous", "revoked"), "uuuuu"),
    **dict.fromkeys(("member", "mate", "team_admin"), "+nnnn"),
    "other_team": "n+nnn",
    "restricted": "fffff",
    **dict.fromkeys(("service", "master"), "bbbbb"),
}

#: The deployments of this world have no price: those who may call the model learn that.
OWN_PRICES = change({actor: cells.replace("+", "b") for actor, cells in OWN_MODELS.items()}, restricted="fffff")
KEY_READ = change(KEY_WRITE, platform_viewer="+++nn")
OTHER_MEMBERS = {actor: cells.replace("b", "n") for actor, cells in MEMBER_WRITE.items()}
MEMBER_READ = change(OTHER_MEMBERS, platform_viewer="++nnn")


def item_routes(
    path: str, kind: str, read: Mapping[str, str], write: Mapping[str, str], **more: Any
) -> dict[str, Route]:
    """The routes of one row of /api/."""
    body, remove = more.pop("body", {"metadata": {}}), more.pop("remove", write)
    return {
        f"GET /api/{path}": Route(read, kind, **more),
        f"PATCH /api/{path}": Route(write, kind, lambda _: dict(body), **more),
        f"DELETE /api/{path}": Route(remove, kind, **more),
    }


OWN_API = {
    "GET /api/keys": Route(KEY_LIST, "key_id", lambda _: {"page_size": 100}, is_list=True),
    "POST /api/keys": Route(KEY_NEW, "team", id_in("team_id")),
    **item_routes("keys/{key_id}", "key_id", KEY_READ, KEY_WRITE),
    "POST /api/keys/{key_id}/rotate": Route(KEY_WRITE, "key_id"),
    "POST /api/keys/{key_id}/block": Route(KEY_WRITE, "key_id"),
    "POST /api/keys/{key_id}/unblock": Route(KEY_ADMIN, "key_id"),
    "GET /api/teams": Route(TEAM_LIST, "team", is_list=True),
    "POST /api/teams": Route(BUDGET_NEW, "organization", id_in("organization_id")),
    **item_routes("teams/{team_id}", "team", TEAM_READ, TEAM_WRITE, remove=ORGANIZATION_WRITE),
    "GET /api/teams/{team_id}/members": Route(TEAM_READ, "team"),
    "POST /api/teams/{team_id}/members": Route(TEAM_WRITE, "team", lambda _: {"user_id": "new"}),
    **item_routes(
        "teams/{team_id}/members/{user_id}",
        "user",
        MEMBER_READ,
        OTHER_MEMBERS,
        body={"role": "user"},
        place={"team_id": "research"},
    ),
    "GET /api/users": Route(USER_LIST, "user", is_list=True),
    "POST /api/users": Route(BUDGET_NEW, "organization", id_in("organization_id")),
    **item_routes("users/{user_id}", "user", USER_READ, ORGANIZATION_WRITE),
    "GET /api/organizations": Route(ORGANIZATION_LIST, "organization", is_list=True),
    "POST /api/organizations": Route(PLATFORM_NEW),
    **item_routes("organizations/{organization_id}", "organization", ORGANIZATION_READ, PLATFORM_WRITE),
    "GET /api/end-users": Route(ORGANIZATION_LIST, "customer", is_list=True),
    "POST /api/end-users": Route(CUSTOMER_NEW, "customer", id_in("external_id", organization_id="acme")),
    **item_routes(
        "end-users/{end_user_id}", "end_user", ORGANIZATION_READ, ORGANIZATION_WRITE, body={"alias": "taken"}
    ),
    "GET /api/budget-templates": Route(BUDGET_LIST, "budget", is_list=True),
    "POST /api/budget-templates": Route(BUDGET_NEW, "organization", id_in("organization_id")),
    **item_routes("budget-templates/{budget_template_id}", "budget", BUDGET_READ, ORGANIZATION_WRITE, body={}),
    "GET /api/alert-channels": Route(ALERT_LIST, "alert_channel", is_list=True),
    "POST /api/alert-channels": Route(
        BUDGET_NEW,
        "organization",
        lambda place: {"organization_id": place, "name": "ops", "kind": "slack", "url": "https://ops.example/"},
    ),
    **item_routes("alert-channels/{alert_channel_id}", "alert_channel", ALERT_READ, ORGANIZATION_WRITE, body={}),
    "POST /api/alert-channels/{alert_channel_id}/test": Route(ORGANIZATION_WRITE, "alert_channel"),
    "POST /api/alert-channels/{alert_channel_id}/rotate": Route(ORGANIZATION_WRITE, "alert_channel"),
    "GET /api/report-schedules": Route(ALERT_LIST, "report_schedule", is_list=True),
    "POST /api/report-schedules": Route(
        BUDGET_NEW,
        "organization",
        lambda place: {
            "organization_id": place,
            "name": "weekly",
            "group_by": "team",
            "period": "last_week",
            "frequency": "weekly",
            "channel_ids": [f"channel-of-{place}"],
        },
    ),
    **item_routes("report-schedules/{report_schedule_id}", "report_schedule", ALERT_READ, ORGANIZATION_WRITE, body={}),
    "POST /api/report-schedules/{report_schedule_id}/run": Route(ORGANIZATION_WRITE, "report_schedule"),
    "GET /api/alerts": Route(ALERT_LIST, "alert", is_list=True),
    "GET /api/alerts/{alert_id}": Route(ALERT_READ, "alert"),
    "GET /api/alert-deliveries": Route(ALERT_LIST, "alert_delivery", is_list=True),
    "GET /api/alert-deliveries/{alert_delivery_id}": Route(ALERT_READ, "alert_delivery"),
    "GET /api/audit-entries": Route(AUDIT_LIST, "audit_object", is_list=True),
    "GET /api/audit-entries/{audit_entry_id}": Route(AUDIT_READ, "audit"),
    "GET /api/reports/spend": Route(
        SPEND_LIST,
        "key_id",
        lambda _: {**THESE_DAYS, "group_by": "key"},
        is_list=True,
    ),
    "GET /api/reports/reconciliation": Route(SETTINGS_READ, fields=lambda _: dict(THESE_DAYS)),
    "GET /api/invoice-imports": Route(SETTINGS_READ),
    "POST /api/invoice-imports": Route(PLATFORM_NEW),
    "GET /api/invoice-imports/{invoice_import_id}": Route(JOB_READ, place={"invoice_import_id": "absent"}),
    "DELETE /api/invoice-imports/{invoice_import_id}": Route(JOB_WRITE, place={"invoice_import_id": "absent"}),
    "GET /api/invoice-names": Route(SETTINGS_READ),
    "POST /api/invoice-names": Route(PLATFORM_NEW),
    "GET /api/invoice-names/{invoice_name_id}": Route(JOB_READ, place={"invoice_name_id": "4711"}),
    "DELETE /api/invoice-names/{invoice_name_id}": Route(JOB_WRITE, place={"invoice_name_id": "4711"}),
    "GET /api/spend-logs": Route(SPEND_LIST, "spend", is_list=True),
    "GET /api/spend-logs/{spend_log_id}": Route(SPEND_READ, "spend_log"),
    "GET /api/deployments": Route(PLATFORM_LIST, "model", is_list=True),
    "POST /api/deployments": Route(PLATFORM_NEW),
    **item_routes("deployments/{deployment_id}", "model", PLATFORM_READ, PLATFORM_WRITE, body={"model_group": "m"}),
    "GET /api/routing-settings": Route(SETTINGS_READ),
    "PUT /api/routing-settings": Route(SETTINGS_WRITE),
    "PATCH /api/routing-settings": Route(SETTINGS_WRITE),
    "GET /api/prices": Route(SETTINGS_READ),
    "POST /api/prices": Route(PLATFORM_NEW),
    "GET /api/price-drafts": Route(SETTINGS_READ),
    "POST /api/price-drafts/accept": Route(PLATFORM_NEW),
    "POST /api/price-drafts/reject": Route(PLATFORM_NEW),
    "GET /api/contracts": Route(SETTINGS_READ),
    "POST /api/contracts": Route(PLATFORM_NEW),
    "POST /api/contracts/{price_id}/end": Route(JOB_WRITE, place={"price_id": "absent"}),
    "GET /api/unpriced-models": Route(SETTINGS_READ),
    "GET /api/reprice-jobs": Route(SETTINGS_READ),
    "POST /api/reprice-jobs": Route(PLATFORM_NEW),
    "GET /api/reprice-jobs/{reprice_job_id}": Route(JOB_READ, place={"reprice_job_id": "absent"}),
    "POST /api/reprice-jobs/{reprice_job_id}/cancel": Route(JOB_WRITE, place={"reprice_job_id": "absent"}),
    "GET /api/schema": Route(change(ANY_KEY, restricted="fffff")),
}

#: "METHOD /path", with the names of its parameters → what is expected.
ROUTES: Mapping[str, Route] = {
    "POST /budget/update": Route(ORGANIZATION_WRITE, "budget", id_in("budget_id", max_budget=5)),
    "POST /budget/delete": Route(ORGANIZATION_WRITE, "budget", id_in("id")),
    "GET /budget/settings": Route(BUDGET_READ, "budget", id_in("budget_id")),
    "POST /budget/info": Route(BUDGET_LIST, "budget", ids_in("budgets"), is_list=True),
    "GET /budget/list": Route(BUDGET_LIST, "budget", is_list=True),
    "GET /audit": Route(AUDIT_LIST, "audit", lambda _: {"page_size": 100}, is_list=True, marker="audit_object"),
    "GET /audit/{entry_id}": Route(AUDIT_READ, "audit"),
    "GET /spend/logs": Route(SPEND_LIST, "spend", is_list=True),
    "GET /spend/logs/v2": Route(SPEND_LIST, "spend", lambda _: THESE_DAYS, is_list=True),
    "GET /spend/keys": Route(KEY_LIST, "key", is_list=True),
    "GET /spend/users": Route(USER_LIST, "user", is_list=True),
    "GET /spend/tags": Route(SPEND_SUMS),
    "POST /spend/calculate": Route(OWN_PRICES, "model", lambda name: {**SAMPLE, "model": name}),
    "GET /global/spend/report": Route(SPEND_LIST, "key", lambda _: {**THESE_DAYS, "group_by": "api_key"}, is_list=True),
    "GET /global/activity": Route(SPEND_SUMS, fields=lambda _: THESE_DAYS),
    "GET /global/activity/model": Route(SPEND_SUMS, fields=lambda _: THESE_DAYS),
    **{
        f"GET /{name}/daily/activity": Route(SPEND_LIST, "key", lambda _: THESE_DAYS, is_list=True)
        for name in ("user", "team", "tag", "customer", "end_user", "organization")
    },
    "POST /budget/new": Route(BUDGET_NEW, "organization", id_in("organization_id", max_budget=1)),
    "POST /model/new": Route(PLATFORM_NEW),
    "POST /model/update": Route(
        ORGANIZATION_WRITE, "model", lambda name: {"litellm_params": {"weight": 2}, "model_info": {"id": name}}
    ),
    "PATCH /model/{model_id}/update": Route(ORGANIZATION_WRITE, "model", lambda _: {"litellm_params": {"weight": 2}}),
    "POST /model/delete": Route(PLATFORM_WRITE, "model", id_in("id")),
    "GET /model/info": Route(OWN_MODELS, "model", id_in("litellm_model_id")),
    "GET /v1/model/info": Route(OWN_MODELS, "model", id_in("litellm_model_id")),
    "GET /model_group/info": Route(OWN_MODEL_LIST, "model", is_list=True),
    "GET /health": Route(PLATFORM_LIST, "model", is_list=True),
    "POST /model/block": Route(ORGANIZATION_WRITE, "model", id_in("model_id")),
    "POST /model/unblock": Route(ORGANIZATION_WRITE, "model", id_in("model_id")),
    "GET /v2/model/info": Route(PLATFORM_LIST, "model", is_list=True),
    "GET /model/upstream": Route(MODEL_UPSTREAM, "model", id_in("model_id")),
    "POST /model/test": Route(MODEL_TEST, "model", id_in("model_id", mode="telepathy")),
    "POST /team/new": Route(BUDGET_NEW, "organization", id_in("organization_id")),
    "GET /team/info": Route(TEAM_READ, "team", id_in("team_id")),
    "GET /team/list": Route(TEAM_LIST, "team", is_list=True),
    "GET /v2/team/list": Route(TEAM_LIST, "team", is_list=True),
    "POST /team/update": Route(TEAM_WRITE, "team", id_in("team_id", team_alias="taken")),
    "PATCH /team/{team_id}": Route(TEAM_WRITE, "team", lambda _: {"team_alias": "taken"}),
    "POST /team/delete": Route(ORGANIZATION_WRITE, "team", ids_in("team_ids")),
    "POST /team/{team_id}/reset_spend": Route(ORGANIZATION_WRITE, "team", lambda _: {"reset_to": 0}),
    "POST /team/block": Route(ORGANIZATION_WRITE, "team", id_in("team_id")),
    "POST /team/unblock": Route(ORGANIZATION_WRITE, "team", id_in("team_id")),
    "POST /team/model/add": Route(ORGANIZATION_WRITE, "team", id_in("team_id", models=["m"])),
    "POST /team/model/delete": Route(ORGANIZATION_WRITE, "team", id_in("team_id", models=["m"])),
    "GET /team/available": Route(change(ANY_KEY, restricted="fffff")),
    "GET /team/{team_id}/members/me": Route(OWN_MEMBERSHIP, "team"),
    "GET /team/permissions_list": Route(TEAM_READ, "team", id_in("team_id")),
    "POST /team/permissions_update": Route(TEAM_WRITE, "team", id_in("team_id", team_member_permissions=["/key/info"])),
    "POST /team/member_add": Route(TEAM_WRITE, "team", id_in("team_id", member={"user_id": "new", "role": "admin"})),
    "POST /team/bulk_member_add": Route(
        TEAM_WRITE, "team", id_in("team_id", members=[{"user_id": "new", "role": "user"}])
    ),
    "POST /team/member_update": Route(MEMBER_WRITE, "user", id_in("user_id", team_id="research", role="user")),
    "POST /team/member_delete": Route(MEMBER_WRITE, "user", id_in("user_id", team_id="research")),
    "POST /organization/new": Route(PLATFORM_NEW),
    "PATCH /organization/update": Route(PLATFORM_WRITE, "organization", id_in("organization_id", metadata={})),
    "PATCH /v2/organization/{organization_id}": Route(PLATFORM_WRITE, "organization", lambda _: {"metadata": {}}),
    "DELETE /organization/delete": Route(PLATFORM_WRITE, "organization", ids_in("organization_ids")),
    "GET /organization/info": Route(ORGANIZATION_READ, "organization", id_in("organization_id")),
    "POST /organization/info": Route(ORGANIZATION_LIST, "organization", ids_in("organizations"), is_list=True),
    "GET /organization/list": Route(ORGANIZATION_LIST, "organization", is_list=True),
    "POST /organization/member_add": Route(
        ORGANIZATION_WRITE, "organization", id_in("organization_id", member={"user_id": "new", "role": "org_admin"})
    ),
    "PATCH /organization/member_update": Route(
        PERSON_WRITE, "user", id_in("user_id", organization_id="acme", role="internal_user")
    ),
    "DELETE /organization/member_delete": Route(PERSON_WRITE, "user", id_in("user_id", organization_id="acme")),
    "POST /key/generate": Route(KEY_NEW, "team", id_in("team_id")),
    "POST /key/service-account/generate": Route(SERVICE_KEY_NEW, "team", id_in("team_id")),
    "GET /key/info": Route(KEY_SELF, "key", id_in("key")),
    "POST /v2/key/info": Route(KEY_LIST, "key", ids_in("keys"), is_list=True, marker="key_id"),
    "POST /key/health": Route(change(ANY_KEY, restricted="fffff")),
    "GET /key/aliases": Route(KEY_LIST, "key_alias", is_list=True),
    "GET /key/list": Route(KEY_LIST, "key", lambda _: {"size": 100}, is_list=True),
    "POST /key/update": Route(KEY_WRITE, "key", id_in("key", metadata={})),
    "POST /key/bulk_update": Route(
        KEY_BULK, "key", lambda name: {"keys": [{"key": name, "metadata": {}}]}, is_list=True, marker="key_id"
    ),
    "POST /key/regenerate": Route(KEY_WRITE, "key", id_in("key")),
    "POST /key/{reference}/regenerate": Route(KEY_WRITE, "key"),
    "POST /key/{reference}/reset_spend": Route(KEY_ADMIN, "key", lambda _: {"reset_to": 0}),
    "POST /key/delete": Route(KEY_DELETE, "key", ids_in("keys")),
    "POST /key/block": Route(KEY_WRITE, "key", id_in("key")),
    "POST /key/unblock": Route(KEY_ADMIN, "key", id_in("key")),
    "POST /user/new": Route(BUDGET_NEW, "organization", id_in("organization_id")),
    "GET /user/info": Route(USER_READ, "user", id_in("user_id")),
    "GET /v2/user/info": Route(USER_READ, "user", id_in("user_id")),
    "GET /user/list": Route(USER_LIST, "user", is_list=True),
    "POST /user/update": Route(ORGANIZATION_WRITE, "user", id_in("user_id", user_alias="taken")),
    "POST /user/bulk_update": Route(
        USER_BULK,
        "user",
        lambda name: {"users": [{"user_id": name, "user_alias": "taken"}]},
        is_list=True,
        marker="user_alias",
    ),
    "POST /user/delete": Route(ORGANIZATION_WRITE, "user", ids_in("user_ids")),
    "POST /utils/token_counter": Route({actor: cells.replace("+", "b") for actor, cells in ANY_KEY.items()}),
    "POST /api/explain": Route(change(KEY_SELF, restricted="fffff"), "key", id_in("key", request=SAMPLE)),
    **customer_routes("customer"),
    **customer_routes("end_user"),
    **OWN_API,
}
