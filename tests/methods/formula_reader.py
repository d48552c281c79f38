"""A reader of formulas as plain text, which evaluates them in float64 without any code of the package.

It parses a formula such as "beta KL(pi||m) + (1 - beta) KL(pi_theta||m)" together with its definitions, which are lines
such as "m(a) = beta pi(a) + (1 - beta) pi_theta(a)", and computes its value in a step.
"""

import dataclasses
import re

import numpy as np

TOKENS = re.compile(
    r"\s*(sum_\{(\w) in (\w)\}|sum_(\w)|1\[|sg\[|\[|\]_\{t\+1\}|\]|\|\||\||\d+\.?\d*(?:e-?\d+)?"
    r"|V_(?:pi|theta)\(s_(?:t|\{t\+1\})\)|[A-Za-z]\w*?(?:_\{t\+1\}|(?!\w))|_\{t\+1\}|[-+/^(),=<>])"
)
FUNCTIONS = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt, "min": min, "max": max}


@dataclasses.dataclass
class Scene:
    """All that a formula may name in one step.

    Attributes:
      numbers: by their text, such as "beta", "r_t" or "V_pi(s_t)".
      policies: rows by their text, such as "pi".
      frozen: the rows inside of sg[...].
      action: a_t.
      k: the size of S.
      later: the scene of step t + 1.
    """

    numbers: dict
    policies: dict
    frozen: dict
    action: int
    k: int = 0
    later: "Scene | None" = None


