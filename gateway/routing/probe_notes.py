"""Notes of probes: each tells the breaker of a process what a probe has shown."""

from collections.abc import Sequence

from gateway.protocol.provider import Target
from gateway.routing.error_class import ErrorClass
from gateway.routing.walk import Routing

#: The errors that a list of models shows as well as a call does.
SHOWN_BY_LIST = frozenset({ErrorClass.CONNECT, ErrorClass.AUTHENTICATION})


def note_probe(
    routing: Routing,
    target: Target,
    siblings: Sequence[Target],
    error: ErrorClass | None,
    *,
    is_call: bool,
    began_s: float,
) -> None:
    """A failure counts as that of a call. A call that succeeded ends an ejection; a list of models only one that such a
    list can judge: it says nothing of how the model answers. A deployment of many models has no state of its own."""
    if target.pattern:
        return
    breaker, settings = routing.breaker, routing.settings.breaker
    state = breaker.state_of(target.circuit)
    if error is not None:
        others = [sibling.circuit for sibling in siblings]
        breaker.note_failure(target.circuit, error, others, settings=settings, began_s=began_s)
        return
    is_judged = state.ejection is not None and state.ejection.error_class in SHOWN_BY_LIST
    is_refused = state.refused_since_s is not None and state.ejection is None
    if is_call or is_judged or is_refused:
        breaker.note_success(target.circuit, settings, began_s=began_s)
