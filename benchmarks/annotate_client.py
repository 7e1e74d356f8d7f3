"""The annotation client against a bare asyncio.gather over AsyncOpenAI, and its memory over the size of the corpus.

    python benchmarks/annotate_client.py speed  [--requests 3000] [--concurrency 32] [--rounds 3]
    python benchmarks/annotate_client.py memory [--small 20000] [--large 200000] [--sentences_per_request 1]

A server that answers at once, in a process of its own. Speed: both clients alternate in this process; ours reads its requests from
the ledger, stores every reply durably, judges it and keeps the budget. Printed are requests a second and the ratio of the medians.
Memory: the whole command in a process of its own, highest resident memory.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WORDS = ["quiet", "river", "engine", "market", "garden", "letter", "winter", "doctor", "bridge", "copper", "morning", "village"]


class InstantServer(asyncio.Protocol):
    """Answers each chat completion with one annotation of each sentence's first word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.answer(json.loads(rest[:length]))

    def answer(self, body: dict) -> None:
        from nuner_jax.annotate.prompt import sentences_of

        sentences = sentences_of(body["messages"][0]["content"])
        parts = [f"{s.split()[0]} <> thing <> things that are named" for s in sentences]
        reply = parts[0] if len(parts) == 1 else "\n".join(f"### {i}\n{part}" for i, part in enumerate(parts, start=1))
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 180, "completion_tokens": 12, "total_tokens": 192}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        content = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
        self.transport.write(head + content)  # type: ignore[attr-defined]


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(InstantServer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def served() -> Iterator[str]:
    with subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}/v1"
        finally:
            child.kill()


def sentence(i: int) -> str:
    picked = [WORDS[(i // 12**k) % 12] for k in range(6)]
    return f"{picked[0].title()} number {i} stood by the {' and the '.join(picked[1:])} when the others had long gone home."


def bare(url: str, texts: list[str], concurrency: int) -> float:
    """Seconds that asyncio.gather over AsyncOpenAI takes."""
    from openai import AsyncOpenAI

    from nuner_jax.annotate.prompt import render

    async def go() -> float:
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)  # a busy machine is no failure
        slots = asyncio.Semaphore(concurrency)

        async def one(text: str) -> str | None:
            async with slots:
                messages = [{"role": "user", "content": render(text)}]
                answer = await client.chat.completions.create(model="m", messages=messages, temperature=0, max_tokens=1024)  # type: ignore[arg-type]
                return answer.choices[0].message.content

        async with client:
            await asyncio.gather(*(one(text) for text in texts[:concurrency]))  # connections stand before the clock starts
            start = time.perf_counter()
            await asyncio.gather(*(one(text) for text in texts))
            return time.perf_counter() - start

    return asyncio.run(go())


def ours(url: str, texts: list[str], concurrency: int) -> float:
    """Seconds from the pending requests in the ledger to the last durable, judged reply; connections opened on the clock."""
    from nuner_jax.annotate import stage
    from nuner_jax.annotate.client import Client
    from nuner_jax.annotate.ledger import Ledger
    from nuner_jax.annotate.records import Sentence
    from nuner_jax.annotate.scan import scan
    from nuner_jax.config import AnnotateConfig, LlmConfig

    llm = LlmConfig(model="m", base_url=url, concurrency=concurrency, price_in=1.0, price_out=2.0)
    config = AnnotateConfig(llm=llm)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        scan(ledger, map(Sentence, texts), stage.terms_of(config))
        client = Client(llm)
        start = time.perf_counter()
        stage.send(ledger, client, config)
        seconds = time.perf_counter() - start
        assert ledger.states() == {"ok": len(texts)}, ledger.states()
    return seconds


def speed(requests: int, concurrency: int, rounds: int) -> None:
    texts = [sentence(i) for i in range(requests)]
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    with served() as url:
        for _ in range(rounds):
            rates["bare"].append(requests / bare(url, texts, concurrency))
            rates["ours"].append(requests / ours(url, texts, concurrency))
            print(f"bare {rates['bare'][-1]:.0f}, ours {rates['ours'][-1]:.0f} requests a second", flush=True)
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["bare"])
    print(f"ratio of the medians: {ratio:.2f} (concurrency {concurrency}, {requests} requests, {rounds} rounds)")


def peak_megabytes(url: str, count: int, per_request: int) -> float:
    """Highest resident memory of `python -m nuner_jax.annotate` over `count` sentences."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        with open(corpus, "w") as file:
            file.writelines(sentence(i) + "\n" for i in range(count))
        command = [sys.executable, "-m", "nuner_jax.annotate", "--corpus.path", str(corpus), "--corpus.split", "none"]
        command += ["--corpus.filters", "none", "--llm.base_url", url, "--llm.model", "m", "--out", f"{folder}/out"]
        command += ["--llm.sentences_per_request", str(per_request)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        size = (Path(folder) / "out" / "ledger.sqlite").stat().st_size
    megabytes = usage.ru_maxrss / 1024 if sys.platform != "darwin" else usage.ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    print(f"{count} sentences: {megabytes:.0f} MB at most, {seconds:.0f} s, ledger {size / 1e6:.0f} MB", flush=True)
    return megabytes


def memory(small: int, large: int, per_request: int) -> None:
    with served() as url:
        first, second = (peak_megabytes(url, count, per_request) for count in (small, large))
    print(f"{large} over {small} sentences: {second / first:.3f} times the memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "serve"])
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--large", type=int, default=200_000)
    parser.add_argument("--sentences_per_request", type=int, default=1)
    args = parser.parse_args()
    if args.what == "serve":
        asyncio.run(serve())
    elif args.what == "speed":
        speed(args.requests, args.concurrency, args.rounds)
    else:
        memory(args.small, args.large, args.sentences_per_request)


if __name__ == "__main__":
    main()
