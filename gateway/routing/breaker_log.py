"""BreakerLog: one line of the log for each decision of this process' breaker. No line holds a credential."""

import logging
from collections.abc import Callable, Mapping

from gateway.protocol.provider import split_circuit
from gateway.routing.breaker import Ejection

logger = logging.getLogger(__name__)

REFUSED = "an upstream refuses a deployment's credential"
ACCEPTED = "a deployment's credential is no longer refused, or was changed"

#: So many lines about the credential of one deployment in so many seconds: calls may alternate between yes and no.
MOST_LINES = 10
WINDOW_S = 60.0


class BreakerLog:
    """A BreakerListener. `describe` returns the fields of the log that name a deployment. `now`: seconds."""

    def __init__(self, describe: Callable[[str], Mapping[str, str]], now: Callable[[], float]) -> None:
        self._describe = describe
        self._now = now
        self._lines: dict[str, tuple[float, int]] = {}  # {deployment: (end of the window, lines in it)}

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
        self._lines = {name: window for name, window in self._lines.items() if window[0] > now}
        end_s, count = self._lines.get(deployment_id, (now + WINDOW_S, 0))
        if count < MOST_LINES:
            self._lines[deployment_id] = end_s, count + 1
            text = ACCEPTED if since_s is None else REFUSED
            logger.warning(text, extra=dict(self._describe(deployment_id)))

    def note_wish(self, circuit: str) -> None:
        """Not worth a line."""
