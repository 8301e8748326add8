"""The names of what a report groups by, where its members are ids."""

from collections.abc import Collection, Mapping

from django.http import HttpRequest

from gateway.models import Deployment
from tenants.models import Organization, Team, VirtualKey
from tenants.permissions import Area
from tenants.session_rights import readable_rows


def find_names(request: HttpRequest, dimension: str, ids: Collection[str]) -> Mapping[str, str]:
    """Id → name, of those that the scope of the session has; one query. Other dimensions have names for members."""
    wanted = {name for name in ids if name}
    if not wanted:
        return {}
    match dimension:
        case "organization":
            found = readable_rows(request, Area.ORGANIZATIONS, Organization.objects.filter(pk__in=wanted))
            return dict(found.values_list("pk", "name"))
        case "team":
            return dict(Team.objects.filter(pk__in=wanted).values_list("pk", "alias"))
        case "key":
            return dict(VirtualKey.objects.filter(pk__in=wanted).values_list("pk", "alias"))
        case "deployment":
            rows = readable_rows(request, Area.MODELS, Deployment.objects.filter(pk__in=wanted))
            return {
                pk: f"{provider}/{model}"
                for pk, provider, model in rows.values_list("pk", "provider", "upstream_model")
            }
    return {}
