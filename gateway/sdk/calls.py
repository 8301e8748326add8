"""Calls: the functions of the SDK over one engine, each as a synchronous and an asynchronous one."""

from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack, overload

from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.dialects.openai.completions import DIALECT as COMPLETION
from gateway.protocol.dialects.openai.embeddings import DIALECT as EMBEDDING
from gateway.protocol.errors import BadRequest, Fault
from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.details import CallFailed, Details
from gateway.sdk.engine import Engine, StreamCall
from gateway.sdk.options import ChatOptions, CompletionOptions, EmbeddingOptions, ResponseOptions
from gateway.sdk.request import DIRECT, Request, make_request
from gateway.sdk.result_loader import load_results
from gateway.sdk.sessions import SessionStore
from gateway.sdk.stored_calls import StoredCalls
from gateway.sdk.streams import AsyncStream, Stream

if TYPE_CHECKING:
    from openai import BaseModel
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent

Result = TypeVar("Result")
Object = Mapping[str, object]
Messages = Sequence[object]
Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
Input = str | Sequence[object]


class Calls:
    """`deployment`: the names of the arguments that describe a deployment."""

    def __init__(
        self,
        engine: Engine,
        background: BackgroundLoop,
        find_store: Callable[[], SessionStore],
        deployment: Collection[str] = DIRECT,
    ) -> None:
        self._engine = engine
        self._stored = StoredCalls(find_store, engine.runs)
        self._background = background
        self._deployment = deployment

    def completion(
        self, model: str, messages: Messages, **options: Unpack[ChatOptions]
    ) -> "ChatCompletion | Stream[ChatCompletionChunk]":
        """OpenAI's chat completion, by any provider. Raises the errors of the openai package, and TypeError for an
        argument that there is not."""
        results = load_results()
        request = self._chat(model, messages, options)
        if request.stream:
            return Stream(self._begin(request), self._background, results.chat_chunk, results.error)
        return results.chat(*self._answer(request))

    async def acompletion(
        self, model: str, messages: Messages, **options: Unpack[ChatOptions]
    ) -> "ChatCompletion | AsyncStream[ChatCompletionChunk]":
        results = load_results()
        request = self._chat(model, messages, options)
        if request.stream:
            return AsyncStream(await self._abegin(request), self._background, results.chat_chunk, results.error)
        return results.chat(*await self._aanswer(request))

    def text_completion(
        self, prompt: Prompt, model: str, **options: Unpack[CompletionOptions]
    ) -> "Completion | Stream[Completion]":
        """OpenAI's completion of a prompt."""
        results = load_results()
        request = self._completion(prompt, model, options)
        if request.stream:
            return Stream(self._begin(request), self._background, results.completion_chunk, results.error)
        return results.completion(*self._answer(request))

    async def atext_completion(
        self, prompt: Prompt, model: str, **options: Unpack[CompletionOptions]
    ) -> "Completion | AsyncStream[Completion]":
        results = load_results()
        request = self._completion(prompt, model, options)
        if request.stream:
            return AsyncStream(await self._abegin(request), self._background, results.completion_chunk, results.error)
        return results.completion(*await self._aanswer(request))

    def embedding(self, model: str, input: Prompt, **options: Unpack[EmbeddingOptions]) -> "CreateEmbeddingResponse":
        """OpenAI's embeddings."""
        results = load_results()
        return results.embedding(*self._answer(self._embedding(model, input, options)))

    async def aembedding(
        self,
        model: str,
        input: Prompt,
        **options: Unpack[EmbeddingOptions],
    ) -> "CreateEmbeddingResponse":
        results = load_results()
        return results.embedding(*await self._aanswer(self._embedding(model, input, options)))

    def responses(
        self,
        input: Input,
        model: str,
        **options: Unpack[ResponseOptions],
    ) -> "Response | Stream[ResponseStreamEvent]":
        """OpenAI's response, by any provider. It is stored, and continued by `previous_response_id`."""
        results = load_results()
        request = self._response(input, model, options)
        if request.background:
            response, events = self._run(self._engine.begin(request))
            if request.stream:
                return Stream(events, self._background, results.response_event, results.error)
            return results.response(response)
        if request.stream:
            return Stream(self._begin(request), self._background, results.response_event, results.error)
        return results.response(*self._answer(request))

    async def aresponses(
        self,
        input: Input,
        model: str,
        **options: Unpack[ResponseOptions],
    ) -> "Response | AsyncStream[ResponseStreamEvent]":
        results = load_results()
        request = self._response(input, model, options)
        if request.background:
            response, events = await self._arun(self._engine.begin(request))
            if request.stream:
                return AsyncStream(events, self._background, results.response_event, results.error)
            return results.response(response)
        if request.stream:
            return AsyncStream(await self._abegin(request), self._background, results.response_event, results.error)
        return results.response(*await self._aanswer(request))

    @overload
    def get_responses(
        self,
        response_id: str,
        *,
        include: Sequence[str] | None = None,
        stream: Literal[False] | None = None,
        starting_after: int | None = None,
        custom_llm_provider: str | None = None,
    ) -> "Response": ...

    @overload
    def get_responses(
        self,
        response_id: str,
        *,
        include: Sequence[str] | None = None,
        stream: Literal[True],
        starting_after: int | None = None,
        custom_llm_provider: str | None = None,
    ) -> "Stream[ResponseStreamEvent]": ...

    def get_responses(
        self,
        response_id: str,
        *,
        include: Sequence[str] | None = None,
        stream: bool | None = None,
        starting_after: int | None = None,
        custom_llm_provider: str | None = None,
    ) -> "Response | Stream[ResponseStreamEvent]":
        """A stored response, or its stream from the event behind `starting_after`. `custom_llm_provider`, here and
        below: LiteLLM's; the response itself says it."""
        results = load_results()
        if stream:
            events = self._run(self._stored.follow(response_id, include, starting_after))
            return Stream(events, self._background, results.response_event, results.error)
        return results.response(*self._run(self._stored.get(response_id, include, starting_after)))

    @overload
    async def aget_responses(
        self,
        response_id: str,
        *,
        include: Sequence[str] | None = None,
        stream: Literal[False] | None = None,
        starting_after: int | None = None,
        custom_llm_provider: str | None = None,
    ) -> "Response": ...

    @overload
    async def aget_responses(
        self,
        response_id: str,
        *,
        include: Sequence[str] | None = None,
        stream: Literal[True],
        starting_after: int | None = None,
        custom_llm_provider: str | None = None,
    ) -> "AsyncStream[ResponseStreamEvent]": ...

    async def aget_responses(
        self,
        response_id: str,
        *,
        include: Sequence[str] | None = None,
        stream: bool | None = None,
        starting_after: int | None = None,
        custom_llm_provider: str | None = None,
    ) -> "Response | AsyncStream[ResponseStreamEvent]":
        results = load_results()
        if stream:
            events = await self._arun(self._stored.follow(response_id, include, starting_after))
            return AsyncStream(events, self._background, results.response_event, results.error)
        return results.response(*await self._arun(self._stored.get(response_id, include, starting_after)))

    def delete_responses(self, response_id: str, *, custom_llm_provider: str | None = None) -> "BaseModel":
        """Erases a stored response: `id`, `object`, `deleted`. One that is being made ends."""
        return load_results().deletion(self._run(self._stored.delete(response_id)))

    async def adelete_responses(self, response_id: str, *, custom_llm_provider: str | None = None) -> "BaseModel":
        return load_results().deletion(await self._arun(self._stored.delete(response_id)))

    def cancel_responses(self, response_id: str, *, custom_llm_provider: str | None = None) -> "Response":
        """Ends a background response."""
        return load_results().response(self._run(self._stored.cancel(response_id)))

    async def acancel_responses(self, response_id: str, *, custom_llm_provider: str | None = None) -> "Response":
        return load_results().response(await self._arun(self._stored.cancel(response_id)))

    def list_input_items(
        self,
        response_id: str,
        *,
        after: str | None = None,
        include: Sequence[str] | None = None,
        limit: int = 20,
        order: str = "desc",
        custom_llm_provider: str | None = None,
    ) -> "ResponseItemList":
        """A page of the input of a stored response."""
        page = self._stored.items(response_id, after=after or "", include=include, limit=limit, order=order)
        return load_results().items(self._run(page))

    async def alist_input_items(
        self,
        response_id: str,
        *,
        after: str | None = None,
        include: Sequence[str] | None = None,
        limit: int = 20,
        order: str = "desc",
        custom_llm_provider: str | None = None,
    ) -> "ResponseItemList":
        page = self._stored.items(response_id, after=after or "", include=include, limit=limit, order=order)
        return load_results().items(await self._arun(page))

    def _chat(self, model: str, messages: Messages, options: Object) -> Request:
        with _raising_errors():
            options = _describe_response_format(options)
        return self._request("completion", CHAT, {"model": model, "messages": messages}, options, ChatOptions)

    def _completion(self, prompt: Prompt, model: str, options: Object) -> Request:
        fields = {"model": model, "prompt": prompt}
        return self._request("text_completion", COMPLETION, fields, options, CompletionOptions)

    def _embedding(self, model: str, texts: Prompt, options: Object) -> Request:
        return self._request("embedding", EMBEDDING, {"model": model, "input": texts}, options, EmbeddingOptions)

    def _response(self, items: Input, model: str, options: Object) -> Request:
        with _raising_errors():
            options = _describe_text_format(options)
        return self._request("responses", None, {"model": model, "input": items}, options, ResponseOptions)

    def _request(
        self, function: str, dialect: Dialect | None, fields: Object, options: Object, known: type[Object]
    ) -> Request:
        with _raising_errors():
            return make_request(function, dialect, fields, options, known.__annotations__, self._deployment)

    def _answer(self, request: Request) -> tuple[bytes, Details]:
        return self._run(self._engine.whole(request))

    async def _aanswer(self, request: Request) -> tuple[bytes, Details]:
        return await self._arun(self._engine.whole(request))

    def _begin(self, request: Request) -> StreamCall:
        return self._run(self._engine.stream(request))

    async def _abegin(self, request: Request) -> StreamCall:
        return await self._arun(self._engine.stream(request))

    def _run(self, call: Coroutine[object, None, Result]) -> Result:
        """Raises the error of the openai package that a fault stands for."""
        try:
            return self._background.run(call)
        except CallFailed as failed:
            raise load_results().error(failed) from None

    async def _arun(self, call: Coroutine[object, None, Result]) -> Result:
        try:
            return await self._background.wait(call)
        except CallFailed as failed:
            raise load_results().error(failed) from None


@contextmanager
def _raising_errors() -> Iterator[None]:
    """Raises the error of the openai package that a fault of the arguments stands for."""
    try:
        yield
    except Fault as fault:
        raise load_results().error(CallFailed(fault)) from None


def _describe_response_format(options: Object) -> Object:
    """A pydantic model as the schema that it is. Raises BadRequest."""
    name = "response_format"
    value = options.get(name)
    if value is None or isinstance(value, Mapping):
        return options
    return {**options, name: {"type": "json_schema", "json_schema": load_results().json_schema(value, name)}}


def _describe_text_format(options: Object) -> Object:
    """The same for `text_format`, whose schema is a part of `text`."""
    rest = {name: value for name, value in options.items() if name != "text_format"}
    value, text = options.get("text_format"), options.get("text") or {}
    if value is None:
        return rest
    if not isinstance(text, Mapping) or "format" in text:
        raise BadRequest("'text_format' stands for text.format: give one of them.", param="text_format")
    return {
        **rest,
        "text": {**text, "format": {"type": "json_schema", **load_results().json_schema(value, "text_format")}},
    }
