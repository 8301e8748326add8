"""The pipeline's DeploymentBudgets: what an attempt may cost is reserved of the budgets of its deployment."""

from collections.abc import Callable, Sequence

from django.db import Error as DatabaseError

from gateway.pipeline.deployment_limits import DeploymentFull
from gateway.pipeline.ports import BudgetHold, BudgetRule, Principal
from gateway.protocol.call import Call
from gateway.protocol.errors import Forbidden
from gateway.protocol.provider import Target
from gateway.state.statement import DatabaseAway
from tenants.admission import Estimate, budget_exceeded
from tenants.budget_leases import BudgetLeases, BudgetRefused
from tenants.database import database_away


class LeasedDeploymentBudgets:
    """`find_rules` gives the budgets of a deployment by its id."""

    def __init__(
        self,
        budgets: BudgetLeases,
        find_rules: Callable[[str], Sequence[BudgetRule]],
        *,
        estimate: Callable[[Call, Target], Estimate],
        now: Callable[[], float],
        budget_status: int = 429,
    ) -> None:
        self._budgets = budgets
        self._find_rules = find_rules
        self._estimate = estimate
        self._now = now
        self._budget_status = budget_status

    async def hold(self, principal: Principal, call: Call, target: Target) -> BudgetHold | None:
        rules = self._find_rules(target.deployment_id)
        cost_pusd = self._estimate(call, target).cost_pusd if rules else 0
        if cost_pusd == 0:
            return None
        if cost_pusd is None and principal.refuses_unpriced and any(rule.is_hard for rule in rules):
            raise DeploymentFull(None, _unpriced(call))
        try:
            return await self._budgets.reserve(rules, cost_pusd or 0)
        except BudgetRefused as refused:
            raise DeploymentFull(None, budget_exceeded(refused, self._budget_status, self._now())) from None
        except (DatabaseError, DatabaseAway):  # a deployment without a budget may answer
            raise DeploymentFull(None, database_away("check budgets")) from None


def _unpriced(call: Call) -> Forbidden:
    return Forbidden(
        f"The model '{call.model}' has no price, and its deployment has a hard budget: the organization blocks calls "
        "whose cost is unknown.",
        param="model",
        code="model_unpriced",
    )
