"""What an annotation costs: prices, the running sum, the limit, and the forecast."""

import asyncio
from dataclasses import dataclass, field

from nuner_jax.errors import InputError

REPLY_TOKENS = 120
"""Tokens of a reply to one sentence, before any has been seen (paper: 4.4 mentions a sentence, with descriptions)."""
CHARS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for a number of tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6

    def times(self, share: float) -> "Price":
        """A share of this price, as for batches."""
        return Price(self.input * share, self.output * share)


def price_of(model: str, price_in: float | None = None, price_out: float | None = None) -> Price | None:
    """The price as given, else the one that the offline table of genai-prices has for the model; None if it has none."""
    if price_in is not None and price_out is not None:
        return Price(price_in, price_out)
    if price_in is not None or price_out is not None:
        raise InputError("llm.price_in and llm.price_out go together: dollars per million tokens of input and of output")
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(Usage(input_tokens=1000, output_tokens=1000), model_ref=model)
    except LookupError:
        return None
    return Price(float(found.input_price) * 1000, float(found.output_price) * 1000)


@dataclass
class Estimate:
    """Tokens of requests that were not sent yet, learned from the replies so far."""

    prompt_chars: float = 0.0
    prompt_tokens: float = 0.0
    replies: int = 0
    reply_tokens: float = 0.0

    def learn(self, chars: int, sentences: int, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Takes in what the server counted for a request of `chars` characters about `sentences` sentences."""
        if prompt_tokens:
            self.prompt_chars += chars
            self.prompt_tokens += prompt_tokens
        if completion_tokens:
            self.replies += sentences
            self.reply_tokens += completion_tokens

    def prompt(self, chars: float) -> int:
        """Tokens of a prompt of so many characters."""
        weight = 2000.0  # characters at the prior, so that the first replies do not decide alone
        return round(chars * (self.prompt_tokens + weight / CHARS_PER_TOKEN) / (self.prompt_chars + weight)) + 8

    def reply(self, sentences: int) -> int:
        """Tokens of a reply about so many sentences."""
        weight = 4.0
        return round(sentences * (self.reply_tokens + weight * REPLY_TOKENS) / (self.replies + weight))


@dataclass
class Budget:
    """What has been spent, what is under way, and the limits on the sum (None: no limit; no price: dollars are not known)."""

    price: Price | None
    usd: float | None = None
    tokens: int | None = None
    spent_usd: float = 0.0
    spent_tokens: int = 0
    under_way: int = 0
    reserved_usd: float = 0.0
    reserved_tokens: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Raises InputError if a limit in dollars cannot be kept for want of a price."""
        if self.usd is not None and self.price is None:
            raise InputError(
                "budget.usd: the model's price is not known; give llm.price_in and llm.price_out ($ a million tokens)"
            )

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Dollars, None if the price is not known."""
        return None if self.price is None else self.price.of(prompt_tokens, completion_tokens)

    def fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether such a request still fits beside what is spent and under way."""
        cost = self.cost(prompt_tokens, completion_tokens) or 0.0
        dollars = self.usd is None or self.spent_usd + self.reserved_usd + cost <= self.usd
        return dollars and (
            self.tokens is None or self.spent_tokens + self.reserved_tokens + prompt_tokens + completion_tokens <= self.tokens
        )

    async def admit(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Reserves for a request, after waiting for others to settle if it does not fit now; False if it never will."""
        while not self.fits(prompt_tokens, completion_tokens):
            if not self.under_way:
                return False
            self._settled.clear()
            await self._settled.wait()
        self.under_way += 1
        self.reserved_usd += self.cost(prompt_tokens, completion_tokens) or 0.0
        self.reserved_tokens += prompt_tokens + completion_tokens
        return True

    def settle(self, reserved: tuple[int, int], used: tuple[int, int] = (0, 0)) -> None:
        """Ends a reservation: (prompt tokens, completion tokens) as reserved, and as really used."""
        self.under_way -= 1
        self.reserved_usd -= self.cost(*reserved) or 0.0
        self.reserved_tokens -= sum(reserved)
        self.spent_usd += self.cost(*used) or 0.0
        self.spent_tokens += sum(used)
        self._settled.set()


def dollars(amount: float | None) -> str:
    """`$0.0123`: as many digits as the amount needs."""
    if amount is None:
        return "cost unknown"
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"
