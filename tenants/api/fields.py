"""Fields of bodies and answers of /api/. They are strict: a text is no number and a number no text."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from tenants.api.problems import BodyInvalid, FieldProblem
from tenants.invalid import KeyInvalid
from tenants.limits import MAX_RATE, check_limits
from tenants.rest.json_body import MAX_ECHO_CHARS

MAX_TEXT_CHARS = 255  # the width of most columns
MAX_ENTRIES = 1000
MAX_INTEGER = 2**31 - 1


class Text(serializers.CharField):
    def __init__(self, **options: Any) -> None:
        options.setdefault("max_length", MAX_TEXT_CHARS)
        options.setdefault("allow_blank", True)
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Choice(serializers.ChoiceField):
    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid_choice", input=type(data).__name__)
        return str(super().to_internal_value(data))


class Flag(serializers.BooleanField):
    def to_internal_value(self, data: object) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=type(data).__name__)
        return data


class Whole(serializers.IntegerField):
    def __init__(self, **options: Any) -> None:
        options.setdefault("min_value", 0)
        options.setdefault("max_value", MAX_INTEGER)
        super().__init__(**options)

    def to_internal_value(self, data: object) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return data


class Number(serializers.FloatField):
    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=1e9, **options)

    def to_internal_value(self, data: object) -> float:
        if isinstance(data, bool) or not isinstance(data, int | Decimal) or not 0 <= data <= 10**9:
            self.fail("invalid")
        return float(data)


@extend_schema_field({"type": "object", "additionalProperties": {}})
class Object(serializers.JSONField):
    """A JSON object; the service reads what is in it."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError("Not an object.")
        return data


@extend_schema_field({"type": "string", "format": "decimal"})
class Amount(serializers.Field[object, object, object, object]):
    """An amount in USD as decimal text; a body may hold a number too. The service reads it exactly."""

    def to_internal_value(self, data: object) -> object:
        return data

    def to_representation(self, value: object) -> object:
        return value


def texts(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=Text(allow_blank=False), max_length=MAX_ENTRIES, **options)


def rate(description: str) -> Whole:
    return Whole(allow_null=True, required=False, max_value=MAX_RATE, help_text=description)


def rates(description: str) -> serializers.DictField:
    return serializers.DictField(
        child=Whole(max_value=MAX_RATE, allow_null=True), allow_null=True, required=False, help_text=description
    )


def tags_of(metadata: Mapping[str, Any]) -> list[str]:
    tags = metadata.get("tags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


class Body(serializers.Serializer[Any]):
    """The fields that a body may have. It refuses others by name."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError("Not an object.")
        known = {name for name, field in self.fields.items() if not field.read_only}
        errors: dict[str, Any] = {str(name)[:MAX_ECHO_CHARS]: ["Unknown field."] for name in data if name not in known}
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as problem:
            detail = problem.detail
            errors |= detail if isinstance(detail, dict) else {"": detail}
        if errors:
            raise serializers.ValidationError(errors)
        return values

    def read(self) -> dict[str, Any]:
        """The values of the body. Raises BodyInvalid, which names every field that is wrong."""
        if not self.is_valid():
            raise BodyInvalid(list_problems(self.errors))
        return dict(self.validated_data)


def list_problems(errors: object, param: str = "") -> list[FieldProblem]:
    """The errors of a serializer, with the paths of their fields."""
    if isinstance(errors, Mapping):
        return [
            problem
            for name, item in errors.items()
            for problem in list_problems(item, f"{param}.{name}" if param and name != "" else param or str(name))
        ]
    if isinstance(errors, Sequence) and not isinstance(errors, str):
        return [problem for item in errors for problem in list_problems(item, param)]
    return [FieldProblem(param, str(errors))]


class BudgetWindow(serializers.Serializer[Any]):
    budget_duration = Text(allow_null=True, required=False)
    max_budget = Amount(help_text="USD.")


class ModelBudget(serializers.Serializer[Any]):
    budget_limit = Amount(help_text="USD.")
    time_period = Text(allow_null=True, required=False)


class Limits(serializers.Serializer[Any]):
    """The limits and budgets of one scope. Null clears; a field that is left out stays. Amounts are USD."""

    rpm_limit = rate("Requests per minute.")
    tpm_limit = rate("Tokens per minute.")
    itpm_limit = rate("Input tokens per minute.")
    otpm_limit = rate("Output tokens per minute.")
    rpd_limit = rate("Requests per day.")
    tpd_limit = rate("Tokens per day.")
    max_parallel_requests = rate("Requests that run at the same time.")
    model_rpm_limit = rates("Model group → requests per minute.")
    model_tpm_limit = rates("Model group → tokens per minute.")
    model_itpm_limit = rates("Model group → input tokens per minute.")
    model_otpm_limit = rates("Model group → output tokens per minute.")
    max_budget = Amount(allow_null=True, required=False, help_text="USD; a call that does not fit is refused.")
    soft_budget = Amount(allow_null=True, required=False, help_text="USD; refuses nothing, and warns.")
    budget_duration = Text(allow_null=True, required=False, help_text="1h, 1d, 7d, 30d, 1mo, …; null: for all time.")
    budget_limits = serializers.ListField(
        child=BudgetWindow(), allow_null=True, required=False, help_text="Further budgets, one for each duration."
    )
    model_max_budget = serializers.DictField(
        child=ModelBudget(), allow_null=True, required=False, help_text="Model group → its budget."
    )
    temp_budget_increase = Amount(allow_null=True, required=False, help_text="USD on top, until temp_budget_expiry.")
    temp_budget_expiry = serializers.DateTimeField(allow_null=True, required=False)

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError("Not an object.")
        errors: dict[str, Any] = {}
        for name, value in data.items():
            if name not in self.fields:
                errors[str(name)[:MAX_ECHO_CHARS]] = ["Unknown field."]
            elif not name.startswith("temp_budget_"):
                errors |= _check({name: value})
        errors |= _check({name: value for name, value in data.items() if name.startswith("temp_budget_")})
        if errors:
            raise serializers.ValidationError(errors)
        return dict(data)


def _check(limits: Mapping[str, Any]) -> dict[str, list[str]]:
    try:
        check_limits(limits)
    except KeyInvalid as problem:
        return {problem.param: [problem.message]}
    return {}


class BudgetSpend(serializers.Serializer[Any]):
    """A budget that applies to the scope, its own or its template's, in its current window."""

    model = serializers.CharField(allow_null=True)
    duration = serializers.CharField(allow_null=True)
    limit_usd = Amount(allow_null=True)
    soft_limit_usd = Amount(allow_null=True)
    spent_usd = Amount()
    held_usd = Amount()
    left_usd = Amount(allow_null=True)
    resets_at = serializers.DateTimeField(allow_null=True)


class Spend(serializers.Serializer[Any]):
    """The spend of one scope; `held_usd` is reserved for calls that run."""

    spent_usd = Amount(help_text="In the current window of the main budget; without one, of all time.")
    total_usd = Amount(help_text="Of all time.")
    held_usd = Amount()
    resets_at = serializers.DateTimeField(allow_null=True)
    budgets = BudgetSpend(many=True)
