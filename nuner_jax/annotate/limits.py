"""How fast requests may go: requests and tokens a minute."""

import time


class Bucket:
    """Lets `per_minute` units through each minute, evenly, with bursts of up to `burst` seconds' worth; 0 is no limit."""

    def __init__(self, per_minute: float, burst: float = 2.0) -> None:
        self._interval = 60.0 / per_minute if per_minute > 0 else 0.0  # seconds a unit
        self._burst = burst
        self._next = 0.0  # when everything let through so far is paid off

    def reserve(self, amount: float, now: float) -> float:
        """Takes the units; returns the seconds to wait before using them. First come, first served."""
        if not self._interval:
            return 0.0
        begin = max(self._next, now - self._burst)
        self._next = begin + amount * self._interval
        return max(0.0, begin - now)

    def give_back(self, amount: float) -> None:
        """Returns units that were not used (or, negative, takes what was used beyond the reserve)."""
        self._next -= amount * self._interval


class Pace:
    """The limits of a run, requests and tokens a minute; 0 is no limit."""

    def __init__(self, requests_per_minute: float = 0, tokens_per_minute: float = 0) -> None:
        self._requests = Bucket(requests_per_minute)
        self._tokens = Bucket(tokens_per_minute)

    def reserve(self, tokens: int) -> float:
        """Takes a place for a request of about this many tokens; returns the seconds to wait before it may be sent."""
        now = time.monotonic()
        return max(self._requests.reserve(1, now), self._tokens.reserve(tokens, now))

    def settle(self, reserved: int, used: int) -> None:
        """Corrects the estimate of `reserve` by what the request really used."""
        self._tokens.give_back(reserved - used)
