"""The labels of a caller that a provider's own reports may show: who it is, by ids, and its cost centre."""

from collections.abc import Mapping

from gateway.pipeline.ports import Principal


def labels_of(principal: Principal) -> Mapping[str, str]:
    """Label → value, of those that the caller has."""
    labels = {
        "organization": principal.organization_id,
        "team": principal.team_id,
        "user": principal.user_id,
        "key": principal.key_id,
        "cost_center": principal.cost_center,
    }
    return {name: value for name, value in labels.items() if value}
