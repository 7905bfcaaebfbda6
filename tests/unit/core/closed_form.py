"""The closed form of `core.violation` again, one cell and one class at a time and as it is written down: what the arrays are held to."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from plain_lengths import BOUNDS, variation
from whole_queue import WholeQueue, plain

from dynamollm.core.classes import RequestClass
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, Load, Order, Slo, SloRule
from dynamollm.core.stream import QUADRATURE


def normal_tail(z: float) -> float:
    z = min(max(z, -6.0), 6.0)
    return 1 / (1 + math.exp(1.5976 * z + 0.07056 * z**3))


def gamma_tail(slack: float, mean: float, variance: float) -> float:
    """P(X > slack) of a gamma-distributed X."""
    slack, mean, variance = max(slack, 1e-9), max(mean, 1e-9), max(variance, 1e-9)
    ninth = variance / (9 * mean**2)
    return normal_tail(((slack / mean) ** (1 / 3) - (1 - ninth)) / math.sqrt(ninth))


@dataclass
class Cell:
    """One mix on an instance of one TP degree at one clock, at one mean batch."""

    profile: Profile
    load: Load
    tensor_parallel: int
    clock_mhz: int
    batch: float

    def __post_init__(self) -> None:
        self.chunked = self.profile.interleaves_prefill
        self.budget = float(self.profile.max_batched_tokens)
        total = sum(part.rate_per_s for part in self.load.values())
        self.share = {c: part.rate_per_s / total for c, part in self.load.items()}
        self.inputs = sum(self.share[c] * part.input_tokens for c, part in self.load.items())
        self.outputs = sum(self.share[c] * part.output_tokens for c, part in self.load.items())
        held = sum(
            self.share[c] * part.output_tokens * (part.input_tokens + part.output_tokens / 2)
            for c, part in self.load.items()
        )
        self.context = held / self.outputs
        self.spread = math.sqrt(
            sum(self.share[c] * self.square(part, c) for c, part in self.load.items()) / self.outputs
        )
        self.base_ms = 0.0 if self.chunked else self.prefill_ms(1, 1)
        self.full_ms = self.prefill_ms(self.budget, 0.0 if self.chunked else self.budget**2) - self.prefill_ms(1, 1)
        self.added = [self.moment(self.load, k) for k in (1, 2, 3)]
        # Little's law.
        self.step_ms = self.decode_ms(1 + self.batch)
        busy_ms = self.busy_ms()
        self.per_ms = self.batch / (self.outputs * self.step_ms + self.batch * busy_ms)
        self.prompt_share = min(self.per_ms * busy_ms, 1 - 1e-6)
        self.token_ms = self.step_ms / (1 - self.prompt_share)
        self.prompt_base_ms = self.step_ms if self.chunked else self.base_ms
        # How the batch fluctuates.
        self.more_ms = self.decode_ms(2 + self.batch) - self.step_ms
        lasting = min(self.batch * self.more_ms / self.step_ms, 0.9)
        self.batch_variance = self.batch / (1 - lasting) * (1 + 1 / (1 - self.prompt_share) ** 2) / 2
        self.steady = (self.more_ms / (1 - self.prompt_share)) ** 2 * self.batch_variance
        self.stall = self.added[1] + 2 * self.added[0] * self.base_ms + self.base_ms**2

    def busy_ms(self) -> float:
        """What prompts take of time, by request: those that come within one step share the next."""
        if not self.chunked:
            per_ms = self.batch / (self.outputs * self.step_ms + self.batch * (self.added[0] + self.base_ms))
            others = max(per_ms * (self.step_ms + self.base_ms / 2), 1e-12)
            return self.added[0] + self.base_ms * (1 - math.exp(-others)) / others
        squares = sum(
            self.share[c] * part.input_tokens**2 * (1 + variation(part.input_tokens, BOUNDS[c.value[0]][0]) ** 2)
            for c, part in self.load.items()
        )
        tokens = min(squares / self.inputs, self.budget)
        more = min(tokens + self.batch / self.outputs * self.inputs, self.budget)
        each, then = ((self.prefill_ms(n, 0.0) - self.prefill_ms(1, 1)) / n for n in (tokens, more))
        return self.added[0] * then / each

    def square(self, part: ClassLoad, request_class: RequestClass) -> float:
        """What sequences of a class hold: the mean square, weighed by their tokens."""
        inputs, outputs = part.input_tokens, part.output_tokens
        of_inputs, of_outputs = (
            variation(mean, bounds)
            for mean, bounds in zip(
                (inputs, outputs), (BOUNDS[request_class.value[0]][0], BOUNDS[request_class.value[1]][1]), strict=True
            )
        )
        mean_square = inputs**2 * (1 + of_inputs**2) + inputs * outputs + outputs**2 * (1 + of_outputs**2) / 3
        return outputs * mean_square

    def prefill_ms(self, tokens: float, squared: float) -> float:
        point = {"tensor_parallel": self.tensor_parallel, "clock_mhz": self.clock_mhz}
        return self.profile.prefill_ms(tokens=tokens, squared_tokens=squared, **point)

    def decode_ms(self, batch: float) -> float:
        point = {"tensor_parallel": self.tensor_parallel, "clock_mhz": self.clock_mhz}
        return self.profile.decode_ms(batch=batch, context_tokens=batch * self.context, **point)

    def lengths(self, request_class: RequestClass) -> list[tuple[float, float]]:
        """Prompt lengths that stand for a class's, and their weights."""
        mean = self.load[request_class].input_tokens
        sigma = math.sqrt(math.log(1 + variation(mean, BOUNDS[request_class.value[0]][0]) ** 2))
        least, most = BOUNDS[request_class.value[0]][0]
        longest = float(self.profile.max_input_tokens)
        least, most = (least, min(most, longest)) if least <= mean <= most else (1.0, longest)
        return [(min(max(mean * math.exp(sigma * z - sigma**2 / 2), least), most), weight) for z, weight in QUADRATURE]

    def prompt_ms(self, tokens: float) -> float:
        if not self.chunked:
            return self.prefill_ms(tokens, tokens**2) - self.prefill_ms(1, 1)
        chunks, rest = divmod(tokens, self.budget)
        square_ms = self.prefill_ms(1, 1) - self.prefill_ms(1, 0)
        return (
            chunks * self.full_ms + self.prefill_ms(max(rest, 1.0), 0.0) - self.prefill_ms(1, 1) + tokens**2 * square_ms
        )

    def moment(self, classes: "Load | set[RequestClass]", power: int) -> float:
        return sum(
            self.share[c] * weight * self.prompt_ms(tokens) ** power
            for c in classes
            for tokens, weight in self.lengths(c)
        )

    # ------------------------------------------------------------------ waits
    def queue(self, ahead: set[RequestClass]) -> tuple[float, float, float]:
        """Load, mean and square of the wait where there is one, of the M/G/1 queue of these classes' prompts in chunks."""
        chunk = max(self.budget - self.batch, 64.0)
        scale = (self.busy_ms() + self.prompt_base_ms * self.inputs / chunk) / self.added[0]
        w1, w2, w3 = (scale**k * self.moment(ahead, k) for k in (1, 2, 3))
        load = min(max(self.per_ms * w1, 1e-12), 0.999)
        first = self.per_ms * w2 / (2 * (1 - load))
        second = 2 * first**2 + self.per_ms * w3 / (3 * (1 - load))
        return load, first / load, second / load

    @property
    def quiet_ms(self) -> float:
        return (1 - math.exp(-self.batch)) * self.step_ms

    @cached_property
    def whole(self) -> WholeQueue:
        return WholeQueue(self)

    def cases(self, request_class: RequestClass, slo: Slo, order: Order) -> list[tuple[float, float, float]]:
        """Probability, mean and variance of the waits of a class for prompts; the rest of the time there are none."""
        if not self.chunked:
            return [plain(self.whole.queued)]
        chunk = max(self.budget - self.batch, 64.0)
        behind = 1 + min(self.per_ms * self.added[0], 1.0) * chunk / (chunk + self.inputs)
        everyone = set(self.load)
        limits = sorted({slo.ttft_ms[c] for c in everyone})
        all_load, all_mean, all_square = self.queue(everyone)
        if order is Order.FIRST_COME_FIRST_SERVED or len(limits) == 1:
            mean = all_mean * behind
            return [(all_load, mean, all_square * behind**2 - mean**2)]
        limit = slo.ttft_ms[request_class]
        load, mean, square = self.queue({c for c in everyone if slo.ttft_ms[c] <= limit})
        earlier = {c for c in everyone if slo.ttft_ms[c] < limit}
        stretch = behind / (1 - (self.queue(earlier)[0] if earlier else 0.0))
        later = max(all_load - load, 0.0)
        first = max(all_load * all_mean - load * mean, 1e-12) / max(later, 1e-12) * behind
        most = 1.5 * (self.step_ms + self.full_ms) / first
        second = 2 * first**2 * (1 - math.exp(-most) * (1 + most))
        first = first * (1 - math.exp(-most))
        return [
            (load, mean * stretch, (square - mean**2) * stretch**2),
            (later, first, second - first**2),
        ]

    def over(self, slack: float, cases: list[tuple[float, float, float]], more: tuple[float, float] | None) -> float:
        quiet_ms = self.quiet_ms
        quiet = 1 - sum(probability for probability, _, _ in cases)
        mean, variance = more or (0.0, 0.0)
        if more is None:
            total = quiet * min(max(1 - slack / (quiet_ms + 1e-9), 0.0), 1.0)
        else:
            total = quiet * gamma_tail(slack, mean + quiet_ms / 2, variance + quiet_ms**2 / 12)
        return total + sum(p * gamma_tail(slack, m + mean, v + variance) for p, m, v in cases)

    # ------------------------------------------------------------------ the rules
    def missed(self, slo: Slo, order: Order) -> float:
        if slo.rule is SloRule.PER_REQUEST:
            return sum(
                share * (1 - (1 - self.late(c, slo, order)) * (1 - self.slow(c, slo.tbt_ms[c])))
                for c, share in self.share.items()
            )
        if slo.rule is SloRule.PER_CLASS_PERCENTILE:
            return max(max(self.late(c, slo, order), self.long_gaps(c, slo.tbt_ms[c])) for c in self.share)
        return sum(share * self.beyond_alone(c, slo, order) for c, share in self.share.items())

    def late(self, request_class: RequestClass, slo: Slo, order: Order) -> float:
        cases = self.cases(request_class, slo, order)
        whole = None if self.chunked else self.whole
        total = 0.0
        for tokens, weight in self.lengths(request_class):
            steps = 1 + math.floor(tokens / self.budget) if self.chunked else 1
            slack = slo.ttft_ms[request_class] - self.prompt_ms(tokens) - steps * self.prompt_base_ms
            if whole is None:
                total += weight * self.over(slack, cases, None)
                continue
            quiet = (1 - whole.queued[0]) * min(max(1 - max(slack, 0.0) / (self.quiet_ms + 1e-9), 0.0), 1.0)
            more, mean, variance = plain(whole.more)
            total += weight * (quiet + more * gamma_tail(slack, mean, variance) + whole.one_above(max(slack, 1e-9)))
        return min(total + self.without_place(slo.ttft_ms[request_class] - self.own_ms(request_class)), 1.0)

    def own_ms(self, request_class: RequestClass) -> float:
        """What a class's prompts take on average."""
        steps = [
            1 + math.floor(tokens / self.budget) if self.chunked else 1 for tokens, _ in self.lengths(request_class)
        ]
        mean = sum(weight * steps for steps, (_, weight) in zip(steps, self.lengths(request_class), strict=True))
        return mean * self.prompt_base_ms + self.class_moment(request_class, 1)

    def class_moment(self, request_class: RequestClass, power: int) -> float:
        return sum(weight * self.prompt_ms(tokens) ** power for tokens, weight in self.lengths(request_class))

    def without_place(self, slack: float) -> float:
        """P(the batch is full, and nobody leaves within the slack)."""
        most = min(self.profile.max_sequences, max(1.0, self.budget - 64))
        full = gamma_tail(most - 0.5, self.batch, self.batch_variance)
        return full * math.exp(-max(slack, 0.0) * self.per_ms * max(most - self.batch, 0.0) / self.batch_variance)

    def held_up(self, window_ms: float) -> tuple[float, float]:
        """Mean and variance of what prompts that come within a time add to it."""
        left = 1 - self.prompt_share
        return window_ms * self.prompt_share / left, self.per_ms * self.stall * window_ms / left**3

    def slow(self, request_class: RequestClass, limit_ms: float) -> float:
        if not self.chunked:
            by_answer = (
                share * self.slow_answer(gaps, request_class, limit_ms) for gaps, share in self.answers(request_class)
            )
            return max(sum(by_answer), self.stalled(request_class, limit_ms))
        gaps = max(1.0, self.usual_outputs(request_class) - 1)
        usual = self.slow_answer(gaps, request_class, limit_ms)
        brief = self.brief_share(request_class)
        return (1 - brief) * usual + brief * max(usual, self.held_up_throughout(limit_ms))

    def slow_answer(self, gaps: float, request_class: RequestClass, limit_ms: float) -> float:
        """P(the mean TBT of an answer of so many gaps is above a limit)."""
        gaps, least = max(gaps, 1.0), self.decode_ms(1)
        mean, variance = self.held_up(gaps * self.step_ms + (0.0 if self.chunked else self.own_ms(request_class)))
        if self.chunked:
            variance *= (1 - self.prompt_share) ** 2
        return gamma_tail(limit_ms - least, self.step_ms - least + mean / gaps, variance / gaps**2 + self.steady)

    def brief_share(self, request_class: RequestClass) -> float:
        return self.load[request_class].brief_share

    def usual_outputs(self, request_class: RequestClass) -> float:
        """Mean tokens of the answers that are not brief: those have three."""
        mean, brief = self.load[request_class].output_tokens, min(self.brief_share(request_class), 0.99)
        return max((mean - 3 * brief) / (1 - brief), mean)

    def held_up_throughout(self, limit_ms: float) -> float:
        """P(a brief answer's steps are filled by prompts, and too long so): of one step or of three, half of each."""
        chunk = max(self.budget - self.batch, 64.0)
        filled = min(self.prompt_share + self.per_ms * self.step_ms * self.inputs / chunk, 1.0)
        left_ms = self.added[1] / (2 * self.added[0])
        slack = max(limit_ms - self.step_ms, 0.0)
        full_ms = self.prefill_ms(chunk, 0.0) - self.prefill_ms(1, 1)
        too_long = normal_tail((slack - full_ms) / max(self.more_ms * math.sqrt(self.batch_variance), 1e-9))
        lasts = [math.exp(-steps * slack * (1 - filled) ** 2 / left_ms) for steps in (1, 3)]
        return filled * too_long * sum(lasts) / 2

    def stalled(self, request_class: RequestClass, limit_ms: float) -> float:
        total = 0.0
        for answer, weight in self.answers(request_class):
            some = max(answer, 1.0)
            room = some * (limit_ms - self.step_ms) - self.base_ms
            window = some * self.step_ms + self.own_ms(request_class)
            total += weight * (1 - math.exp(-self.per_ms * window * self.longer(room)))
        return total

    def longer(self, room_ms: float) -> float:
        """P(a prompt adds more than this), a straight line between the points of a grid."""
        place = min(math.log(max(room_ms, 10.0) / 10.0) / math.log(1.284), 25 - 1e-9)
        low = math.floor(place)
        here, there = (self.longer_than(10.0 * 1.284**k) for k in (low, low + 1))
        return here + (there - here) * (place - low)

    def longer_than(self, ms: float) -> float:
        total = 0.0
        for c, share in self.share.items():
            e1, e2 = (sum(w * self.prompt_ms(tokens) ** k for tokens, w in self.lengths(c)) for k in (1, 2))
            sigma = math.sqrt(math.log(max(e2 / e1**2, 1 + 1e-6)))
            total += share * normal_tail((math.log(ms) - math.log(e1) + sigma**2 / 2) / sigma)
        return total

    def answers(self, request_class: RequestClass) -> list[tuple[float, float]]:
        """Gaps between the tokens of answers that stand for a class's, and their weights."""
        mean, brief = self.load[request_class].output_tokens, self.brief_share(request_class)
        sigma = math.sqrt(math.log(1 + variation(mean, BOUNDS[request_class.value[1]][1]) ** 2))
        usual = self.usual_outputs(request_class)
        gaps = [max(usual * math.exp(sigma * z - sigma**2 / 2) - 1, 0.0) for z in (-1.4, 0.0, 1.4)]
        return [*((gap, (1 - brief) / 3) for gap in gaps), (1.0, brief / 2), (3.0, brief / 2)]

    def long_gaps(self, request_class: RequestClass, limit_ms: float) -> float:
        slack, spread = limit_ms - self.step_ms, self.more_ms * math.sqrt(self.batch_variance)
        alone = normal_tail(slack / max(spread, 1e-9))
        count = self.long_steps if self.chunked else self.long_stalls
        long = (count(slack - spread) + count(slack + spread)) / 2
        window = self.token_ms if self.chunked else self.step_ms
        above = alone + 1 - math.exp(-self.per_ms * window * long)
        if not self.chunked:
            gaps = max(1.0, self.load[request_class].output_tokens - 1)
            above += (1 - math.exp(-self.per_ms * self.own_ms(request_class) * long)) / gaps
        return min(above, 1.0)

    def adds_more(self, request_class: RequestClass, room: float) -> float:
        """P(a prompt of a class adds more than the room), log-normal by two moments."""
        e1, e2 = (self.class_moment(request_class, k) for k in (1, 2))
        sigma = math.sqrt(math.log(max(e2 / e1**2, 1 + 1e-6)))
        return normal_tail((math.log(max(room, 1e-9)) - math.log(e1) + sigma**2 / 2) / sigma)

    def long_steps(self, room: float) -> float:
        """In how many steps a prompt that rides with decoding fills more than the room."""
        chunk = max(self.budget - self.batch, 64.0)
        full = self.prefill_ms(chunk, 0.0) - self.prefill_ms(1, 1)
        square_ms = self.prefill_ms(1, 1) - self.prefill_ms(1, 0)
        if room > full:
            begin = max((room - full) / (2 * square_ms * chunk) - chunk / 2, 0.0)
            return sum(
                share * weight * max(tokens - chunk - begin, 0.0) / chunk
                for c, share in self.share.items()
                for tokens, weight in self.lengths(c)
            )
        room /= 1 + min(self.prompt_share, 0.5)
        return sum(
            share * self.adds_more(c, room) * max(self.class_moment(c, 1) / full, 1.0)
            for c, share in self.share.items()
        )

    def long_stalls(self, room: float) -> float:
        """P(a whole prompt, with those that follow before the next token, fills more than the room)."""

        def longer(left: float) -> float:
            return sum(share * self.adds_more(c, left) for c, share in self.share.items()) if left > 0 else 1.0

        room -= self.base_ms
        usual = min(max(room, 0.0), self.added[0])
        shared = (1 - math.exp(-self.per_ms * self.step_ms / 2)) * longer(room - usual)
        after = (1 - math.exp(-self.per_ms * (self.base_ms + usual))) * longer(room - self.base_ms - usual)
        return longer(room) + (1 - longer(room)) * min(shared + after, 1.0)

    def beyond_alone(self, request_class: RequestClass, slo: Slo, order: Order) -> float:
        fastest = Cell(self.profile, self.load, max(self.profile.tensor_parallel), self.profile.max_clock_mhz, 0.0)
        cases, own = self.cases(request_class, slo, order), self.own_ms(request_class)
        total = 0.0
        for gaps, share in self.answers(request_class):
            mean, variance = self.held_up(gaps * self.step_ms + own)
            if self.chunked and mean > max(gaps, 1.0) * self.full_ms:
                variance *= (max(gaps, 1.0) * self.full_ms / mean) ** 2
                mean = max(gaps, 1.0) * self.full_ms
            limit = 0.0
            for tokens, weight in self.lengths(request_class):
                steps = 1 + math.floor(tokens / self.budget) if self.chunked else 1
                slack = 5 * fastest.alone_ms(tokens, gaps) - gaps * self.step_ms
                limit += weight * slack
                slack -= steps * self.prompt_base_ms + self.prompt_ms(tokens)
                total += share * weight * self.over(slack, cases, (mean, variance + gaps**2 * self.steady))
            total += share * self.without_place(limit - own - mean)
        return total

    def most(self) -> float:
        """The largest batch that the KV cache has room for, but for one moment of a thousand."""
        held = self.profile.kv_capacity_tokens(self.tensor_parallel) / self.context - 1
        sigmas = 3.1 * self.spread / self.context
        return ((-sigmas + math.sqrt(sigmas**2 + 4 * max(held, 0.0))) / 2) ** 2

    def alone_ms(self, tokens: float, gaps: float) -> float:
        """End-to-end latency of a request alone."""
        point = {"tensor_parallel": self.tensor_parallel, "clock_mhz": self.clock_mhz}
        decode = self.profile.decode_ms(batch=1, context_tokens=tokens + gaps / 2, **point)
        if not self.chunked:
            return self.prefill_ms(tokens, tokens**2) + gaps * decode
        chunks, rest = divmod(tokens, self.budget)
        square_ms = self.prefill_ms(1, 1) - self.prefill_ms(1, 0)
        prompt = chunks * self.prefill_ms(self.budget, 0.0) + (
            self.prefill_ms(max(rest, 1.0), 0.0) if rest > 0 else 0.0
        )
        return prompt + tokens**2 * square_ms + gaps * decode


def random_load(rng: np.random.Generator) -> Load:
    """Some classes at lengths within their bounds."""
    classes = rng.choice(np.array(RequestClass, dtype=object), size=int(rng.integers(1, 10)), replace=False)
    return {
        RequestClass(c): ClassLoad(
            float(rng.uniform(0.01, 3.0)),
            float(rng.uniform(*BOUNDS[c.value[0]][0]) if c.value[0] != "L" else rng.uniform(1024, 6000)),
            float(rng.uniform(*BOUNDS[c.value[1]][1])),
            brief_share=float(rng.choice([0.0, rng.uniform(0.0, 0.9)])) if c.value[1] == "S" else 0.0,
        )
        for c in classes
    }
