"""How objectives are composed: from divergences to functions of a step, to methods, and from those to others.

A `Terms` is a divergence action by action, [A]. Modifiers of terms choose actions, temper or clip before the sum;
`total` and `sampled` make a function of a `Step` of them; modifiers of such functions work on the sum.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdistill.methods import numerics
from jaxdistill.methods.divergences import Rows
from jaxdistill.methods.method import Method, Step, StepFn

Params = Mapping[str, jax.Array]
Terms = Callable[[Rows, Params], jax.Array]
Owner = Literal["student", "teacher"]
Weight = Literal["student", "teacher", "one"]


def rows(step: Step) -> Rows:
    """The rows of student and teacher in the state of this step."""
    frozen = jax.nn.log_softmax(step.frozen_logits)
    return Rows(step.student_log_probs, frozen, step.teacher_probs, step.teacher_log_probs)


def rows_of_other(step: Step, index: int) -> Rows:
    """The rows of student and further policy `index`, whose logarithm is floored at `params["floor"]`.

    ValueError where the teacher has no such policy.
    """
    if step.other_probs.shape[0] <= index:
        raise ValueError(
            f"This method compares with further policy {index}, and the teacher has {step.other_probs.shape[0]}; "
            "give it others [N, S, A], such as the reference policy or a second teacher."
        )
    probs = step.other_probs[index]
    log_probs = numerics.log_floored(probs, step.params["floor"])
    return rows(step)._replace(teacher_probs=probs, teacher_log_probs=log_probs)


def plain(divergence: Callable[[Rows], jax.Array]) -> Terms:
    """A divergence without numbers of its own, as terms."""
    return lambda rows, params: divergence(rows)


def numbered(divergence: Callable[[Rows, jax.Array], jax.Array], name: str) -> Terms:
    """A divergence with one number, read from `params[name]`, as terms."""
    return lambda rows, params: divergence(rows, params[name])


def product(terms: Terms, others: Terms) -> Terms:
    """One by one."""
    return lambda rows, params: terms(rows, params) * others(rows, params)


# --- From terms to terms ------------------------------------------------------------------------------------------


def top_k(
    terms: Terms,
    owner: Owner,
    renormalise: Literal["none", "teacher", "both"] = "none",
    tail: bool = False,
) -> Terms:
    """The terms of the `params["k"]` most probable actions S of one policy only; S itself is not differentiated.

    Args:
      terms: of all actions.
      owner: whose most probable actions; among equals the first.
      renormalise: which policies are divided by their mass on S first.
      tail: whether everything outside S counts as one more action (with renormalise "none").

    Returns:
      Terms [A + 1]: 0 outside S, and in the last entry that of the tail or 0.
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
            _gather(log_probs, inside, divide)
            for log_probs, divide in (
                (rows.student_log_probs, renormalise == "both"),
                (rows.frozen_log_probs, renormalise == "both"),
                (rows.teacher_log_probs, renormalise != "none"),
            )
        )
        within = jnp.sum(jnp.where(inside, rows.teacher_probs, 0))
        teacher = jnp.append(rows.teacher_probs, jnp.sum(jnp.where(inside, 0, rows.teacher_probs)))
        if renormalise != "none":
            teacher = teacher / jnp.maximum(within, jnp.finfo(teacher.dtype).tiny)
        teacher = jnp.where(counted, teacher, 0)
        return jnp.where(counted, terms(Rows(student, frozen, teacher, floored), params), 0)

    return selected


def most_probable(rows: Rows, owner: str, k: jax.Array) -> jax.Array:
    """Bool [A]: whether an action is among the k most probable of the student or the teacher."""
    scores = rows.teacher_probs if owner == "teacher" else rows.frozen_log_probs
    return numerics.ranks(scores) < k


def _gather(log_probs: jax.Array, inside: jax.Array, divide: bool) -> jax.Array:
    """[A + 1]: the logarithms, over their mass inside if `divide`, and that of the mass outside (0 if none is)."""
    if divide:
        log_probs = log_probs - jax.nn.logsumexp(jnp.where(inside, log_probs, -jnp.inf))
    outside = ~inside | jnp.all(inside)  # never empty, so that no gradient of an empty sum is taken
    rest = jax.nn.logsumexp(jnp.where(outside, log_probs, -jnp.inf))
    return jnp.append(log_probs, jnp.where(jnp.all(inside), 0, rest))


def tempered(terms: Terms, scaled: bool = False) -> Terms:
    """Both policies raised to the power 1 / `params["temperature"]` and normalised; times temperature^2 if `scaled`."""

    def softened(rows: Rows, params: Params) -> jax.Array:
        temperature = params["temperature"]
        log_teacher = jnp.log(rows.teacher_probs) / temperature
        found = terms(
            Rows(
                jax.nn.log_softmax(rows.student_log_probs / temperature),
                jax.nn.log_softmax(rows.frozen_log_probs / temperature),
                jax.nn.softmax(log_teacher),
                rows.teacher_log_probs / temperature - jax.nn.logsumexp(log_teacher),
            ),
            params,
        )
        return found * temperature**2 if scaled else found

    return softened


