"""Objectives of the field beyond the paper's, as methods with their source and the loss of which they are the gradient.

`ZOO["k3_loss"]` is a `Method` like those of `METHODS`: `train` samples its updates, and `expected_update` computes
their expectation exactly. The claim of what an objective is the gradient of is data as well, so every claim is tested.
"""

from typing import Any

from jaxdistill.methods import divergences, paper
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import (
    IN_EACH_STATE,
    NO_LOSS,
    ZERO_FIELD,
    Objective,
    added,
    clamped,
    clipped,
    negated,
    numbered,
    plain,
    sampled,
    tempered,
    times_ratio,
    top_k,
    total,
    weighted,
    whitened,
)
from jaxdistill.methods.method import TEACHER, UNIFORM, Control, StepFn
from jaxdistill.methods.options import UpdateOptions


def _loss(name: str, loss: StepFn, gradient_of: str, source: str, **more: Any) -> Objective:
    """An objective that descends a loss on the student's own trajectories, with the visits of states held fixed."""
    return Objective(name, loss=loss, gradient_of=gradient_of, source=source, **({"state_loss": loss} | more))


def _reward(name: str, reward: StepFn, gradient_of: str, source: str, **more: Any) -> Objective:
    """An objective with a reward that credits only the action of its own step, without V_theta as a baseline."""
    more = {"discount": 0.0, "baseline": False} | more
    return Objective(name, reward=reward, gradient_of=gradient_of, source=source, **more)


_FLOOR = UpdateOptions.probability_floor  # the floor of further policies is the default floor of the teacher
_FKL, _RKL, _EACH = "KL(pi||pi_theta)", "KL(pi_theta||pi)", IN_EACH_STATE

_CONTROLS = (
    Objective(
        "uniform_distill", loss=paper.cross_entropy, control=UNIFORM, state_loss=fns.forward_kl,
        total_loss=fns.forward_kl, gradient_of=f"E_uniform[sum {_FKL}]", source="Czarnecki et al. 2019, Fig. 3",
    ),
    Objective(
        "behaviour_cloning", loss=fns.negative_log_likelihood, control=TEACHER, state_loss=fns.forward_kl,
        total_loss=fns.forward_kl, gradient_of=f"E_pi[sum {_FKL}]", source="rlax, sampled_policy_distillation_loss",
    ),
    _loss(
        "dagger", fns.imitation_loss, f"{_EACH}{_FKL} - entropy H(pi_theta)", "DAgger, Ross et al. 2011; imitation",
        control=Control(student=0.5, teacher=0.5, per="step"), params={"entropy": 1e-3},
    ),
    _loss(
        "dagger_episode", fns.imitation_loss, f"{_EACH}{_FKL} - entropy H(pi_theta)", "DAgger, roll-ins by episode",
        control=Control(student=0.5, teacher=0.5, per="episode"), params={"entropy": 1e-3},
    ),
    _loss(
        "value_gated_distill", paper.value_conditioned_cross_entropy,
        f"{_EACH}{_FKL} where V_pi > V_theta", "Czarnecki et al. 2019, Proposition 2",
    ),
    Objective(
        "kickstarting", loss=weighted(paper.cross_entropy, "weight"), reward=paper.environment_reward,
        params={"weight": 0.5}, gradient_of=NO_LOSS, source="Kickstarting, Schmitt et al. 2018",
    ),
    Objective(
        "distral", reward=fns.distral_reward, total_loss=negated(fns.distral_reward),
        params={"kl": 0.5, "entropy": 0.1}, source="Distral, Teh et al. 2017, the teacher as prior",
        gradient_of=f"E[sum -r + kl {_RKL} - entropy H(pi_theta)], undiscounted",
    ),
)  # fmt: skip

_RETURNS = (
    Objective(
        "n_distill_kl", loss=fns.forward_kl, next_reward=negated(fns.forward_kl), discount=1.0,
        total_loss=fns.forward_kl, gradient_of=f"E[sum {_FKL}]", source="Czarnecki et al. 2019, Theorem 2, with KL",
    ),
    Objective(
        "sequence_kl", loss=fns.reverse_kl, next_reward=negated(fns.reverse_kl), discount=1.0,
        total_loss=fns.reverse_kl, gradient_of=f"E[sum {_RKL}], the KL of trajectories",
        source="Czarnecki et al. 2019, Theorem 2, with the reverse KL",
    ),
    Objective(
        "minillm", loss=fns.reverse_kl, next_reward=negated(fns.k1), discount=1.0, baseline=False,
        total_loss=fns.reverse_kl, gradient_of=f"E[sum {_RKL}], the KL of trajectories",
        source="MiniLLM, Gu et al. 2023, without length normalisation",
    ),
)  # fmt: skip

