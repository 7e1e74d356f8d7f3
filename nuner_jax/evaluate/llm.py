"""Prompted language models as systems of the comparison: questions through the ledger of the annotate stage, answers to tags.

A question is kept in OUT/llm/ledger.sqlite under the hash of model (with its address, if it has one of its own), prompt and
parameters, and is paid once: cells that ask the same share it, a run that was stopped goes on where it was, and a change of anything
but the questions costs nothing.
"""

import contextlib
import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax.config import AnnotateConfig, EvaluateConfig, LlmConfig
from nuner_jax.errors import InputError, Preempted
from nuner_jax.evaluate import prompts
from nuner_jax.evaluate.readers import flat_tags
from nuner_jax.evaluate.results import Results, Row
from nuner_jax.evaluate.rows import cell_base, scored, store
from nuner_jax.evaluate.samples import Cell, Samples
from nuner_jax.evaluate.tasks import Task, make_split
from nuner_jax.schema import TaggedSentence, WordSpan, word_spans

if TYPE_CHECKING:
    from nuner_jax.annotate.ledger import Ledger
    from nuner_jax.annotate.records import Reply, Request, Terms
    from nuner_jax.annotate.sender import Manner

KINDS = ("zero", "few", "universalner")


@dataclass(frozen=True)
class Prompted:
    """A model and how it is asked, under the name that tables show."""

    name: str
    kind: str
    model: str
    base_url: str  # empty: llm.base_url

    @classmethod
    def parse(cls, spec: str) -> "Prompted":
        """NAME=KIND:MODEL or NAME=KIND:MODEL@BASE_URL. Raises InputError."""
        name, _, rest = spec.partition("=")
        kind, _, model = rest.partition(":")
        at = max(model.rfind("@http://"), model.rfind("@https://"))
        model, url = (model[:at], model[at + 1 :]) if at >= 0 else (model, "")
        if not name or not model or kind not in KINDS:
            raise InputError(f"llm {spec!r}: expected NAME=KIND:MODEL or NAME=KIND:MODEL@URL, KIND one of {', '.join(KINDS)}")
        return cls(name, kind, model, url)

    def annotate_config(self, config: EvaluateConfig) -> AnnotateConfig:
        """The options as the annotate stage takes them. For a model with an address of its own NAME_API_KEY goes before llm.key_env."""
        llm = LlmConfig(**asdict(config.llm), model=self.model)
        if self.base_url:
            own_key = re.sub(r"\W", "_", self.name).upper() + "_API_KEY"
            llm = replace(llm, base_url=self.base_url, key_env=own_key if own_key in os.environ else llm.key_env)
        return AnnotateConfig(llm=llm, budget=config.budget)


@dataclass(frozen=True)
class Question:
    """One prompt, and what its answer is about: a test sentence, and for universalner one type."""

    prompt: str
    sentence: int
    kind: str = ""


