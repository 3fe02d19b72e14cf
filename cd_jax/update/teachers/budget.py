"""What a teacher may cost, looked at before a request is sent."""

import gin

from cd_jax.config.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.rundir.requests import Tokens

_MILLION = 1e6


@gin.configurable
class TeacherBudget:
    """The most that a run directory may spend, over all calls; None: no bound.

    What a request takes at most is set aside before it is sent, and what it took is counted when its answer says so; a
    request of which nothing came back counts in full.
    """

    def __init__(
        self,
        requests: PositiveInt | None = None,
        tokens: PositiveInt | None = None,
        money: PositiveFloat | None = None,
        input_price: NonNegativeFloat | None = None,
        output_price: NonNegativeFloat | None = None,
    ):
        """Spends nothing.

        Args:
          requests: sent; those that the server refuses do not count.
          tokens: of prompts and answers.
          money: in the currency of the prices.
          input_price: of a million tokens of prompts.
          output_price: of a million tokens of answers.

        Raises:
          RequestError: money is bounded and a price is missing.
        """
        if money is not None and (input_price is None or output_price is None):
            raise RequestError("TeacherBudget.money wants the prices: bind TeacherBudget.input_price and output_price")
        self.requests, self.tokens, self.money = requests, tokens, money
        self._prices = (input_price, output_price)

    @property
    def is_of_tokens(self) -> bool:
        """Whether it bounds what an answer's length decides."""
        return self.tokens is not None or self.money is not None

    def price(self, tokens: Tokens) -> float | None:
        """What they cost; None where the prices are not known."""
        prompt, answer = self._prices
        if prompt is None or answer is None:
            return None
        return (tokens.prompt * prompt + tokens.answer * answer) / _MILLION

    def passed(self, requests: int, tokens: Tokens) -> str:
        """The bound that so much would pass, with its binding; empty where there is none."""
        if self.requests is not None and requests > self.requests:
            return f"{self.requests} requests (TeacherBudget.requests)"
        if self.tokens is not None and sum(tokens) > self.tokens:
            return f"{self.tokens} tokens (TeacherBudget.tokens)"
        price = self.price(tokens)
        if self.money is not None and price is not None and price > self.money:
            return f"{self.money:g} (TeacherBudget.money)"
        return ""

    def told(self, requests: int, tokens: Tokens) -> str:
        """So much in words, with its price where that is known."""
        price = self.price(tokens)
        cost = "" if price is None else f", {price:.4g} of money"
        return f"{requests} requests, {tokens.prompt:,} tokens of prompts and {tokens.answer:,} of answers{cost}"
