"""The page "Simulate": for a key and a sample request, the deployments in the order in which they would be tried, and
the limits and budgets that apply. Nothing is taken and no upstream is asked."""

from collections.abc import Mapping, Sequence

import orjson
from django import forms
from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from gateway.explanation.call import ENDPOINTS, explain
from gateway.models import Deployment
from gateway.protocol.errors import Fault
from gateway.protocol.json.types import JsonObject
from tenants.keys import find_key
from tenants.models import VirtualKey
from tenants.permissions import Area, Reach
from tenants.session_rights import reach_of_user, readable_rows

SUGGESTED = 50  # keys and model groups, in the lists of the form
MAX_INPUT_TOKENS = 200_000
MAX_BODY_CHARS = 100_000
WORD = "word"
TOOL: JsonObject = {"name": "look_up", "description": "Looks something up.", "parameters": {"type": "object"}}
PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
FALLBACKS = {
    "fallbacks": _("after an error, or where no deployment is free"),
    "context_window_fallbacks": _("where the request is too long"),
    "content_policy_fallbacks": _("after a refusal by content policy"),
}


class SimulationForm(forms.Form):
    key = forms.CharField(
        label=_("Virtual key"),
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "simulate-keys", "autocomplete": "off"}),
        help_text=_("Its alias, its digest or its text."),
    )
    model = forms.CharField(
        label=_("Model"),
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "simulate-models", "autocomplete": "off"}),
    )
    endpoint = forms.ChoiceField(
        label=_("Endpoint"),
        choices=[(name, f"/v1/{name}") for name in ENDPOINTS],
        initial="chat/completions",
        widget=UnfoldAdminSelectWidget(),
    )
    input_tokens = forms.IntegerField(
        label=_("Tokens of input, about"),
        min_value=1,
        max_value=MAX_INPUT_TOKENS,
        initial=10,
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    max_tokens = forms.IntegerField(
        label=_("Most tokens of output"),
        min_value=1,
        max_value=10_000_000,
        initial=1000,
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    stream = forms.BooleanField(label=_("streamed"), required=False, widget=UnfoldBooleanWidget())
    tools = forms.BooleanField(label=_("with a tool"), required=False, widget=UnfoldBooleanWidget())
    image = forms.BooleanField(label=_("with an image"), required=False, widget=UnfoldBooleanWidget())
    body = forms.CharField(
        label=_("Further members of the request, as JSON; they win"),
        required=False,
        max_length=MAX_BODY_CHARS,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 5, "spellcheck": "false", "class": "tg-mono"}),
    )

    flags = ("stream", "tools", "image")

    def clean_body(self) -> JsonObject:
        text = self.cleaned_data["body"]
        try:
            body = orjson.loads(text) if text else {}
        except orjson.JSONDecodeError as error:
            raise forms.ValidationError(_("This is not JSON: %s") % error.msg) from None
        if not isinstance(body, dict) or orjson.loads(orjson.dumps(body)) != body:  # 1e999 is no number that stays
            raise forms.ValidationError(_('This must be a JSON object of finite numbers, such as {"temperature": 0}.'))
        return body


def may_simulate(request: HttpRequest) -> bool:
    """Who sees the keys of an organization."""
    return reach_of_user(request, Area.KEYS) >= Reach.ORGANIZATION