class Reader:
    """Evaluates the tokens of one formula, left to right."""

    def __init__(self, text, lines, scene, indices=()):
        self.tokens = [match.group(1) for match in TOKENS.finditer(text)]
        unread = TOKENS.sub("", text).strip()
        assert not unread, f"{text}: {unread}"
        self.at, self.lines, self.scene, self.indices = 0, lines, scene, dict(indices)

    # --- the grammar

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *wanted):
        token = self.peek()
        assert not wanted or token in wanted, f"{wanted} expected in {self.tokens} at {self.at}"
        self.at += 1
        return token

    def cases(self):
        """Values with their conditions, "x if beta = 0, y otherwise", or a single sum."""
        start = self.at
        value = self.sum()
        if self.peek() not in ("if", "otherwise"):
            return value
        self.at = start
        while True:
            value = self.sum()
            if self.take() == "otherwise":
                return value
            holds = self.relation()
            if holds:
                self.at = len(self.tokens)
                return value
            self.take(",")

    def relation(self):
        left, sign, right = self.sum(), self.take("=", "<", ">"), self.sum()
        return {"=": left == right, "<": left < right, ">": left > right}[sign]

    def sum(self):
        negative = self.peek() == "-" and self.take()
        value = self.product()
        value = -value if negative else value
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = value + sign * self.product()
        return value

    def product(self):
        value = self.power()
        while True:
            token = self.peek()
            if token == "/":
                self.take()
                value = value / self.power()
            elif token is not None and (re.match(r"[\w(\[]|sg\[|\|$", token)) and token not in ("if", "otherwise"):
                value = value * self.power()
            else:
                return value

    def power(self):
        base = self.atom()
        if self.peek() == "^":
            self.take()
            return base ** self.atom()
        return base

    # --- the atoms

    def atom(self):
        token = self.take()
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        if token == "[":  # [...]_{t+1}
            return self.in_brackets(self.scene.later, "]_{t+1}")
        if token == "sg[":
            frozen = dataclasses.replace(self.scene, policies=self.scene.frozen)
            return self.in_brackets(frozen, "]")
        if token == "1[":
            return self.indicator()
        if token == "|":
            self.take("S")
            self.take("|")
            return self.inside().sum()
        if token.startswith("sum_"):
            return self.total(token)
        if token[0].isdigit():
            return float(token)
        if token in FUNCTIONS:
            return self.call(token)
        return self.named(token)

    def in_brackets(self, scene, end):
        outer, self.scene = self.scene, scene
        value = self.sum()
        self.take(end)
        self.scene = outer
        return value

    def indicator(self):
        if self.tokens[self.at + 1] == "in":
            index = self.index_of(self.take())
            self.take("in")
            value = self.inside()[index] if self.take("S") else None
        else:
            value = self.relation()
        self.take("]")
        return float(value)

    def total(self, token):
        """The sum of what follows, up to the end of the term, over an index."""
        index, actions = re.fullmatch(r"sum_\{?(\w)(?: in (\w))?\}?", token).groups()
        start, result = self.at, 0.0
        allowed = np.ones(len(self.scene.policies["pi"]), bool) if actions is None else self.inside()
        assert actions in (None, "S")
        for action in np.flatnonzero(allowed):
            self.at, self.indices[index] = start, action
            result += self.product()
        del self.indices[index]
        return result

    def call(self, name):
        if self.peek() != "(":
            return FUNCTIONS[name](self.power())
        self.take("(")
        values = [self.sum()]
        while self.peek() == ",":
            self.take()
            values.append(self.sum())
        self.take(")")
        return FUNCTIONS[name](*values)

    def named(self, token):
        scene, name = self.scene, token
        if name.endswith("_{t+1}"):  # r_{t+1} and the like
            scene, name = scene.later, name.removesuffix("_{t+1}") + "_t"
        if name in scene.numbers:
            return scene.numbers[name]
        if name.startswith("V_"):
            return self.scene.later.numbers[name.replace("{t+1}", "t")]
        if any(line.startswith(f"{name}(p") for line in self.lines):
            return self.divergence(name)
        row = self.row(name)
        if self.peek() != "(":
            return row  # a policy as a whole
        self.take("(")
        index = self.take()
        if index == "a_{t+1}":
            row = self.elsewhere(name, self.scene.later)
        self.take(")")
        return row[self.index_of(index)]

    def index_of(self, index):
        if index == "a_{t+1}":
            return self.scene.later.action
        return self.scene.action if index == "a_t" else self.indices[index]

    # --- names that are defined in other lines

    def elsewhere(self, name, scene):
        return Reader("", self.lines, scene, {}).row(name)

    def inside(self):
        """True for the actions of S."""
        (line,) = (line for line in self.lines if line.startswith("S = "))
        owner = re.fullmatch(r"S = the k most probable actions of (\w+), held fixed", line)[1]
        scene = dataclasses.replace(self.scene, policies=self.scene.frozen)
        row = self.elsewhere(owner, scene)
        order = np.argsort(-row, kind="stable")
        return np.isin(np.arange(len(row)), order[: int(self.scene.k)])

    def row(self, name):
        if name in self.scene.policies:
            return self.scene.policies[name]
        (line,) = (line for line in self.lines if line.startswith(f"{name}(a) = "))
        body = line.partition(" = ")[2]
        rest = re.fullmatch(
            r"(\w+)\(a\) for a in S, and 1 - sum_\{b in S\} \1\(b\) for all other actions together", body
        )
        if rest:
            row, inside = self.row(rest[1]), self.inside()
            joined = np.append(row[inside], 1 - row[inside].sum())
            return joined if not inside.all() else joined[:-1]
        actions = range(len(self.scene.policies["pi"]))
        values = np.array([Reader(body, self.lines, self.scene, {"a": a}).sum() for a in actions])
        return np.where(self.inside(), values, 0) if name.endswith("_S") else values

    def divergence(self, name):
        """A sum over actions that is defined for any policies p and q."""
        self.take("(")
        policies = [self.sum()]
        while self.peek() == "||":
            self.take()
            policies.append(self.sum())
        self.take(")")
        scene = self.scene
        if self.peek() == "_{t+1}":
            raise AssertionError("read one step later")
        arguments = "||".join("pq"[: len(policies)])
        (line,) = (line for line in self.lines if line.startswith(f"{name}({arguments}) = "))
        # A policy of some actions only is 0 elsewhere, and 0 log 0 = 0.
        kept = policies[0] > 0
        rows = {"pi": policies[0][kept]} | {n: p[kept] for n, p in zip("pq", policies, strict=False)}
        inner = dataclasses.replace(scene, policies=rows, frozen=rows)
        return Reader(line.partition(" = ")[2], self.lines, inner).sum()


def evaluate(text, lines, scene):
    """The value of a formula, given the lines of its definitions."""
    # A divergence of the next step is the same text read in the next step.
    pattern = r"(\w+\([^()]*(?:\|\|[^()]*)?\))_\{t\+1\}"
    reader = Reader(re.sub(pattern, r"[\1]_{t+1}", text), lines, scene)
    value = reader.cases()
    assert reader.at == len(reader.tokens), f"{text}: {reader.tokens[reader.at :]} is left"
    return value