_ESTIMATORS = (
    _loss("k1_loss", fns.k1, ZERO_FIELD, "verl refuses it", state_loss=fns.nothing),
    _loss("k2_loss", fns.k2, _EACH + _RKL, "verl, k2", state_loss=fns.reverse_kl),
    _loss("k3_loss", fns.k3, _EACH + _FKL, "verl, k3; torchrl", state_loss=fns.forward_kl),
    _loss(
        "k3_loss_clamped", sampled(plain(divergences.k3_clamped)), f"{_EACH}{_FKL}, flat where k3 > 10",
        "verl, k3 with its clamps", state_loss=total(plain(divergences.forward_kl_flat)),
    ),
    _loss("k1_ratio", times_ratio(fns.k1), _EACH + _RKL, "k1, ratio differentiated", state_loss=fns.reverse_kl),
    _loss("k2_ratio", times_ratio(fns.k2), f"{_EACH}E[k2]", "k2, ratio differentiated", state_loss=fns.expected_k2),
    _loss(
        "k3_ratio", times_ratio(fns.k3), _EACH + _RKL, "DeepSeek-V3.2; TRL GRPO, use_bias_correction_kl",
        state_loss=fns.reverse_kl,
    ),
    _reward(
        "k1_reward", negated(fns.k1), _EACH + _RKL, "Thinking Machines, on-policy distillation; Tinker",
        state_loss=fns.reverse_kl,
    ),
    _reward(
        "k1_reward_whitened", negated(sampled(whitened(fns.K1))), NO_LOSS,
        "k1 as reward, whitened over the actions of a state: GRPO's groups; slime and miles whiten batches",
        params={"epsilon": 1e-6},
    ),
    _reward(
        "k2_reward", negated(fns.k2), f"{_EACH}E[k2] - {_RKL}", "k2 as reward",
        state_loss=fns.expected_k2_minus_reverse_kl,
    ),
    _reward(
        "k3_reward", negated(fns.k3), f"{_EACH}{_RKL} - {_FKL}", "verl, use_policy_gradient with k3",
        state_loss=fns.reverse_minus_forward_kl,
    ),
    _reward(
        "k1_return", negated(fns.k1), f"E[sum {_RKL}], the KL of trajectories", "k1 as reward, undiscounted",
        discount=1.0, total_loss=fns.reverse_kl,
    ),
    _reward("k2_return", negated(fns.k2), NO_LOSS, "k2 as reward, undiscounted", discount=1.0),
    _reward("k3_return", negated(fns.k3), NO_LOSS, "k3 as reward, undiscounted", discount=1.0),
    _reward("gamma_opd", negated(fns.k1), NO_LOSS, "gamma-OPD, arXiv 2609.16937", discount=0.92),
    _reward(
        "vopd", added(negated(fns.k1), fns.reverse_kl), _EACH + _RKL, "vOPD, arXiv 2605.07865",
        state_loss=fns.reverse_kl,
    ),
)  # fmt: skip

