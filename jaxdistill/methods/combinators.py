"""How objectives are composed: terms from divergences, functions of a step from terms, and methods from methods.

`Terms` are one number for each action, [A], such as those of a divergence. Some combinators change terms, such as
`top_k`, `tempered` and `clipped`. `total` and `sampled` make a function of a `Step` from terms: the sum over the
actions, or the term of the action taken. Others change such functions, such as `negated` and `weighted`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.methods import formulas, numerics, policy_sums
from jaxdistill.methods.composed import composes
from jaxdistill.methods.divergences import Rows
from jaxdistill.methods.domains import FINITE, NUM_ACTIONS, POSITIVE, SHARE, TEMPERATURE, Domain, domains_of, reads
from jaxdistill.methods.expressions import STUDENT, Expression, Frozen, Number, Sum, Symbol, least_of
from jaxdistill.methods.formulas import WithoutFormula, derives, formula_of
from jaxdistill.methods.method import Method, Step, StepFn
from jaxdistill.methods.sources import Source
from jaxdistill.runtime import checks

Params = Mapping[str, jax.Array]
Terms = Callable[[Rows, Params], jax.Array]
Owner = Literal["student", "teacher"]
Weight = Literal["student", "teacher", "one"]

IN_EACH_STATE = "in each state visited: "
"""How `Objective.gradient_of` begins where the claim holds in each visited state by itself."""

ZERO_FIELD = "nothing, the field is 0"
"""`Objective.gradient_of` where the expected update is 0."""

NO_LOSS = "no loss"
"""`Objective.gradient_of` where the expected update is not a gradient."""


# --- From a step to rows, and from divergences to terms -----------------------------------------------------------


def rows(step: Step) -> Rows:
    """The rows of student and teacher in the state of this step."""
    frozen = jax.nn.log_softmax(step.frozen_logits)
    return Rows(step.student_log_probs, frozen, step.teacher_probs, step.teacher_log_probs)


def rows_of_other(step: Step, index: int) -> Rows:
    """The rows of the student and of further policy `index`, whose logarithm is floored at `params["floor"]`.

    A function that calls this states the domain `FLOOR` of that number.

    Raises:
      ValueError: the teacher has no such policy.
    """
    if step.other_probs.shape[0] <= index:
        raise ValueError(
            f"it needs {index + 1} further {'policy' if index == 0 else 'policies'} of the teacher, which has "
            f"{step.other_probs.shape[0]}; give it with teachers.with_others(teacher, other), such as the reference "
            "policy or a second teacher"
        )
    probs = step.other_probs[index]
    log_probs = numerics.log_floored(probs, step.params["floor"])
    return rows(step)._replace(teacher_probs=probs, teacher_log_probs=log_probs)


@composes
@derives(lambda terms: terms)
def plain(divergence: Callable[[Rows], jax.Array]) -> Terms:
    """The terms of a divergence that takes no number."""
    return lambda rows, params: divergence(rows)


@composes
@derives(lambda terms, name: terms(Symbol(name)))
def numbered(divergence: Callable[[Rows, jax.Array], jax.Array], name: str) -> Terms:
    """The terms of a divergence that takes one number, which is read from `params[name]`."""
    domain = getattr(divergence, "domain", None)
    stated = {} if domain is None else {name: domain}
    return reads(**stated)(lambda rows, params: divergence(rows, params[name]))


@composes
@derives(lambda terms, others: terms * others)
def product(terms: Terms, others: Terms) -> Terms:
    """The terms multiplied by other terms, action by action."""
    return lambda rows, params: terms(rows, params) * others(rows, params)


# --- From terms to terms ------------------------------------------------------------------------------------------


@composes
@reads(k=NUM_ACTIONS)
@derives(formulas.restricted)
def top_k(
    terms: Terms,
    owner: Owner,
    renormalise: Literal["none", "teacher", "both"] = "none",
    tail: bool = False,
) -> Terms:
    """The terms of S only, the `params["k"]` most probable actions of one policy; S itself is not differentiated.

    S holds all actions if k is above their number.

    Args:
      terms: the terms of all actions.
      owner: the policy whose most probable actions S holds; among equally probable ones the first.
      renormalise: which policies are divided by their mass on S first.
      tail: whether everything outside S counts as one more action (with renormalise "none").

    Returns:
      Terms [A + 1]: 0 outside S; the last entry is the term of the tail, or 0 without one.
    """
    if owner not in ("student", "teacher") or renormalise not in ("none", "teacher", "both"):
        raise ValueError(
            "top_k takes owner 'student' or 'teacher' and renormalise 'none', 'teacher' or 'both'; got "
            f"{owner!r} and {renormalise!r}."
        )
    if tail and renormalise != "none":
        raise ValueError("With a tail the rows sum to 1 already; use renormalise='none', or tail=False.")

    def selected(rows: Rows, params: Params) -> jax.Array:
        inside = most_probable(rows, owner, params["k"])
        has_tail = tail & ~jnp.all(inside)
        counted = jnp.append(inside, has_tail)
        student, frozen, floored = (
            _with_tail(log_probs, inside, divide)
            for log_probs, divide in (
                (rows.student_log_probs, renormalise == "both"),
                (rows.frozen_log_probs, renormalise == "both"),
                (rows.teacher_log_probs, renormalise != "none"),
            )
        )
        # Outside S, a division by a mass near 0 may give huge numbers, and so gradients of infinity times 0.
        student, frozen, floored = (jnp.where(counted, row, 0) for row in (student, frozen, floored))
        mass = jnp.sum(jnp.where(inside, rows.teacher_probs, 0))
        teacher = jnp.append(rows.teacher_probs, jnp.sum(jnp.where(inside, 0, rows.teacher_probs)))
        if renormalise != "none":
            teacher = teacher / jnp.maximum(mass, jnp.finfo(teacher.dtype).tiny)
        teacher = jnp.where(counted, teacher, 0)
        return jnp.where(counted, terms(Rows(student, frozen, teacher, floored), params), 0)

    return selected


def most_probable(rows: Rows, owner: str, k: jax.Array) -> jax.Array:
    """True for the k most probable actions of the student or of the teacher, bool [A]."""
    scores = rows.teacher_probs if owner == "teacher" else rows.frozen_log_probs
    return numerics.ranks(scores).astype(jnp.float32) < jnp.asarray(k, jnp.float32)


def _with_tail(log_probs: jax.Array, inside: jax.Array, divide: bool) -> jax.Array:
    """The log-probabilities, and in a last entry that of everything outside, or 0 if nothing is outside; [A + 1].

    With `divide` the probabilities are first divided by their mass inside.
    """
    if divide:
        log_probs = log_probs - jax.nn.logsumexp(jnp.where(inside, log_probs, -jnp.inf))
    all_inside = jnp.all(inside)
    # The gradient of an empty sum would be NaN, so all actions are summed if none is outside.
    outside = ~inside | all_inside
    rest = jax.nn.logsumexp(jnp.where(outside, log_probs, -jnp.inf))
    return jnp.append(log_probs, jnp.where(all_inside, 0, rest))


@composes
@reads(temperature=TEMPERATURE)
@derives(formulas.softened)
def tempered(terms: Terms, scaled: bool = False) -> Terms:
    """The terms of both policies raised to the power 1 / `params["temperature"]` and normalised.

    With `scaled` the terms are multiplied by temperature^2, which keeps the size of their gradient.
    """

    def softened(rows: Rows, params: Params) -> jax.Array:
        temperature = params["temperature"]
        log_teacher = jnp.log(rows.teacher_probs) / temperature
        softened_rows = Rows(
            jax.nn.log_softmax(rows.student_log_probs / temperature),
            jax.nn.log_softmax(rows.frozen_log_probs / temperature),
            jax.nn.softmax(log_teacher),
            rows.teacher_log_probs / temperature - jax.nn.logsumexp(log_teacher),
        )
        softened_terms = terms(softened_rows, params)
        return softened_terms * temperature**2 if scaled else softened_terms

    return softened


@composes
@reads(clip=POSITIVE)
@derives(lambda terms: least_of(terms, Symbol("clip")))
def clipped(terms: Terms) -> Terms:
    """The terms, each clipped to at most `params["clip"]`."""
    return lambda rows, params: jnp.minimum(terms(rows, params), params["clip"])


@composes
@reads(epsilon=POSITIVE)
@derives(formulas.standardised)
def whitened(terms: Terms) -> Terms:
    """The terms minus their mean, divided by sqrt(variance + `params["epsilon"]`); nothing is differentiated.

    Mean and variance are those of this state under pi_theta, so this is what normalising over a large group of actions
    in one state does. Normalising over a large batch of all states divides the whole expected update by one number
    instead.
    """

    def standardised(rows: Rows, params: Params) -> jax.Array:
        frozen_terms = terms(rows._replace(student_log_probs=rows.frozen_log_probs), params)
        probs = jnp.exp(rows.frozen_log_probs)
        centred = frozen_terms - jnp.sum(probs * frozen_terms)
        return centred / jnp.sqrt(jnp.sum(probs * centred**2) + params["epsilon"])

    return standardised


@composes
@reads(k=NUM_ACTIONS)
@derives(formulas.weights)
def top_k_weights(owner: Owner, weight: Weight, normalised: bool = True) -> Terms:
    """Weights of the `params["k"]` most probable actions of one policy, never differentiated; 0 for all others.

    Args:
      owner: the policy whose most probable actions these are.
      weight: what the weights are: pi_theta ("student"), pi floored ("teacher") or 1 ("one").
      normalised: whether the weights are divided by their sum.
    """
    if owner not in ("student", "teacher") or weight not in ("student", "teacher", "one"):
        raise ValueError(f"owner must be 'student' or 'teacher', weight those or 'one'; got {owner!r}, {weight!r}.")

    def weights(rows: Rows, params: Params) -> jax.Array:
        log_weights = {
            "student": rows.frozen_log_probs,
            "teacher": rows.teacher_log_probs,
            "one": jnp.zeros_like(rows.frozen_log_probs),
        }[weight]
        log_weights = jnp.where(most_probable(rows, owner, params["k"]), log_weights, -jnp.inf)
        return jax.nn.softmax(log_weights) if normalised else jnp.exp(log_weights)

    return weights


# --- From terms to functions of a step ----------------------------------------------------------------------------


@composes
@derives(policy_sums.total)
def total(terms: Terms) -> StepFn:
    """The sum of the terms over the actions, such as the divergence in this state."""
    return lambda step: jnp.sum(terms(rows(step), step.params))


@composes
@derives(policy_sums.taken)
def sampled(terms: Terms) -> StepFn:
    """The term of the action taken, a one-sample estimate."""
    return lambda step: numerics.pick(terms(rows(step), step.params), step.action)


# --- From functions of a step to others ---------------------------------------------------------------------------


@composes
@derives(lambda fn: -fn)
def negated(fn: StepFn) -> StepFn:
    """The function -fn, which makes a reward of a cost."""
    return lambda step: -fn(step)


@composes
@derives(lambda *fns: Sum.of(*fns))
def added(*fns: StepFn) -> StepFn:
    """The sum of several functions."""
    return lambda step: sum((fn(step) for fn in fns[1:]), fns[0](step))


@composes
@derives(lambda fn, name: Symbol(name) * fn)
def weighted(fn: StepFn, name: str) -> StepFn:
    """The function fn multiplied by `params[name]`."""
    return reads(**{name: FINITE})(lambda step: step.params[name] * fn(step))


@composes
@derives(lambda fn, other, name: Symbol(name) * fn + (1 - Symbol(name)) * other)
def mixed(fn: StepFn, other: StepFn, name: str) -> StepFn:
    """The mean of two functions, weighted by `params[name]` and 1 - `params[name]`."""
    return reads(**{name: SHARE})(lambda step: step.params[name] * fn(step) + (1 - step.params[name]) * other(step))


@composes
@derives(formulas.bounded)
def clamped(fn: StepFn, least: float | None = None, most: float | None = None) -> StepFn:
    """The function fn clipped to [least, most], with gradient 0 beyond these bounds.

    Raises ValueError unless at least one of them is given and least <= most.
    """
    if least is None and most is None:
        raise ValueError("clamped needs least, most or both; without them it does nothing.")
    ends = (-math.inf if least is None else least, math.inf if most is None else most)
    if not np.less_equal(*checks.numbers("least and most of clamped", ends)):
        raise ValueError(f"clamped needs least <= most; got {least!r} and {most!r}.")
    return lambda step: jnp.clip(fn(step), least, most)


@composes
@derives(lambda fn: policy_sums.taken(STUDENT) / Frozen(policy_sums.taken(STUDENT)) * fn)
def times_ratio(fn: StepFn) -> StepFn:
    """The function fn multiplied by the ratio of pi_theta(a) to its frozen copy.

    The ratio is 1, and its gradient adds fn times the score of the action, which the gradient of fn alone lacks.
    """

    def with_ratio(step: Step) -> jax.Array:
        frozen = numerics.pick(jax.nn.log_softmax(step.frozen_logits), step.action)
        return jnp.exp(step.student_log_prob - frozen) * fn(step)

    return with_ratio


# --- Methods ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Objective(Method):
    """A method with its source and a claim: what its expected update, summed over steps, is the gradient of.

    Attributes:
      source: the paper, or the project whose code does this, in words; "": the `sources`.
      gradient_of: the claim in words; "": the formula of the claimed loss. It begins with `IN_EACH_STATE` where only a
        `state_loss` is claimed, is `ZERO_FIELD` for one that is 0, and `NO_LOSS` says that there is no such loss.
      state_loss: l such that the expected update is -sum_s d(s) grad l(s), d the expected visits under the control
        policy, held fixed. Where d depends on the student, the sum is in general not a gradient. None: there is no such
        l.
      total_loss: l such that the expected update (Monte Carlo) is -grad E_q[sum_t l(t)], everything differentiated.
        None: there is no such l.
      sources: the papers and libraries with their addresses.
    """

    source: str = ""
    gradient_of: str = ""
    state_loss: StepFn | None = None
    total_loss: StepFn | None = None
    sources: tuple[Source, ...] = ()

    @property
    def domains(self) -> dict[str, Domain]:
        """The domains of the numbers, by name, that the functions or the claimed losses state."""
        return domains_of(self.loss, self.reward, self.next_reward, self.state_loss, self.total_loss)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source:
            object.__setattr__(self, "source", "; ".join(map(str, self.sources)))
        if not self.gradient_of:
            object.__setattr__(self, "gradient_of", self._claim_in_words())
        if not self.description:
            source = f" ({self.source})" if self.source else ""
            object.__setattr__(self, "description", f"{_claim_text(self.gradient_of)}{source}.")

    def _claim_in_words(self) -> str:
        """The formula of the claimed loss."""
        claim = self.claim
        if claim is not None:
            return ZERO_FIELD if claim == Number(0) else (IN_EACH_STATE * (self.total_loss is None)) + claim.text
        claimed = self.total_loss or self.state_loss
        return IN_EACH_STATE * (self.total_loss is None) + formulas.text_of(claimed) if claimed else ""

    @property
    def claim(self) -> Expression | None:
        """The formula of the loss that is claimed: of `total_loss` over whole episodes, or else of `state_loss`."""
        try:
            if self.total_loss is not None:
                return formulas.expected_sum(formula_of(self.total_loss), self.control, self.reduction)
            return None if self.state_loss is None else formula_of(self.state_loss)
        except WithoutFormula:
            return None


def _claim_text(gradient_of: str) -> str:
    """The claim of an `Objective` as a sentence without its full stop."""
    if not gradient_of:
        return "Without a claim about its gradient"
    if gradient_of == NO_LOSS:
        return "Not the gradient of any loss"
    if gradient_of == ZERO_FIELD:
        return "Zero in expectation"
    if gradient_of.startswith(IN_EACH_STATE):
        return f"In each visited state, the gradient of {gradient_of.removeprefix(IN_EACH_STATE)}"
    return f"The gradient of {gradient_of}"


def discounted(method: Method, discount: float, **changes: Any) -> Method:
    """The method with another discount: 0 credits an action with its own step's reward, 1 with all that follow."""
    return _changed(method, discount=discount, **changes)


def without_own_step(method: Method, **changes: Any) -> Method:
    """The method whose Rhat_t begins with the reward of step t + 1.

    It is for rewards that depend on the two policies alone.
    """
    return _changed(method, reward=None, next_reward=method.reward, **changes)


def length_normalised(method: Method, **changes: Any) -> Method:
    """The method with reduction "mean": its update is the mean over an episode's steps under every configuration."""
    return _changed(method, reduction="mean", **changes)


def with_reward(method: Method, reward: StepFn, **changes: Any) -> Method:
    """The method with a further reward, which is added to its own."""
    return _changed(method, reward=reward if method.reward is None else added(method.reward, reward), **changes)


def _changed(method: Method, **changes: Any) -> Method:
    """The method with some fields replaced; an objective loses its claims, except those that `changes` make anew."""
    claims: dict[str, Any] = {"description": "", "gradient_of": "", "state_loss": None, "total_loss": None}
    return dataclasses.replace(method, **((claims if isinstance(method, Objective) else {}) | changes))
