"""The form's fields of what a deployment can do: flags and the mode of its model_info."""

from collections.abc import Collection

from django import forms
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget

from gateway.protocol.json.types import JsonMapping, JsonObject

MODES = [("", _("Not stated")), ("chat", _("Text")), ("embedding", _("Embeddings"))]
LABELS = {
    "supports_vision": _("Images"),
    "supports_audio_input": _("Audio"),
    "supports_pdf_input": _("Files"),
    "supports_function_calling": _("Tools"),
    "supports_tool_choice": _("A choice of tool"),
    "supports_response_schema": _("A JSON schema"),
}


class ModeField(forms.ChoiceField):
    """The mode, with one that the form does not offer where the deployment has it."""

    def __init__(self) -> None:
        super().__init__(
            label=_("Answers with"),
            help_text=_("Calls for something else go to other deployments."),
            required=False,
            choices=MODES,
            widget=UnfoldAdminSelectWidget(),
        )

    def offer(self, mode: object) -> None:
        if isinstance(mode, str) and mode not in dict(MODES):
            self.choices = [*MODES, (mode, mode)]


class LackingField(forms.MultipleChoiceField):
    """The flags that are false."""

    def __init__(self) -> None:
        super().__init__(
            label=_("Does not take"),
            help_text=_("Calls that need what you check go to other deployments."),
            required=False,
            choices=list(LABELS.items()),
            widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        )


def lacking_of(info: JsonMapping) -> list[str]:
    return [flag for flag in LABELS if info.get(flag) is False]


def change_abilities(info: JsonMapping, mode: str, lacking: Collection[str]) -> JsonObject:
    """The model_info with these choices. A flag that was false and is not chosen says nothing any more."""
    kept = {name: value for name, value in info.items() if name != "mode" and not (name in LABELS and value is False)}
    return {**kept, **dict.fromkeys(lacking, False), **({"mode": mode} if mode else {})}
