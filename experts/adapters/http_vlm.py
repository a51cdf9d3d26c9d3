"""Words from a vision-language model behind an OpenAI-compatible server: vLLM, SGLang, Ollama, or a hosted one.

Answers are cached on disk by picture, prompt, model and sampling options: a repeated run, another anchor table, or another
way of reducing probabilities asks nothing again.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from annyfit_jax.records.files import read_json
from annyfit_jax.store.locations import place
from experts.adapters.http_client import Budget, ChatClient, ServerError
from experts.adapters.vlm import Questions
from experts.attributes import (
    Attribute,
    Token,
    json_schema,
    probabilities_from_tokens,
    probabilities_from_votes,
    read_answer,
)
from experts.checkpoint_licences import card_of
from experts.crops import person_picture, png_bytes
from experts.interfaces import Card, ExpertError, People, Photo, Words

_CACHE_FORMAT = 1


def _free(default: Any) -> Any:
    """An option that changes how answers are fetched, not what they are."""
    return field(default=default, metadata={"decides": False})


@dataclass
class HttpVlm(Questions):
    """A model by name on a server; a fine-tuned one is only another name."""

    url: str = _free("http://localhost:8000/v1")
    """Up to and without `/chat/completions`."""
    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """As the server calls it."""
    licence: str = ""
    """Of the model, or the terms of the server, where `experts.checkpoint_licences` does not know the model."""
    commercial: bool = False
    """Say True where terms of a name that is no licence of software allow commercial use."""
    samples: int = 1
    """Answers per question. With more than one, or without log-probabilities, probabilities are frequencies."""
    temperature: float = 0.0
    """Of sampling; with several samples 0 is replaced by 0.7."""
    logprobs: int = 10
    """Alternatives per token that are asked for; 0 = none, for servers that refuse them."""
    form: str = "schema"
    """How the JSON form is enforced: schema, object, none. A server that refuses one is asked without."""
    max_tokens: int = 100
    concurrency: int = _free(8)
    timeout_s: float = _free(60.0)
    attempts: int = _free(6)
    first_pause_s: float = _free(1.0)
    max_requests: int = _free(0)
    """Budget of a run of this process; 0 = no limit."""
    max_total_tokens: int = _free(0)
    cache: str = _free("~/.cache/annyfit-jax/vlm")
    """Folder of answers; empty = none."""
    key_variable: str = _free("OPENAI_API_KEY")
    """Environment variable that holds the key; empty = send none."""
    _client: ChatClient | None = field(default=None, init=False, repr=False)
    _refused: set[str] = field(default_factory=set, init=False, repr=False)

    @property
    def card(self) -> Card:
        """By the model's name, as `experts.checkpoint_licences` or the user knows its licence."""
        card = card_of("http", self.model, "", self.licence)
        return replace(card, commercial=True) if self.commercial else card

    @property
    def photos_at_once(self) -> int:
        """As many as keep all questions under way although some answers take longer."""
        return 2 * self.concurrency

    def load(self) -> None:
        """Checks the options; nothing is sent. Raises ExpertError."""
        self.check()
        if self.form not in ("schema", "object", "none"):
            raise ExpertError(f"words.form: expected schema, object or none, got {self.form}")
        if self.samples < 1 or self.concurrency < 1 or self.attempts < 1:
            raise ExpertError("words.samples, words.concurrency, words.attempts: expected at least 1")
        budget = Budget(self.max_requests, self.max_total_tokens)
        self._client = ChatClient(
            self.url, self.key_variable, self.timeout_s, self.attempts, self.first_pause_s, budget=budget
        )

    def close(self) -> None:
        """Says what was spent."""
        if self._client is not None:
            budget = self._client.budget
            logging.info("words: %d requests, %d tokens", budget.requests, budget.tokens)
        self._client = None

    def words(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Words | Exception]:
        """Questions about all people of the photos, several at a time; a ServerError in place of a photo it concerns.

        Raises BudgetError; ExpertError where there is no server.
        """
        who = [(k, i) for k, crowd in enumerate(people) for i in range(len(crowd))]
        with ThreadPoolExecutor(self.concurrency, "vlm") as pool:
            futures = [pool.submit(self._person, photos[k], people[k], i) for k, i in who]
            try:
                results = [_result(future) for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
        said = dict(zip(who, results, strict=True))
        out: list[Words | Exception] = []
        for k, crowd in enumerate(people):
            mine = [said[k, i] for i in range(len(crowd))]
            failed = next((answer for answer in mine if isinstance(answer, Exception)), None)
            if failed is not None:
                out.append(failed)
                continue
            probabilities = {
                a.name: np.array([p[a.name] for p, _ in mine]).reshape(len(crowd), len(a.classes)) for a in self.asked
            }
            out.append(self.summary(probabilities, [answer for _, answer in mine]))
        return out

    def _person(self, photo: Photo, people: People, person: int) -> tuple[dict[str, np.ndarray], str]:
        """Class probabilities per attribute, averaged over the prompt variants, and the raw answers."""
        probabilities: dict[str, list[np.ndarray]] = {a.name: [] for a in self.asked}
        texts = []
        for variant in self.prompts:
            picture = png_bytes(person_picture(photo, people, person, variant, self.max_side))
            for attributes in self.groups():
                replies = self._ask(picture, self.text(variant, attributes), attributes)
                texts += [reply["text"] for reply in replies]
                for attribute in attributes:
                    probabilities[attribute.name].append(_probabilities(replies, attribute))
        return {name: np.mean(values, axis=0) for name, values in probabilities.items()}, "\n".join(texts)

    def _ask(self, picture: bytes, text: str, attributes: tuple[Attribute, ...]) -> list[dict[str, Any]]:
        """The model's replies, from the cache or the server: text, and tokens where the server gives them."""
        temperature = self.temperature or (0.7 if self.samples > 1 else 0.0)
        options = {
            "model": self.model, "temperature": temperature, "samples": self.samples, "logprobs": self.logprobs,
            "form": self.form, "max_tokens": self.max_tokens,
        }  # fmt: skip
        key = _cache_key(picture, text, options)
        path = Path(self.cache).expanduser() / key[:2] / f"{key}.json" if self.cache else None
        if path and (kept := _stored_replies(read_json(path), self.samples)) is not None:
            return kept
        url = "data:image/png;base64," + base64.b64encode(picture).decode()
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": temperature,
            "max_tokens": self.max_tokens,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}],
                }
            ],
        }
        # One by one rather than `n`: several servers refuse n > 1.
        replies = [self._reply(body, attributes) for _ in range(self.samples)]
        if path:
            place(path).put_json({"format": _CACHE_FORMAT, "options": options, "replies": replies})
        return replies

    def _reply(self, body: dict[str, Any], attributes: tuple[Attribute, ...]) -> dict[str, Any]:
        assert self._client is not None, "load() comes first"
        extras: dict[str, dict[str, Any]] = {}
        if self.logprobs:
            extras["logprobs"] = {"logprobs": True, "top_logprobs": self.logprobs}
        if self.form == "schema":
            schema = {"name": "person", "strict": True, "schema": json_schema(attributes)}
            extras["form"] = {"response_format": {"type": "json_schema", "json_schema": schema}}
        elif self.form == "object":
            extras["form"] = {"response_format": {"type": "json_object"}}
        while True:
            used = [name for name in extras if name not in self._refused]
            full = {**body, **{key: value for name in used for key, value in extras[name].items()}}
            try:
                reply = _reply_of(self._client.complete(full))
                spelled = "".join(token for token, _ in reply["tokens"])
                # Tokens that spell the key escape the client, which looks at one text at a time.
                return reply if self._client.without_key(spelled) == spelled else {**reply, "tokens": []}
            except ServerError as error:
                # Not every server knows every extra. Drop the one that the error names, else the form, then the rest.
                if not used or not str(error).startswith(("HTTP 400", "HTTP 422", "HTTP 501")):
                    raise
                dropped = "logprobs" if "logprob" in str(error) and "logprobs" in used else used[-1]
                self._refused.add(dropped)
                logging.warning("words: the server refuses %s, asking without (%s)", dropped, error)


