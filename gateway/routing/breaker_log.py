"""BreakerLog: one line of the log for each decision of this process' breaker. No line holds a credential."""

import logging
from collections.abc import Callable, Mapping

from gateway.protocol.provider import split_circuit
from gateway.routing.breaker import Ejection

logger = logging.getLogger(__name__)

#: The lines about the credential of one deployment are so far apart: calls may alternate between yes and no.
QUIET_S = 60.0


class BreakerLog:
    """A BreakerListener. `describe` returns the fields of the log that name a deployment. `now`: seconds."""

    def __init__(self, describe: Callable[[str], Mapping[str, str]], now: Callable[[], float]) -> None:
        self._describe = describe
        self._now = now
        self._quiet_until_s: dict[str, float] = {}
        self._refused: set[str] = set()  # those that the log calls so

    def note_ejection(self, circuit: str, ejection: Ejection | None) -> None:
        deployment_id, model = split_circuit(circuit)
        fields = dict(self._describe(deployment_id))
        if model:
            fields["upstream_model"] = model
        if ejection is None:
            logger.info("a deployment is back in its group", extra=fields)
            return
        lasts_s = round(ejection.until_s - self._now(), 1)
        decision = {"error_class": str(ejection.error_class), "lasts_s": lasts_s, "ejections": ejection.number}
        logger.warning("a deployment is out of its group", extra={**fields, **decision})

    def note_refusal(self, deployment_id: str, since_s: float | None) -> None:
        now = self._now()
        if since_s is None:
            if deployment_id in self._refused:
                self._refused.discard(deployment_id)
                logger.warning(
                    "a deployment's credential is no longer refused, or was changed",
                    extra=dict(self._describe(deployment_id)),
                )
        elif self._quiet_until_s.get(deployment_id, 0.0) <= now:
            self._quiet_until_s = {name: at_s for name, at_s in self._quiet_until_s.items() if at_s > now}
            self._quiet_until_s[deployment_id] = now + QUIET_S
            self._refused.add(deployment_id)
            logger.warning("an upstream refuses a deployment's credential", extra=dict(self._describe(deployment_id)))

    def note_wish(self, circuit: str) -> None:
        """Not worth a line."""