_DIVERGENCES = (
    _loss("reverse_kl", fns.reverse_kl, _EACH + _RKL, "GKD with beta 1, Agarwal et al. 2023; TRL"),
    _loss("jsd", fns.jensen_shannon, f"{_EACH}JSD_beta", "GKD, Agarwal et al. 2023; TRL", params={"beta": 0.5}),
    _loss(
        "gkd", fns.jensen_shannon_or_kl, f"{_EACH}JSD_beta, the KLs at beta 0 and 1",
        "GKD with lambda 0.5, Agarwal et al. 2023; TRL",
        control=Control(student=0.5, teacher=0.5, per="episode"), params={"beta": 0.5},
    ),
    _loss(
        "jsd_normalised", fns.normalised_jensen_shannon, f"{_EACH}JSD_beta / (beta (1 - beta))",
        "GKD without the jumps of scale at beta 0 and 1", params={"beta": 0.5},
    ),
    _reward(
        "top_d", fns.proximal_reward, f"{_EACH}JSD_alpha / (1 - alpha)", "TOP-D, arXiv 2607.04751; prime-rl; NeMo-RL",
        params={"alpha": 0.3}, state_loss=fns.proximal_loss,
    ),
    _loss(
        "skew_forward_kl", total(numbered(divergences.skew_forward_kl, "skew")),
        f"{_EACH}KL(pi||skew pi + (1 - skew) pi_theta)", "DistiLLM, Ko et al. 2024", params={"skew": 0.1},
    ),
    _loss(
        "skew_reverse_kl", total(numbered(divergences.skew_reverse_kl, "skew")),
        f"{_EACH}KL(pi_theta||(1 - skew) pi + skew pi_theta)", "DistiLLM, Ko et al. 2024", params={"skew": 0.1},
    ),
    _reward(
        "power_opd", fns.power_reward, f"{_EACH}the density power divergence", "PowerOPD, arXiv 2606.17199",
        params={"power": 0.5}, state_loss=total(numbered(divergences.density_power, "power")),
    ),
    _reward(
        "power_opd_ratio", fns.power_ratio_reward, f"{_EACH}the alpha divergence",
        "PowerOPD, arXiv 2606.17199, read as a power of the ratio",
        params={"power": 0.5}, state_loss=total(numbered(divergences.alpha_divergence, "power")),
    ),
    _loss(
        "trl_minillm", fns.reverse_kl, f"{_EACH}2 {_RKL}", "TRL, MiniLLM trainer", reward=negated(fns.k1),
        discount=0.0, baseline=False, state_loss=added(fns.reverse_kl, fns.reverse_kl),
    ),
    _loss(
        "eopd", fns.entropy_gated_forward_kl, f"{_EACH}{_RKL} + gate {_FKL} over the teacher's top k",
        "EOPD, arXiv 2603.07079, one update per batch", reward=negated(fns.k1), discount=0.0, baseline=False,
        params={"k": 16, "threshold": 0.8, "weight": 1.0},
        state_loss=added(fns.reverse_kl, fns.entropy_gated_forward_kl),
    ),
    _loss(
        "tempered_forward_kl", total(tempered(fns.FORWARD_KL, scaled=True)),
        f"{_EACH}temperature^2 {_FKL} of the softened policies", "Hinton et al. 2015; tunix",
        params={"temperature": 2.0},
    ),
    _loss(
        "tempered_reverse_kl", total(tempered(fns.REVERSE_KL)), f"{_EACH}{_RKL} of the softened policies",
        "TRL, distillation trainer", params={"temperature": 2.0},
    ),
    _loss(
        "clipped_reverse_kl", total(clipped(fns.REVERSE_KL)), f"{_EACH}{_RKL}, every term at most `clip`",
        "OPSD; TRL, pull request 5990", params={"clip": 0.05},
    ),
)  # fmt: skip

# Objectives that use the teacher's first further policy: a reference policy or a second teacher.
_POLICIES = (
    _reward(
        "exopd", negated(fns.extrapolated_k1), f"{_EACH}KL(pi_theta||pi^scale ref^(1 - scale))",
        "G-OPD / ExOPD, arXiv 2602.12125", params={"scale": 1.25, "floor": _FLOOR},
        state_loss=fns.extrapolated_reverse_kl,
    ),
    _reward(
        "exopd_return", negated(fns.extrapolated_k1), "E[sum KL(pi_theta||pi^scale ref^(1 - scale))]",
        "G-OPD / ExOPD, undiscounted", params={"scale": 1.25, "floor": _FLOOR}, discount=1.0,
        total_loss=fns.extrapolated_reverse_kl,
    ),
    _loss(
        "two_teachers_forward_kl", fns.averaged(fns.forward_kl), f"{_EACH}{_FKL}, pi the teachers' mean",
        "several teachers, divergences averaged", params={"weight": 0.5, "floor": _FLOOR},
    ),
    _loss(
        "two_teachers_reverse_kl", fns.averaged(fns.reverse_kl), f"{_EACH}{_RKL}, pi their geometric mean, normalised",
        "several teachers, divergences averaged", params={"weight": 0.5, "floor": _FLOOR},
    ),
    _reward(
        "two_teachers_k1", negated(fns.averaged(fns.k1)), f"{_EACH}{_RKL}, pi their geometric mean, normalised",
        "several teachers, rewards averaged", params={"weight": 0.5, "floor": _FLOOR},
        state_loss=fns.averaged(fns.reverse_kl),
    ),
)  # fmt: skip

