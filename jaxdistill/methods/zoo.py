"""Objectives of the field beyond the paper's, as methods with their source and the loss of which they are the gradient.

`ZOO["k3_loss"]` is a `Method` like those of `METHODS`: `train` samples its updates, and `expected_update` computes
their expectation exactly. The claim of what an objective is the gradient of is data as well, so every claim is tested.
"""

from typing import Any

from jaxdistill.methods import divergences, paper, sources
from jaxdistill.methods import step_functions as fns
from jaxdistill.methods.combinators import (
    NO_LOSS,
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
from jaxdistill.methods.sources import CZARNECKI, GKD, MILES, RETHINKING_OPD, SCHULMAN, TRL, VERL, Source


def _objective(name: str, *sources: Source, **fields: Any) -> Objective:
    """An objective that claims to be the gradient of its `state_loss` or `total_loss`, or without them of no loss."""
    has_loss = fields.get("state_loss") is not None or fields.get("total_loss") is not None
    return Objective(name, sources=sources, gradient_of="" if has_loss else NO_LOSS, **fields)


def _loss(name: str, loss: StepFn, *sources: Source, **more: Any) -> Objective:
    """An objective that descends a loss on the student's own trajectories, with the visits of states held fixed."""
    return _objective(name, *sources, loss=loss, **({"state_loss": loss} | more))


def _reward(name: str, reward: StepFn, *sources: Source, **more: Any) -> Objective:
    """An objective with a reward that credits only the action of its own step, without V_theta as a baseline."""
    return _objective(name, *sources, reward=reward, **({"discount": 0.0, "baseline": False} | more))


_FLOOR = UpdateOptions.probability_floor  # the floor of further policies is the default floor of the teacher

_CONTROLS = (
    _objective(
        "uniform_distill", CZARNECKI.at("Fig. 3"), loss=paper.cross_entropy, control=UNIFORM,
        state_loss=fns.forward_kl, total_loss=fns.forward_kl,
    ),
    _objective(
        "behaviour_cloning", sources.RLAX.at("sampled_policy_distillation_loss"), loss=fns.negative_log_likelihood,
        control=TEACHER, state_loss=fns.forward_kl, total_loss=fns.forward_kl,
    ),
    _loss(
        "dagger", fns.imitation_loss, sources.DAGGER, sources.IMITATION,
        control=Control(student=0.5, teacher=0.5, per="step"), params={"entropy": 1e-3},
    ),
    _loss(
        "dagger_episode", fns.imitation_loss, sources.DAGGER.at("roll-ins by episode"),
        control=Control(student=0.5, teacher=0.5, per="episode"), params={"entropy": 1e-3},
    ),
    _loss("value_gated_distill", paper.value_conditioned_cross_entropy, CZARNECKI.at("Proposition 2")),
    _objective(
        "kickstarting", sources.KICKSTARTING, loss=weighted(paper.cross_entropy, "weight"),
        reward=paper.environment_reward, params={"weight": 0.5},
    ),
    _objective(
        "distral", sources.DISTRAL.at("the teacher as prior"), reward=fns.distral_reward,
        total_loss=negated(fns.distral_reward), params={"kl": 0.5, "entropy": 0.1},
    ),
)  # fmt: skip

_RETURNS = (
    _objective(
        "n_distill_kl", CZARNECKI.at("Theorem 2, with KL"), loss=fns.forward_kl, next_reward=negated(fns.forward_kl),
        discount=1.0, total_loss=fns.forward_kl,
    ),
    _objective(
        "sequence_kl", CZARNECKI.at("Theorem 2, with the reverse KL"), loss=fns.reverse_kl,
        next_reward=negated(fns.reverse_kl), discount=1.0, total_loss=fns.reverse_kl,
    ),
    _objective(
        "minillm", sources.MINILLM.at("without length normalisation"), loss=fns.reverse_kl,
        next_reward=negated(fns.k1), discount=1.0, baseline=False, total_loss=fns.reverse_kl,
    ),
)  # fmt: skip

_ESTIMATORS = (
    _loss("k1_loss", fns.k1, VERL.at("k1, which it refuses"), state_loss=fns.nothing),
    _loss("k2_loss", fns.k2, VERL.at("k2"), state_loss=fns.reverse_kl),
    _loss("k3_loss", fns.k3, VERL.at("k3"), sources.TORCHRL, state_loss=fns.forward_kl),
    _loss(
        "k3_loss_clamped", sampled(plain(divergences.k3_clamped)), VERL.at("k3 with its clamps"),
        state_loss=total(plain(divergences.forward_kl_flat)),
    ),
    _loss("k1_ratio", times_ratio(fns.k1), SCHULMAN.at("k1, ratio differentiated"), state_loss=fns.reverse_kl),
    _loss("k2_ratio", times_ratio(fns.k2), SCHULMAN.at("k2, ratio differentiated"), state_loss=fns.expected_k2),
    _loss(
        "k3_ratio", times_ratio(fns.k3), sources.DEEPSEEK, TRL.at("GRPO, use_bias_correction_kl"),
        state_loss=fns.reverse_kl,
    ),
    _reward(
        "k1_reward", negated(fns.k1), sources.THINKING_MACHINES.at("on-policy distillation"), sources.TINKER,
        state_loss=fns.reverse_kl,
    ),
    _reward(
        "k1_reward_whitened", negated(sampled(whitened(fns.K1))),
        sources.GRPO.at("groups of one state"), sources.SLIME.at("whose batches are of many states"),
        params={"epsilon": 1e-6},
    ),
    _reward("k2_reward", negated(fns.k2), SCHULMAN.at("k2 as reward"), state_loss=fns.expected_k2_minus_reverse_kl),
    _reward(
        "k3_reward", negated(fns.k3), VERL.at("use_policy_gradient with k3"), state_loss=fns.reverse_minus_forward_kl
    ),
    _reward(
        "k1_return", negated(fns.k1), SCHULMAN.at("k1 as reward, undiscounted"), discount=1.0,
        total_loss=fns.reverse_kl,
    ),
    _reward("k2_return", negated(fns.k2), SCHULMAN.at("k2 as reward, undiscounted"), discount=1.0),
    _reward("k3_return", negated(fns.k3), SCHULMAN.at("k3 as reward, undiscounted"), discount=1.0),
    _reward("gamma_opd", negated(fns.k1), sources.GAMMA_OPD, discount=0.92),
    _reward("vopd", added(negated(fns.k1), fns.reverse_kl), sources.VOPD, state_loss=fns.reverse_kl),
)  # fmt: skip

_DIVERGENCES = (
    _loss("reverse_kl", fns.reverse_kl, GKD.at("beta 1"), TRL),
    _loss("jsd", fns.jensen_shannon, GKD, TRL, params={"beta": 0.5}),
    _loss(
        "gkd", fns.jensen_shannon_or_kl, GKD.at("lambda 0.5"), TRL,
        control=Control(student=0.5, teacher=0.5, per="episode"), params={"beta": 0.5},
    ),
    _loss(
        "jsd_normalised", fns.normalised_jensen_shannon, GKD.at("without the jumps of scale at beta 0 and 1"),
        params={"beta": 0.5},
    ),
    _reward(
        "top_d", fns.proximal_reward, sources.TOP_D, sources.PRIME_RL, sources.NEMO_RL, params={"alpha": 0.3},
        state_loss=fns.proximal_loss,
    ),
    _loss(
        "skew_forward_kl", total(numbered(divergences.skew_forward_kl, "skew")), sources.DISTILLM,
        params={"skew": 0.1},
    ),
    _loss(
        "skew_reverse_kl", total(numbered(divergences.skew_reverse_kl, "skew")), sources.DISTILLM,
        params={"skew": 0.1},
    ),
    _reward(
        "power_opd", fns.power_reward, sources.POWER_OPD, params={"power": 0.5},
        state_loss=total(numbered(divergences.density_power, "power")),
    ),
    _reward(
        "power_opd_ratio", fns.power_ratio_reward, sources.POWER_OPD.at("read as a power of the ratio"),
        params={"power": 0.5}, state_loss=total(numbered(divergences.alpha_divergence, "power")),
    ),
    _loss(
        "trl_minillm", fns.reverse_kl, TRL.at("MiniLLM trainer"), reward=negated(fns.k1), discount=0.0,
        baseline=False, state_loss=added(fns.reverse_kl, fns.reverse_kl),
    ),
    _loss(
        "eopd", fns.entropy_gated_forward_kl, sources.EOPD.at("one update per batch"), reward=negated(fns.k1),
        discount=0.0, baseline=False, params={"k": 16, "threshold": 0.8, "weight": 1.0},
        state_loss=added(fns.reverse_kl, fns.entropy_gated_forward_kl),
    ),
    _loss(
        "tempered_forward_kl", total(tempered(fns.FORWARD_KL, scaled=True)), sources.HINTON, sources.TUNIX,
        params={"temperature": 2.0},
    ),
    _loss(
        "tempered_reverse_kl", total(tempered(fns.REVERSE_KL)), TRL.at("distillation trainer"),
        params={"temperature": 2.0},
    ),
    _loss(
        "clipped_reverse_kl", total(clipped(fns.REVERSE_KL)), sources.OPSD, TRL.at("pull request 5990"),
        params={"clip": 0.05},
    ),
)  # fmt: skip

# Objectives that use the teacher's first further policy: a reference policy or a second teacher.
_POLICIES = (
    _reward(
        "exopd", negated(fns.extrapolated_k1), sources.EXOPD, params={"scale": 1.25, "floor": _FLOOR},
        state_loss=fns.extrapolated_reverse_kl,
    ),
    _reward(
        "exopd_return", negated(fns.extrapolated_k1), sources.EXOPD.at("undiscounted"),
        params={"scale": 1.25, "floor": _FLOOR}, discount=1.0, total_loss=fns.extrapolated_reverse_kl,
    ),
    _loss(
        "two_teachers_forward_kl", fns.averaged(fns.forward_kl), sources.MOPD.at("with the forward KL"),
        params={"weight": 0.5, "floor": _FLOOR},
    ),
    _loss(
        "two_teachers_reverse_kl", fns.averaged(fns.reverse_kl), sources.MOPD,
        params={"weight": 0.5, "floor": _FLOOR},
    ),
    _reward(
        "two_teachers_k1", negated(fns.averaged(fns.k1)), sources.MOPD.at("as rewards"),
        params={"weight": 0.5, "floor": _FLOOR}, state_loss=fns.averaged(fns.reverse_kl),
    ),
)  # fmt: skip

# Objectives of k actions only. The set S of these actions is held fixed in the gradient of the named loss.
_TOP_K = (
    _loss(
        "top_k_forward_kl", clamped(total(top_k(fns.FORWARD_KL, "teacher")), least=0.0), VERL.at("forward_kl_topk"),
        params={"k": 2},
    ),
    _loss(
        "top_k_forward_kl_open", total(top_k(fns.FORWARD_KL, "teacher")), VERL.at("forward_kl_topk without its clamp"),
        params={"k": 2},
    ),
    _loss(
        "top_k_forward_kl_tail", total(top_k(fns.FORWARD_KL, "teacher", tail=True)), VERL.at("issue 7856"),
        params={"k": 2},
    ),
    _loss(
        "top_k_reverse_kl", total(top_k(fns.REVERSE_KL, "teacher")), VERL.at("pull request 5041"), params={"k": 2}
    ),
    _loss(
        "top_k_reverse_kl_tail", total(top_k(fns.REVERSE_KL, "teacher", tail=True)),
        sources.OPENCLAW_RL.at("pull request 4"), params={"k": 2},
    ),
    _loss(
        "top_k_mixed_kl", added(*(weighted(total(top_k(kl, "teacher", "both")), "half")
                                  for kl in (fns.FORWARD_KL, fns.REVERSE_KL))),
        sources.NEMO_RL.at("distillation"), params={"k": 2, "half": 0.5},
    ),
    _loss(
        "top_k_opd_written", total(top_k(fns.REVERSE_KL, "student", "both")), sources.RETHINKING.at("Eq. (5)"),
        params={"k": 2},
    ),
    _loss(
        "top_k_opd", fns.top_k_advantages("student", "student"), RETHINKING_OPD.at("as implemented, student_p"),
        params={"k": 2}, state_loss=None,
    ),
    _loss(
        "top_k_opd_teacher", fns.top_k_advantages("student", "teacher"),
        RETHINKING_OPD.at("as implemented, teacher_p"), params={"k": 2},
        state_loss=fns.top_k_squares("student", "teacher"),
    ),
    _loss(
        "top_k_opd_unweighted", fns.top_k_advantages("student", "one"), RETHINKING_OPD.at("as implemented, none"),
        params={"k": 2}, state_loss=fns.top_k_squares("student", "one"),
    ),
    _reward(
        "top_k_scalar", negated(total(top_k(fns.REVERSE_KL, "student", "both"))), MILES.at("issue 2362"),
        params={"k": 2}, state_loss=fns.nothing,
    ),
    _reward(
        "top_k_scalar_return", negated(total(top_k(fns.REVERSE_KL, "student", "both"))),
        MILES.at("issue 2362, undiscounted"), params={"k": 2}, discount=1.0,
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