def run(config: EvaluateConfig, tasks: Sequence[Task], samples: Mapping[str, Samples], results: Results) -> None:
    """The rows of all config.llms that are not there yet. Raises InputError, and Preempted where a server fails."""
    models = [Prompted.parse(spec) for spec in config.llms]
    for name in ("openai", "genai_prices"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--llms needs {name}: pip install 'nuner-jax[llm]'")
    from nuner_jax.annotate import stage
    from nuner_jax.annotate.ledger import Ledger

    for model in models:
        stage.check(model.annotate_config(config))
    for task in tasks:
        _check_names(task)
    with stage.stopped_by_sigterm(), Ledger(Path(config.out) / "llm" / "ledger.sqlite") as ledger:
        for model in models:
            _run_model(config, model, tasks, samples, results, ledger)


def _check_names(task: Task) -> None:
    """Raises InputError if an answer could not tell two types apart."""
    called: dict[str, str] = {}
    for kind in task.types:
        other = called.setdefault(prompts.plain(task.words_for(kind)[0]), kind)
        if other != kind:
            raise InputError(f"task {task.name}: types {other} and {kind} are called the same in prompts; give them names")


def _run_model(
    config: EvaluateConfig,
    model: Prompted,
    tasks: Sequence[Task],
    samples: Mapping[str, Samples],
    results: Results,
    ledger: "Ledger",
) -> None:
    bases = {(task.name, cell): _base(config, model, task, cell, i) for task in tasks for cell, i in samples[task.name].items()}
    todo = [(task, cell) for task in tasks for cell in samples[task.name] if not results.has(bases[task.name, cell])]
    if not todo:
        print(f"{model.name}: all {len(bases)} cells are done", flush=True)
        return
    terms = _terms(config, model)

    def ask(task: Task, cell: Cell) -> list[Question]:
        return questions(model.kind, task, samples[task.name][cell], config.prompt_examples)

    left = _send(config, model, ledger, terms, (q.prompt for task, cell in todo for q in ask(task, cell)))
    done = 0
    counts: dict[str, Counter[str]] = {task.name: Counter() for task in tasks}
    for task, cell in todo:
        asked = ask(task, cell)
        kept = ledger.kept(list({terms.key(q.prompt) for q in asked}))
        if any(terms.key(q.prompt) not in kept for q in asked):
            continue
        done += 1
        row = read_cell(model.kind, task, [(q, *kept[terms.key(q.prompt)]) for q in asked])
        codes = row.pop("codes")
        scores = scored(task, samples[task.name][cell], codes)
        store(config, results, task, [({**bases[task.name, cell], **scores, **row}, codes)])
        counts[task.name].update({f"answers {name}": count for name, count in row["answers"].items()})
        counts[task.name].update({f"left out, {name}": count for name, count in row["left_out"].items()})
    for name, count in counts.items():
        if count:
            print(f"{model.name} on {name}: {', '.join(f'{what} {n:,}' for what, n in sorted(count.items()))}", flush=True)
    if done < len(todo):
        print(f"{model.name}: {len(todo) - done} of {len(todo)} cells lack answers and have no row ({left})", flush=True)


def _base(config: EvaluateConfig, model: Prompted, task: Task, cell: Cell, indices: Sequence[int]) -> Row:
    """What a row says before it has scores."""
    examples = config.prompt_examples if model.kind == "few" else None
    return cell_base(config, task, cell, indices) | {
        "system": model.name,
        "protocol": "prompt",
        "layers": [],
        "head": model.kind,
        "labels": "spans",
        "encoder": model.model,
        "encoder_hash": "",
        "settings": {
            "prompt": prompts.version(model.kind),
            "model": model.model,
            "llm.temperature": config.llm.temperature,
            "llm.max_tokens": config.llm.max_tokens,
            "llm.extra_body": dict(config.llm.extra_body),
            **({"llm.base_url": model.base_url} if model.base_url else {}),
            **({"prompt_examples": examples} if examples is not None else {}),
            **({"types": {kind: list(task.words_for(kind)) for kind in task.types}} if task.names or task.definitions else {}),
        },
    }


def _terms(config: EvaluateConfig, model: Prompted) -> "Terms":
    from nuner_jax.annotate.records import Terms

    params = {"temperature": config.llm.temperature, "max_tokens": config.llm.max_tokens, **config.llm.extra_body}
    if model.base_url:  # servers of one's own may call different models the same
        params["base_url"] = model.base_url
    return Terms(model.model, prompts.version(model.kind), json.dumps(params, sort_keys=True))


def questions(kind: str, task: Task, indices: Sequence[int], max_examples: int = 0) -> list[Question]:
    """What is asked for one cell: a question a test sentence, for universalner one a type as well; examples for kind few only."""
    called = {kind: task.words_for(kind) for kind in task.types}
    texts = [" ".join(words) for words in task.test.words]
    if kind == "universalner":
        names = [(type_, name) for type_, (name, _) in called.items()]
        return [
            Question(prompts.universalner_prompt(text, name), i, type_) for i, text in enumerate(texts) for type_, name in names
        ]
    shown = list(indices)[: max_examples or None] if kind == "few" else []
    examples = [_example(task, i) for i in shown]
    labels = dict(called.values())
    return [Question(prompts.ner_prompt(text, labels, examples), i) for i, text in enumerate(texts)]


def _example(task: Task, i: int) -> prompts.Example:
    words = task.train.sentences[i].words
    mentions = [(" ".join(words[s.start : s.end]), task.words_for(s.type)[0]) for s in task.train.spans[i]]
    return prompts.Example(" ".join(words), mentions)


def _send(config: EvaluateConfig, model: Prompted, ledger: "Ledger", terms: "Terms", texts: Iterator[str]) -> str:
    """Sends what the ledger has no answer to. Returns why some is left, if so. Raises Preempted if the server gave no answer."""
    from nuner_jax.annotate import stage
    from nuner_jax.annotate.budget import CHARS_PER_TOKEN, REPLY_TOKENS, dollars
    from nuner_jax.annotate.client import Client
    from nuner_jax.annotate.records import Sentence
    from nuner_jax.annotate.scan import scan
    from nuner_jax.demo.llm_process import demo_server

    as_annotate = model.annotate_config(config)
    counts = scan(ledger, (Sentence(text) for text in texts), terms)
    pending = stage.waiting(ledger)
    print(f"{model.name}: {counts['sentences']:,} questions to {model.model}, {pending:,} of them not answered yet", flush=True)
    if not pending:
        return ""
    budget = stage.budget_of(ledger, as_annotate)
    tokens_in = sum(len(request.texts[0]) for request in _pending(ledger)) / CHARS_PER_TOKEN
    tokens_out = pending * REPLY_TOKENS
    forecast = f"about {tokens_in:,.0f} tokens in and {tokens_out:,} out, {dollars(budget.cost(tokens_in, tokens_out))}"
    print(f"  {forecast}; spent before: {dollars(budget.spent_usd)}", flush=True)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(demo_server()) if as_annotate.llm.base_url == "demo" else ""
        sender = stage.send(ledger, Client(as_annotate.llm, url), as_annotate, _manner(model.kind))
    usd, *tokens = ledger.spent()
    paid = dollars(usd) if ledger.priced() else "not known: the model has no price"
    print(f"  spent with this ledger: {sum(tokens):,} tokens, cost {paid}", flush=True)
    left = ledger.states()["pending"]
    if left and not sender.out_of_budget:
        errors = "; ".join(f"{count} x {error}" for state, error, count in ledger.errors() if state == "pending")
        raise Preempted(f"{left} questions to {model.model} got no reply ({errors}); the same command tries them again")
    return f"the budget is used up: {left} questions are left; raise it and run the same command again" if left else ""


def _pending(ledger: "Ledger") -> Iterator["Request"]:
    last = 0
    while part := ledger.requests("pending", last):
        yield from part
        last = part[-1].id


def _manner(kind: str) -> "Manner":
    """How the sender asks and judges: each answer is taken as it comes, since asking again at temperature 0 gives the same."""
    from nuner_jax.annotate.sender import Manner

    def body(llm: LlmConfig, texts: tuple[str, ...]) -> dict[str, Any]:
        common = {"model": llm.model, "temperature": llm.temperature, llm.max_tokens_field: llm.max_tokens}
        if kind == "universalner":
            return {**common, "prompt": texts[0], "stop": ["</s>"], **llm.extra_body}
        return {**common, "messages": [{"role": "user", "content": texts[0]}], **llm.extra_body}

    def decide(request: "Request", reply: "Reply", llm: LlmConfig) -> tuple[int, str, bool]:
        del llm
        return request.id, _read(kind, reply.text, (), "", reply.finish_reason).verdict, False

    return Manner(body, decide)


def _read(kind: str, reply: str, labels: Sequence[str], type_: str, finish_reason: str) -> prompts.Answer:
    if kind == "universalner":
        return prompts.read_universalner(reply, type_, finish_reason)
    return prompts.read_ner(reply, labels, finish_reason)


def read_cell(kind: str, task: Task, answers: Sequence[tuple[Question, str, "Reply"]]) -> Row:
    """The tags that the answers to one cell's questions amount to, and what came of them: {"codes", "answers", "left_out", ...}.

    `answers`: (question, the ledger's state, reply). What is refused, declined or malformed is counted and adds no entity.
    """
    verdicts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    spans: list[list[WordSpan]] = [[] for _ in range(len(task.test))]
    types = {task.words_for(type_)[0]: type_ for type_ in task.types}
    for question, state, reply in answers:
        if state == "refused":
            verdicts["refused"] += 1
            continue
        answer = _read(kind, reply.text, list(types), question.kind, reply.finish_reason)
        verdicts[answer.verdict] += 1
        found, notes = _located(kind, task.test.sentences[question.sentence].words, answer, types)
        spans[question.sentence] += found
        left_out.update(answer.notes + notes)
    tagged = []
    for sentence, found in zip(task.test.sentences, spans, strict=True):
        tags = flat_tags(sorted(set(found)), len(sentence.words), left_out)
        tagged.append(TaggedSentence(sentence.words, tags))
    replies = [reply for _, _, reply in answers]
    costs = [reply.cost for reply in replies if reply.cost is not None]
    return {
        "codes": make_split(tagged, task.types).codes,
        "answers": dict(sorted(verdicts.items())),
        "left_out": dict(sorted((+left_out).items())),
        "cost_usd": round(sum(costs), 6) if costs else None,
        "tokens": sum((reply.prompt_tokens or 0) + (reply.completion_tokens or 0) for reply in replies),
    }


def _located(
    kind: str, words: Sequence[str], answer: prompts.Answer, types: Mapping[str, str]
) -> tuple[list[WordSpan], Counter[str]]:
    """Word spans of an answer: in the order of the answer, or (universalner, a set of strings) wherever the text has them."""
    from nuner_jax.annotate.align import align

    text = " ".join(words)
    if kind == "universalner":
        characters, notes = prompts.every_occurrence(text, answer.annotations)
    else:
        written = [a._replace(mention=prompts.as_written(text, a.mention), concept=types[a.concept]) for a in answer.annotations]
        mentions, notes = align(text, written)
        characters = [(m.start, m.end, m.concept) for m in mentions]
    return word_spans(words, characters), notes