def clipped(terms: Terms) -> Terms:
    """Every term at most `params["clip"]`, before the sum."""
    return lambda rows, params: jnp.minimum(terms(rows, params), params["clip"])


def whitened(terms: Terms) -> Terms:
    """Less their mean, over sqrt(variance + `params["epsilon"]`): in this state, under pi_theta; not differentiated.

    It is what normalising over a large group of actions in one state does. Normalising over a large batch of all states
    divides the whole expected update by one number instead.
    """

    def standard(rows: Rows, params: Params) -> jax.Array:
        found = terms(rows._replace(student_log_probs=rows.frozen_log_probs), params)
        probs = jnp.exp(rows.frozen_log_probs)
        centred = found - jnp.sum(probs * found)
        return centred / jnp.sqrt(jnp.sum(probs * centred**2) + params["epsilon"])

    return standard


def top_k_weights(owner: Owner, weight: Weight, normalised: bool = True) -> Terms:
    """Weights of the `params["k"]` most probable actions of one policy, never differentiated; 0 for all others.

    Args:
      owner: whose most probable actions.
      weight: their weights: pi_theta, pi (floored) or 1.
      normalised: whether they are divided by their sum.
    """
    if owner not in ("student", "teacher") or weight not in ("student", "teacher", "one"):
        raise ValueError(f"owner must be 'student' or 'teacher', weight those or 'one'; got {owner!r}, {weight!r}.")

    def terms(rows: Rows, params: Params) -> jax.Array:
        log_weights = {
            "student": rows.frozen_log_probs,
            "teacher": rows.teacher_log_probs,
            "one": jnp.zeros_like(rows.frozen_log_probs),
        }[weight]
        log_weights = jnp.where(most_probable(rows, owner, params["k"]), log_weights, -jnp.inf)
        return jax.nn.softmax(log_weights) if normalised else jnp.exp(log_weights)

    return terms


# --- From terms to functions of a step ----------------------------------------------------------------------------


def total(terms: Terms) -> StepFn:
    """The sum over actions: the divergence in this state."""
    return lambda step: jnp.sum(terms(rows(step), step.params))


def sampled(terms: Terms) -> StepFn:
    """The term of the action taken: a one-sample estimate."""
    return lambda step: numerics.pick(terms(rows(step), step.params), step.action)


# --- From functions of a step to others ---------------------------------------------------------------------------


def negated(fn: StepFn) -> StepFn:
    """-fn: a cost as a reward."""
    return lambda step: -fn(step)


def added(*fns: StepFn) -> StepFn:
    """The sum of several."""
    return lambda step: sum((fn(step) for fn in fns[1:]), fns[0](step))


def weighted(fn: StepFn, name: str) -> StepFn:
    """`params[name]` times fn."""
    return lambda step: step.params[name] * fn(step)


def clamped(fn: StepFn, least: float | None = None, most: float | None = None) -> StepFn:
    """fn kept within bounds, with no gradient beyond them."""
    return lambda step: jnp.clip(fn(step), least, most)


def times_ratio(fn: StepFn) -> StepFn:
    """pi_theta(a) / pi_theta(a) frozen, times fn: 1 in value, and in its gradient the missing score of the action."""

    def with_score(step: Step) -> jax.Array:
        frozen = numerics.pick(jax.nn.log_softmax(step.frozen_logits), step.action)
        return jnp.exp(step.student_log_prob - frozen) * fn(step)

    return with_score


# --- Methods ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Objective(Method):
    """A method with its source and with what its expected update is the gradient of (summed over steps).

    Attributes:
      source: paper, or project whose code does this.
      gradient_of: in words.
      state_loss: l such that the expected update is -sum_s d(s) grad l(s), d the expected visits under the control
        policy, held fixed. Where d depends on the student, the sum is in general the gradient of nothing.
        None: there is no such l.
      total_loss: l such that the expected update (Monte Carlo) is -grad E_q[sum_t l(t)], everything differentiated.
        None: there is no such l.
    """

    source: str = ""
    gradient_of: str = ""
    state_loss: StepFn | None = None
    total_loss: StepFn | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.description:
            object.__setattr__(self, "description", f"The gradient of {self.gradient_of or '?'} ({self.source}).")


def discounted(method: Method, discount: float, **changes: Any) -> Method:
    """`method` with another discount: 0 credits an action with its own step's reward, 1 with all that follow."""
    return _changed(method, discount=discount, **changes)


def without_own_step(method: Method, **changes: Any) -> Method:
    """`method` whose Rhat_t begins with the reward of step t + 1; for rewards that the policies alone decide."""
    return _changed(method, reward=None, next_reward=method.reward, **changes)


def length_normalised(method: Method, **changes: Any) -> Method:
    """`method` whose update is the mean over the steps of an episode, whatever the configuration says."""
    return _changed(method, reduction="mean", **changes)


def _changed(method: Method, **changes: Any) -> Method:
    """Replaced fields; what an objective claims does not survive a change unless it is claimed anew."""
    none: dict[str, Any] = {"description": "", "gradient_of": "", "state_loss": None, "total_loss": None}
    return dataclasses.replace(method, **((none if isinstance(method, Objective) else {}) | changes))
