"""Methods with the updates of other libraries that no objective of the zoo has."""

import dataclasses
from typing import Any

from jaxdistill.methods import divergences, sources
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import (
    Objective,
    clamped,
    mixed,
    negated,
    plain,
    sampled,
    tempered,
    times_ratio,
    top_k,
    total,
)
from jaxdistill.methods.method import TEACHER, StepFn
from jaxdistill.methods.sources import Source


def _loss(name: str, loss: StepFn, source: Source, **more: Any) -> Objective:
    return Objective(name, loss=loss, sources=(source,), **({"state_loss": loss} | more))


def _reward(name: str, reward: StepFn, source: Source, **more: Any) -> Objective:
    return Objective(name, reward=reward, sources=(source,), **({"discount": 0.0, "baseline": False} | more))


def _given_s(kl: Any) -> StepFn:
    return total(top_k(kl, "teacher", "both"))


FORWARD_OF_S = _loss("top_k_forward_kl_given", total(fns.TOP_K_FORWARD_KL), sources.TINKER, params={"k": 20})
FORWARD_ON_DATA = dataclasses.replace(FORWARD_OF_S, name="top_k_forward_kl_on_data", control=TEACHER)
GIVEN_BOTH = {
    name: _loss(f"top_k_{name}_kl_given_both", loss, sources.NEMO_RL, params={"k": 64} | weight)
    for name, loss, weight in (
        ("forward", _given_s(fns.FORWARD_KL), {}),
        ("reverse", _given_s(fns.REVERSE_KL), {}),
        ("mixed", mixed(_given_s(fns.FORWARD_KL), _given_s(fns.REVERSE_KL), "weight"), {"weight": 0.5}),
    )
}
JSD_OF_S = _loss(
    "top_k_jsd_given_both", _given_s(fns.JENSEN_SHANNON_OR_KL), sources.MS_SWIFT, params={"k": 20, "beta": 0.5}
)
SOFT_JSD = _loss(
    "tempered_jsd", total(tempered(fns.JENSEN_SHANNON_OR_KL)), sources.TRL, params={"beta": 0.5, "temperature": 2.0}
)
CLAMPED_RATIOS = {
    k: _loss(f"{k}_ratio_clamped", clamped(times_ratio(fn), -10.0, 10.0), sources.NEMO_RL, state_loss=None)
    for k, fn in (("k1", fns.k1), ("k2", fns.k2), ("k3", fns.k3))
}
CLAMPED_K3_REWARD = _reward("k3_reward_clamped", negated(sampled(plain(divergences.k3_clamped))), sources.VERL)
TOP_K_REWARD = _reward(
    "top_k_forward_kl_reward", negated(clamped(total(top_k(fns.FORWARD_KL, "teacher")), least=0.0)), sources.VERL,
    params={"k": 32}, state_loss=fns.nothing,
)  # fmt: skip
MINILLM_RETURN = Objective(
    "minillm_with_own_step", loss=fns.reverse_kl, reward=negated(fns.k1), discount=1.0, estimator="mc", baseline=False,
    sources=(sources.TRL,),
)  # fmt: skip
K1_RETURN = Objective(
    "k1_return", reward=negated(fns.k1), discount=1.0, estimator="mc", baseline=False, total_loss=fns.reverse_kl,
    sources=(sources.TINKER,),
)  # fmt: skip
