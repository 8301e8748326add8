"""POST /utils/token_counter, with the names of LiteLLM's fields: the estimate that limits and budgets reserve by."""

from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest
from gateway.protocol.input_estimate import estimate_content, estimate_request
from tenants.permissions import Area
from tenants.rest.authentication import IsKnown
from tenants.rest.fields import read_body, read_query, read_query_flag, read_text
from tenants.rest.views import ManagementView

CONTENTS = ("messages", "prompt", "contents")
FIELDS = frozenset({"model", "tools", "system", *CONTENTS})


class CountTokens(ManagementView):
    """`contents` are those of Gemini's format. No upstream is asked."""

    permission_classes = [IsKnown]
    area = Area.MODELS
    is_read = True

    def post(self, request: Request) -> Response:
        body, query = read_body(request, known=FIELDS), read_query(request, known={"call_endpoint"})
        if read_query_flag(query, "call_endpoint"):
            raise BadRequest(
                "This version asks no upstream; leave 'call_endpoint' out.",
                param="call_endpoint",
                code="unsupported_parameter",
            )
        model = read_text(body, "model")
        if model is None:
            raise BadRequest("Name the 'model'.", param="model")
        if all(body.get(name) is None for name in CONTENTS):
            raise BadRequest("Give 'messages', 'prompt' or 'contents'.", param="messages")
        return Response(
            {
                "total_tokens": estimate_request(body) + estimate_content(body.get("contents")),
                "request_model": model,
                "model_used": model,
                "tokenizer_type": "estimate",
                "count_source": "estimate",
                "original_response": None,
                "error": False,
                "error_message": None,
                "status_code": None,
            }
        )