def show_simulation(site: AdminSite, request: HttpRequest) -> TemplateResponse:
    form = SimulationForm(request.POST or None)
    answer: JsonObject | None = None
    if request.method == "POST" and form.is_valid():
        key = _find_key(request, form.cleaned_data["key"])
        if key is None:
            form.add_error("key", _("There is no such key."))
        else:
            has_figures = reach_of_user(request, Area.MODELS) == Reach.PLATFORM
            try:
                answer = explain(
                    key,
                    ENDPOINTS[form.cleaned_data["endpoint"]],
                    make_sample(form.cleaned_data),
                    has_figures=has_figures,
                )
            except Fault as fault:
                form.add_error("body", fault.message)
    keys = readable_rows(request, Area.KEYS, VirtualKey.objects.exclude(alias="")).order_by("-created_at")
    models = readable_rows(request, Area.MODELS, Deployment.objects.filter(enabled=True)).order_by("model_group")
    context = {
        **site.each_context(request),
        "title": _("Simulate"),
        "form": form,
        "keys": keys.values_list("alias", flat=True)[:SUGGESTED],
        "models": models.values_list("model_group", flat=True).distinct()[:SUGGESTED],
        "answer": answer,
        "groups": _describe_groups(request, answer) if answer is not None and "routing" in answer else [],
    }
    return TemplateResponse(request, "console/simulate.html", context)


def _find_key(request: HttpRequest, reference: str) -> VirtualKey | None:
    rows = readable_rows(request, Area.KEYS, VirtualKey.objects.select_related("organization", "team", "user"))
    found = find_key(reference)
    if found is not None:
        return rows.filter(pk=found.pk).first()
    return rows.filter(alias=reference).first()


def make_sample(fields: Mapping[str, object]) -> JsonObject:
    """The body of a request with these properties, in the dialect of its endpoint."""
    endpoint, text = str(fields["endpoint"]), " ".join([WORD] * int(str(fields["input_tokens"])))
    body: JsonObject = {"model": str(fields["model"])}
    further = fields["body"]
    if endpoint == "embeddings":
        body["input"] = text
    else:
        body["max_tokens"] = int(str(fields["max_tokens"]))
        body["stream"] = bool(fields["stream"])
        if endpoint == "completions":
            body["prompt"] = text
        else:
            body["messages"] = [{"role": "user", "content": _content(text, endpoint, has_image=bool(fields["image"]))}]
            if fields["tools"]:
                body["tools"] = [_tool(endpoint)]
    return {**body, **(further if isinstance(further, dict) else {})}


def _content(text: str, endpoint: str, *, has_image: bool) -> str | list[JsonObject]:
    if not has_image:
        return text
    picture: JsonObject = {"type": "image_url", "image_url": {"url": PICTURE}}
    if endpoint == "messages":
        source = {"type": "base64", "media_type": "image/gif", "data": PICTURE.partition(",")[2]}
        picture = {"type": "image", "source": source}
    return [{"type": "text", "text": text}, picture]


def _tool(endpoint: str) -> JsonObject:
    if endpoint == "messages":
        return {"name": TOOL["name"], "input_schema": TOOL["parameters"]}
    return {"type": "function", "function": TOOL}


def _describe_groups(request: HttpRequest, answer: JsonObject) -> list[JsonObject]:
    """The model group and those that stand in for it, each with its deployments under the names that the user may
    see."""
    fallbacks: Sequence[JsonObject] = answer["routing"]["fallbacks"]
    rows = [*answer["deployments"], *(row for group in fallbacks for row in group["deployments"])]
    visible = readable_rows(request, Area.MODELS, Deployment.objects.all())
    found = visible.filter(pk__in={row["id"] for row in rows})
    names = {row.pk: f"{row.provider}/{row.upstream_model}" for row in found}
    own: JsonObject = {"model": answer["model"]["resolved"], "deployments": _name(answer["deployments"], names)}
    return [
        own,
        *(
            {
                "model": group["model"],
                "after": FALLBACKS[group["after"]],
                "reason": group["reason"],
                "deployments": _name(group["deployments"], names),
            }
            for group in fallbacks
        ),
    ]


def _name(rows: Sequence[JsonObject], names: Mapping[str, str]) -> list[JsonObject]:
    return [{**row, "name": names.get(row["id"], ""), "text": _sentence(row)} for row in rows]


def _sentence(row: JsonObject) -> str:
    text = "; ".join(part for part in (row["reason"], row["figure"]) if part)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