# Objectives of k actions only. The set S of these actions is held fixed in the gradient of the named loss.
_TOP_K = (
    _loss(
        "top_k_forward_kl", clamped(total(top_k(fns.FORWARD_KL, "teacher")), least=0.0),
        f"{_EACH}{_FKL} summed over S only, where that is positive", "verl, forward_kl_topk", params={"k": 2},
    ),
    _loss(
        "top_k_forward_kl_open", total(top_k(fns.FORWARD_KL, "teacher")), f"{_EACH}{_FKL} summed over S only",
        "verl, forward_kl_topk without its clamp", params={"k": 2},
    ),
    _loss(
        "top_k_forward_kl_tail", total(top_k(fns.FORWARD_KL, "teacher", tail=True)),
        f"{_EACH}{_FKL}, all outside S one action", "verl, issue 7856", params={"k": 2},
    ),
    _loss(
        "top_k_reverse_kl", total(top_k(fns.REVERSE_KL, "teacher")), f"{_EACH}{_RKL} summed over S only",
        "verl, pull request 5041", params={"k": 2},
    ),
    _loss(
        "top_k_reverse_kl_tail", total(top_k(fns.REVERSE_KL, "teacher", tail=True)),
        f"{_EACH}{_RKL}, all outside S one action", "OpenClaw-RL, pull request 4", params={"k": 2},
    ),
    _loss(
        "top_k_mixed_kl", added(*(weighted(total(top_k(kl, "teacher", "both")), "half")
                                  for kl in (fns.FORWARD_KL, fns.REVERSE_KL))),
        f"{_EACH}({_FKL} + {_RKL}) / 2, both given S", "NeMo-RL, distillation", params={"k": 2, "half": 0.5},
    ),
    _loss(
        "top_k_opd_written", total(top_k(fns.REVERSE_KL, "student", "both")), f"{_EACH}{_RKL}, both given S",
        "arXiv 2604.13016, Eq. (5)", params={"k": 2},
    ),
    _loss(
        "top_k_opd", fns.top_k_advantages("student", "student"), NO_LOSS,
        "Rethinking-OPD as implemented, student_p", params={"k": 2}, state_loss=None,
    ),
    _loss(
        "top_k_opd_teacher", fns.top_k_advantages("student", "teacher"), f"{_EACH}E_pi[k2] given S",
        "Rethinking-OPD as implemented, teacher_p", params={"k": 2},
        state_loss=fns.top_k_squares("student", "teacher"),
    ),
    _loss(
        "top_k_opd_unweighted", fns.top_k_advantages("student", "one"), f"{_EACH}the mean of k2 over S",
        "Rethinking-OPD as implemented, none", params={"k": 2}, state_loss=fns.top_k_squares("student", "one"),
    ),
    _reward(
        "top_k_scalar", negated(total(top_k(fns.REVERSE_KL, "student", "both"))), ZERO_FIELD,
        "miles, issue 2362", params={"k": 2}, state_loss=fns.nothing,
    ),
    _reward(
        "top_k_scalar_return", negated(total(top_k(fns.REVERSE_KL, "student", "both"))), NO_LOSS,
        "miles, issue 2362, undiscounted", params={"k": 2}, discount=1.0,
    ),
)  # fmt: skip

ZOO: dict[str, Objective] = {
    objective.name: objective
    for group in (_CONTROLS, _RETURNS, _ESTIMATORS, _DIVERGENCES, _POLICIES, _TOP_K)
    for objective in group
}
"""The objectives by name.

Some objectives of the field are not here, because `METHODS` contains them: `on_policy_distill` is GKD with beta 0 and
Actor-Mimic's policy regression, `on_policy_distill_r` is kickstarting with weight 1, `kl_regularised` with discount 1
is MiniLLM's objective, and `td_vpi` is AggreVaTeD.
"""