def _result(future: Future) -> Any:
    """What a question brought, or the ServerError that it ended with."""
    try:
        return future.result()
    except ServerError as error:
        return error


def _probabilities(replies: list[dict[str, Any]], attribute: Attribute) -> np.ndarray:
    """From log-probabilities where every reply has them, else from votes."""
    from_tokens = []
    for reply in replies:
        tokens = [Token(text, tuple((str(t), float(p)) for t, p in others)) for text, others in reply["tokens"]]
        from_tokens.append(probabilities_from_tokens(tokens, attribute))
    if len(replies) == 1 and from_tokens[0] is not None:
        return from_tokens[0]
    return probabilities_from_votes([read_answer(r["text"], [attribute])[attribute.name] for r in replies], attribute)


def _reply_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Text and tokens of the first choice. Raises ServerError on another form."""
    choice = answer["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if text is None and isinstance(message, dict):
        text = message.get("refusal") or ""  # a refusal is an answer: unknown
    if not isinstance(text, str):
        raise ServerError(f"the answer's first choice has no text: {json.dumps(choice)[:200]}")
    text = _storable(text)
    return {"text": text, "tokens": _tokens_of(choice.get("logprobs")) or []}


def _tokens_of(logprobs: Any) -> list[tuple[str, list[tuple[str, float]]]] | None:
    """(token, [(alternative, log-probability)]) of every token; None where they are not there in the documented form."""
    listed = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(listed, list):
        return None
    tokens = []
    for entry in listed:
        others = (entry.get("top_logprobs") or [entry]) if isinstance(entry, dict) else None
        if not isinstance(others, list) or not isinstance(token := entry.get("token"), str):
            return None
        pairs = [_alternative(other) for other in others]
        if None in pairs:
            return None
        tokens.append((_storable(token), pairs))
    return tokens


def _alternative(entry: Any) -> tuple[str, float] | None:
    """A token's text and log-probability; None where either is not there, or is no logarithm of a probability."""
    token, logprob = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
    if not isinstance(token, str) or not isinstance(logprob, int | float) or not -1e9 <= logprob <= 0.01:
        return None
    return _storable(token), min(float(logprob), 0.0)


def _storable(text: str) -> str:
    """A text that can be written as UTF-8: JSON can hold halves of characters."""
    return text.encode("utf-8", "replace").decode()


def _stored_replies(stored: Any, samples: int) -> list[dict[str, Any]] | None:
    """The replies of a file of the cache; None where it does not hold what `_reply_of` returns."""
    if not isinstance(stored, dict) or stored.get("format") != _CACHE_FORMAT:
        return None
    replies = stored.get("replies")
    if not isinstance(replies, list) or len(replies) != samples:
        return None
    for reply in replies:
        if not isinstance(reply, dict) or not isinstance(reply.get("text"), str):
            return None
        tokens = reply.get("tokens")
        if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
            return None
    return replies


def _is_token(value: Any) -> bool:
    pair = lambda v, second: isinstance(v, list) and len(v) == 2 and isinstance(v[0], str) and isinstance(v[1], second)  # noqa: E731
    return pair(value, list) and all(pair(other, int | float) for other in value[1])


def _cache_key(picture: bytes, text: str, options: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([_CACHE_FORMAT, text, options], sort_keys=True).encode())
    digest.update(picture)
    return digest.hexdigest()
