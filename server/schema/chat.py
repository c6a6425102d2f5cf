"""The body of POST /v1/chat/completions.

Knows OpenAI's chat request and llama-server's extensions of it. `check` refuses, by name, what is declared here and
not supported.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.request import MAX_LOGPROBS
from server.errors import ApiError, invalid
from server.schema.knowledge import KnowledgeOptions
from server.schema.sampling import Count, SamplingFields, unsupported
from server.schema.tools import AnswerForm, ResponseFormat, Tool, ToolChoice


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message whose content is a list. Only `text` parts are supported."""

    type: str
    text: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """What an assistant's tool call calls; `arguments` is JSON in a string."""

    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call in an assistant's earlier message."""

    function: FunctionCall
    id: str | None = None
    type: str = "function"


class Message(msgspec.Struct, frozen=True):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def text(self, place: str) -> str:
        """Return the content as one string, text parts joined by line breaks. `place` names the message in errors."""
        content = self.content
        if content is None:
            if self.tool_calls or self.reasoning_content:
                return ""
            raise ApiError(
                400, f"{place}.content: a message needs content.", param=f"{place}.content", code="invalid_value"
            )
        if isinstance(content, str):
            return content
        for index, part in enumerate(content):
            if part.type != "text" or part.text is None:
                what = "a text part needs a text" if part.type == "text" else f"{part.type!r} parts are not supported"
                raise invalid(f"{place}.content[{index}]", f"{what}; the model takes text only")
        return "\n".join(part.text for part in content if part.text)


class ChatRequest(SamplingFields, kw_only=True, frozen=True):
    """A chat completion request."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    #: Whether to tell a reasoning model's thoughts from its answer ("none": leave the tags in the content).
    reasoning_format: Literal["auto", "deepseek", "none"] | None = None
    reasoning_effort: str | None = None
    functions: list[Any] | None = None
    web_search_options: Any = None
    #: Accepted and ignored: they do not change the answer.
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    verbosity: Any = None
    prediction: Any = None
    #: Further variables for the chat template, such as {"enable_thinking": false}.
    chat_template_kwargs: dict[str, Any] | None = None
    #: Whether and how to search the documents.
    knowledge: bool | KnowledgeOptions | None = None

    def check(self) -> None:
        """Raise `ApiError` for combinations and features that are not supported."""
        super().check()
        if self.functions:
            raise unsupported("functions", "functions are not supported; tools are what has replaced them")
        if self.web_search_options is not None:
            raise unsupported("web_search_options", "there is no web search")
        if self.modalities is not None and self.modalities != ["text"]:
            raise unsupported("modalities", "only ['text'] is supported")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "needs logprobs to be true")

    @property
    def answer_limit(self) -> int | None:
        """The longest answer asked for, in tokens; None if the request does not say."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Alternatives wanted per token; None if log probabilities were not asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def form(self) -> AnswerForm:
        """What it says of the form of the answer."""
        return AnswerForm(self.tools, self.tool_choice, self.parallel_tool_calls is not False, self.response_format)

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template gets beside the messages."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return {**effort, **(self.chat_template_kwargs or {})}
