"""The list of models in OpenAI's dialect. Source: https://platform.openai.com/docs/api-reference/models/list."""

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.listing import ListRequest, ModelPage, read_answer, read_names
from gateway.protocol.provider import Target


class OpenAIModels:
    """The part of a provider of this dialect that lists models. It has no pages."""

    __slots__ = ()

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        headers = {"accept-encoding": "identity", **target.headers, **self.credential_headers(target, context)}
        return ListRequest(self.models_url(target), headers)

    def models_url(self, target: Target) -> str:
        return f"{target.api_base.rstrip('/')}/models"

    def credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        key = target.credential.get("api_key")
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def models(self, body: bytes) -> ModelPage:
        answer = read_answer(body)
        models = answer.get("data") if isinstance(answer, dict) else answer  # Together answers with the bare list
        return ModelPage(read_names(models, "id"))
