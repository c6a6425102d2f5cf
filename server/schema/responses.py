"""The body of POST /v1/responses, and the message list that it stands for.

Knows OpenAI's Responses request as far as it can be answered without keeping anything between requests. `check`
refuses, by name, what is declared here and not supported.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from server.errors import invalid, missing
from server.schema.chat import FunctionCall, Message, ToolCall
from server.schema.sampling import Count, SamplingFields, unsupported
from server.schema.tools import (
    AllowedTools,
    AnswerForm,
    FieldNames,
    FunctionDefinition,
    FunctionName,
    JsonSchema,
    NamedFunction,
    ResponseFormat,
    Tool,
    ToolChoice,
    ToolReference,
)

#: Types of content parts that hold text.
TEXT_PARTS = frozenset({"input_text", "output_text", "text"})

#: What these requests call the fields that errors name.
NAMES = FieldNames("input", "text.format.schema", "")


class InputPart(msgspec.Struct, frozen=True):
    """One part of an item's content. Only text is supported."""

    type: str
    text: str | None = None


class InputItem(msgspec.Struct, frozen=True):
    """A message, a function call or its output; the fields that are used depend on `type`."""

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None

    def message(self, place: str) -> Message | None:
        """Return the item as a chat message; None for earlier thoughts. `place` names it in errors."""
        match self.type:
            case "message":
                if self.role is None or self.content is None:
                    raise missing(f"{place}.{'role' if self.role is None else 'content'}")
                return Message(self.role, _text(self.content, f"{place}.content"))
            case "function_call":
                if self.name is None or self.call_id is None:
                    raise missing(f"{place}.{'name' if self.name is None else 'call_id'}")
                call = ToolCall(FunctionCall(self.name, self.arguments or "{}"), self.call_id)
                return Message("assistant", None, tool_calls=[call])
            case "function_call_output":
                if self.output is None:
                    raise missing(f"{place}.output")
                return Message("tool", _text(self.output, f"{place}.output"), tool_call_id=self.call_id)
            case "item_reference":
                raise unsupported(f"{place}.type", "nothing is stored that could be referred to")
            case "reasoning":
                return None


class Reasoning(msgspec.Struct, frozen=True):
    """How much to think."""

    effort: str | None = None
    summary: str | None = None


class TextFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form that the text must have: chat's `response_format`, with the schema's fields beside `type`."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class ResponseTool(msgspec.Struct, frozen=True):
    """A function that the model may call: chat's `tools`, with the function's fields beside `type`."""

    type: str
    name: FunctionName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def tool(self) -> Tool:
        """The same as chat has it."""
        if self.name is None:
            return Tool(self.type)
        return Tool(self.type, FunctionDefinition(self.name, self.description, self.parameters, self.strict))


class ResponseToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A choice that names functions: `type` is "function" or "allowed_tools"."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[ResponseTool] | None = None

    @property
    def choice(self) -> ToolChoice:
        """The same as chat has it."""
        allowed = None
        if self.mode is not None and self.tools is not None:
            allowed = AllowedTools(self.mode, [ToolReference(t.type, _named(t.name)) for t in self.tools])
        return ToolChoice(self.type, _named(self.name), allowed)


class TextOptions(msgspec.Struct, frozen=True):
    """What the text is to be like."""

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields, kw_only=True, frozen=True):
    """A Responses request, answered without state."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    include: list[str] | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    #: Accepted and ignored: they do not change the answer.
    store: Any = None
    max_tool_calls: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    #: Further variables for the chat template, such as {"enable_thinking": false}.
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise `ApiError` for combinations and features that are not supported."""
        super().check()
        stateless = "nothing is stored between requests; send the whole conversation as input"
        for name in ("previous_response_id", "conversation", "prompt"):
            if getattr(self, name) is not None:
                raise unsupported(name, stateless)
        if self.background:
            raise unsupported("background", stateless)
        if self.text_format.type not in ("text", "json_object", "json_schema"):
            raise unsupported("text.format.type", "there are 'text', 'json_object' and 'json_schema'")
        if self.text_format.type == "json_schema" and self.text_format.schema is None:
            raise missing("text.format.schema")
        if self.truncation == "auto":
            raise unsupported("truncation", "input is never cut")
        if "message.output_text.logprobs" in (self.include or ()):
            raise unsupported("include", "log probabilities are in /v1/chat/completions only")
        if self.choices > 1:
            raise unsupported("n", "a response has one answer")
        if self.max_tokens is not None:
            raise unsupported("max_tokens", "max_output_tokens is meant")

    def messages(self) -> list[Message]:
        """Return instructions and input as chat messages. Raises `ApiError` for items that are not understood."""
        first = [] if self.instructions is None else [Message("system", self.instructions)]
        if isinstance(self.input, str):
            return [*first, Message("user", self.input)]
        items = [item.message(f"input[{index}]") for index, item in enumerate(self.input)]
        return first + _with_calls_joined([message for message in items if message is not None])

    @property
    def form(self) -> AnswerForm:
        """What it says of the form of the answer."""
        choice = self.tool_choice
        text = self.text_format
        return AnswerForm(
            tools=[tool.tool for tool in self.tools or ()],
            choice=choice.choice if isinstance(choice, ResponseToolChoice) else choice,
            parallel=self.parallel_tool_calls is not False,
            response_format=ResponseFormat(text.type, JsonSchema(schema=text.schema)),
            names=NAMES,
        )

    @property
    def text_format(self) -> TextFormat:
        """The form that the text must have."""
        return (self.text and self.text.format) or TextFormat("text")

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template gets beside the messages."""
        effort = self.reasoning.effort if self.reasoning else None
        return {**({} if effort is None else {"reasoning_effort": effort}), **(self.chat_template_kwargs or {})}


def _named(name: str | None) -> NamedFunction | None:
    return None if name is None else NamedFunction(name)


def _with_calls_joined(messages: list[Message]) -> list[Message]:
    """Return `messages` with each call in the assistant's message before it: one turn is one message in a chat."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if message.tool_calls and last is not None and last.role == "assistant":
            calls = [*(last.tool_calls or ()), *message.tool_calls]
            joined[-1] = msgspec.structs.replace(last, tool_calls=calls)
        else:
            joined.append(message)
    return joined


def _text(content: str | list[InputPart], place: str) -> str:
    """Return content as one string, text parts joined by line breaks."""
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part.type not in TEXT_PARTS or part.text is None:
            what = "a text part needs a text" if part.type in TEXT_PARTS else f"{part.type!r} parts are not supported"
            raise invalid(f"{place}[{index}]", f"{what}; the model takes text only")
    return "\n".join(part.text for part in content if part.text)
