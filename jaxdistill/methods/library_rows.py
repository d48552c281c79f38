"""The trainers of other libraries, and the KL terms of their losses: which settings are which method here.

Each row was read in the source code of the library, at the version and the place that it names.
"""

from jaxdistill.methods import sources
from jaxdistill.methods.library_methods import (
    CLAMPED_K3_REWARD,
    CLAMPED_RATIOS,
    FORWARD_OF_S,
    FORWARD_ON_DATA,
    GIVEN_BOTH,
    JSD_OF_S,
    K1_RETURN,
    MINILLM_RETURN,
    SOFT_JSD,
    TOP_K_REWARD,
)
from jaxdistill.methods.library_settings import (
    BETWEEN_0_AND_1,
    NOT_1,
    POSITIVE,
    SET,
    Case,
    LibraryUpdate,
    Refusal,
    Rule,
)
from jaxdistill.methods.paper import METHODS
from jaxdistill.methods.zoo import ZOO

TRL, VERL, NEMO_RL = "1.10.0.dev0, commit f2cd577", "0.10.0.dev, commit 1dda039", "0.6.0, commit 7ea279a"
SLIME, MS_SWIFT, TINKER = "0.3.1, commit 624b824", "4.6.0.dev0, commit 3602360", "tinker-cookbook, commit 9dfcc3a"

_AT_LEAST_10 = Rule(
    "null, or at least 10", lambda value: value is None or (isinstance(value, int | float) and value >= 10)
)
_REFERENCE = "The teacher is the reference model; the task's reward is a term of its own."
_DATA = "The rest of the episodes come from a data set; here they are the teacher's."

_TRL = (
    LibraryUpdate(
        "trl.gkd", sources.TRL, TRL,
        "trl/experimental/gkd/gkd_trainer.py: GKDTrainer.generalized_jsd_loss, compute_loss, training_step",
        {"beta": 0.5, "lmbda": 0.5},
        (
            Case(METHODS["on_policy_distill"], {"beta": 0}),
            Case(ZOO["reverse_kl"], {"beta": 1}),
            Case(
                ZOO["gkd"], {"beta": BETWEEN_0_AND_1}, {"beta": "beta"},
                "Its scale is beta times the forward KL near 0 and 1 - beta times the reverse KL near 1.",
            ),
            Case(ZOO["jsd"], {"beta": BETWEEN_0_AND_1}, {"beta": "beta"}, back_only=True),
        ),
        f"{_DATA} One draw decides for a whole batch. Its temperature (0.9) changes the sampling alone: the loss is "
        "taken at temperature 1.",
        student_share="lmbda",
    ),
    LibraryUpdate(
        "trl.distillation", sources.TRL, TRL,
        "trl/experimental/distillation/distillation_trainer.py: _jsd_divergence, DistillationTrainer.compute_loss",
        {"beta": 1.0, "temperature": 1.0},
        (
            Case(METHODS["on_policy_distill"], {"beta": 0, "temperature": 1}),
            Case(ZOO["reverse_kl"], {"beta": 1, "temperature": 1}),
            Case(ZOO["jsd"], {"beta": BETWEEN_0_AND_1, "temperature": 1}, {"beta": "beta"}),
            Case(
                ZOO["tempered_reverse_kl"], {"beta": 1, "temperature": NOT_1}, {"temperature": "temperature"},
                "The loss has no factor temperature^2, so its gradient shrinks as 1 / temperature^2.",
            ),
            Case(
                SOFT_JSD, {"temperature": NOT_1}, {"beta": "beta", "temperature": "temperature"},
                "The loss has no factor temperature^2, so its gradient shrinks as 1 / temperature^2.",
            ),
        ),
        "Episodes are sampled at this temperature and with top_p 0.95; here at temperature 1, from the whole policy.",
    ),
    LibraryUpdate(
        "trl.minillm", sources.TRL, TRL,
        "trl/experimental/minillm/minillm_trainer.py: MiniLLMTrainer._compute_advantage, compute_loss",
        {"gamma": 0.0, "length_normalization": True, "rkl_advantage": True, "single_step_decomposition": True},
        (
            Case(
                ZOO["trl_minillm"], {"gamma": 0, "rkl_advantage": True, "single_step_decomposition": True},
                note="Reward and loss are both the reverse KL, so the update is twice that of reverse_kl.",
            ),
            Case(ZOO["k1_reward"], {"gamma": 0, "rkl_advantage": True, "single_step_decomposition": False}),
            Case(ZOO["reverse_kl"], {"rkl_advantage": False, "single_step_decomposition": True}),
            Case(
                MINILLM_RETURN,
                {"gamma": 1, "length_normalization": False, "rkl_advantage": True, "single_step_decomposition": True},
                note="The paper's return begins at the next step. The library's begins at the step itself, so that the "
                "step's own reverse KL counts twice.",
            ),
            Case(
                K1_RETURN,
                {"gamma": 1, "length_normalization": False, "rkl_advantage": True, "single_step_decomposition": False},
            ),
        ),
        "The advantage is not detached. That adds the score of the action, whose mean is 0, to the sampled update. "
        "Each term is a mean over tokens; that of the loss counts padding, because its mask looks for the label -100 "
        "in token numbers.",
        (
            Refusal(
                {"rkl_advantage": True, "gamma": BETWEEN_0_AND_1},
                "the return of step t is multiplied by gamma^t, because its powers count from the first step.",
            ),
            Refusal(
                {"rkl_advantage": True, "gamma": POSITIVE, "length_normalization": True},
                "each return is divided by the discounted number of steps that are left.",
            ),
            Refusal({"rkl_advantage": False, "single_step_decomposition": False}, "no term reads the teacher."),
        ),
    ),
    LibraryUpdate(
        "trl.grpo_kl", sources.TRL, TRL, "trl/trainer/grpo_trainer.py: GRPOTrainer._compute_loss, per_token_kl",
        {"beta": 0.0, "use_bias_correction_kl": False},
        (
            Case(
                ZOO["k3_loss"], {"use_bias_correction_kl": False},
                note="k3 estimates the reverse KL, and its gradient is that of the forward KL.",
            ),
            Case(ZOO["k3_ratio"], {"use_bias_correction_kl": True}),
        ),
        f"{_REFERENCE} One update per batch; then the ratio to the old policy is 1.",
        (Refusal({"beta": 0}, "it has no KL term."),),
        coefficient="beta",
    ),
    LibraryUpdate(
        "trl.iw_opd", sources.TRL, TRL,
        "trl/experimental/iw_opd/iw_opd_trainer.py: IWOPDTrainer._compute_iw_opd_loss",
        {"iw_opd_gamma": 0.5},
        (Case(ZOO["k1_reward"], {"iw_opd_gamma": 0}),),
        "distillation_objective='iw_opd'. Episodes are sampled with top_p 0.95; here from the whole policy.",
        (
            Refusal(
                {"iw_opd_gamma": POSITIVE},
                "the weight of a step depends on the log ratios of the whole episode, the steps to come included.",
            ),
        ),
    ),
    LibraryUpdate(
        "trl.sdpo", sources.TRL, TRL,
        "trl/experimental/sdpo/loss_utils.py: compute_sampled_token_self_distillation_loss, compute_divergence",
        {"distillation_mode": "sampled_token", "distillation_alpha": 1.0},
        (
            Case(
                ZOO["k1_reward"], {"distillation_mode": "sampled_token", "distillation_alpha": 1},
                note="The loss is the detached log ratio times log pi_theta, which is k1 as a reward.",
            ),
            Case(METHODS["on_policy_distill"], {"distillation_mode": "full_logits", "distillation_alpha": 0}),
            Case(ZOO["reverse_kl"], {"distillation_mode": "full_logits", "distillation_alpha": 1}),
            Case(
                ZOO["jsd"], {"distillation_mode": "full_logits", "distillation_alpha": BETWEEN_0_AND_1},
                {"distillation_alpha": "beta"},
            ),
        ),
        "The teacher is the model itself with more context, or its moving average; here the teacher is fixed.",
    ),
)  # fmt: skip

_CLAMPED = "Log ratios beyond +-20 and values above 10 are clamped, and have the gradient 0."
_VERL = (
    LibraryUpdate(
        "verl.distillation", sources.VERL, VERL,
        "verl/trainer/distillation/losses.py: distillation_loss, compute_distillation_loss_reverse_kl_estimator, "
        "compute_forward_kl_topk; verl/trainer/ppo/core_algos.py: kl_penalty_forward",
        {"loss_mode": "k3", "use_policy_gradient": False, "topk": 32, "loss_max_clamp": None},
        (
            Case(
                ZOO["k3_loss_clamped"],
                {"loss_mode": ("k3", "low_var_kl"), "use_policy_gradient": False, "loss_max_clamp": _AT_LEAST_10},
                note=f"It is named a reverse KL estimator, and its gradient is that of the forward KL. {_CLAMPED}",
            ),
            Case(ZOO["k2_loss"], {"loss_mode": ("k2", "mse"), "use_policy_gradient": False, "loss_max_clamp": None}),
            Case(
                ZOO["k1_loss"], {"loss_mode": "kl", "use_policy_gradient": False, "loss_max_clamp": None},
                note="It learns nothing: the expected update is 0. The same loss under the name k1 is refused by verl.",
            ),
            Case(
                ZOO["top_k_forward_kl"],
                {"loss_mode": "forward_kl_topk", "use_policy_gradient": False, "loss_max_clamp": None}, {"topk": "k"},
                "The policies are not divided by their mass on the k actions, and a negative sum is cut at 0.",
            ),
            Case(ZOO["k1_reward"], {"loss_mode": ("k1", "kl"), "use_policy_gradient": True, "loss_max_clamp": None}),
            Case(ZOO["k2_reward"], {"loss_mode": ("k2", "mse"), "use_policy_gradient": True, "loss_max_clamp": None}),
            Case(
                CLAMPED_K3_REWARD,
                {"loss_mode": ("k3", "low_var_kl"), "use_policy_gradient": True, "loss_max_clamp": _AT_LEAST_10},
                note="As a reward, k3 descends the reverse KL minus the forward KL where it is not clamped.",
            ),
            Case(
                TOP_K_REWARD,
                {"loss_mode": "forward_kl_topk", "use_policy_gradient": True, "loss_max_clamp": None}, {"topk": "k"},
                "The reward does not depend on the action, so the expected update is 0.",
            ),
        ),
        "The defaults are those of distillation.yaml. The data class has others: use_policy_gradient True, topk 128, "
        "loss_max_clamp 10. One update per batch, without the task's reward and without log_prob_min_clamp.",
        (
            Refusal(
                {"loss_mode": "k1", "use_policy_gradient": False},
                "verl refuses it, because its gradient does not depend on the teacher. It is k1_loss.",
            ),
            Refusal({"loss_mode": "abs"}, "no method has the absolute log ratio."),
        ),
    ),
    LibraryUpdate(
        "verl.kl_loss", sources.VERL, VERL,
        "verl/workers/utils/losses.py: ppo_loss; verl/trainer/ppo/core_algos.py: kl_penalty",
        {"kl_loss_coef": 0.001, "kl_loss_type": "low_var_kl"},
        (
            Case(
                ZOO["k3_loss_clamped"], {"kl_loss_type": ("low_var_kl", "k3")},
                note=f"Its gradient is that of the forward KL. {_CLAMPED}",
            ),
            Case(
                ZOO["k2_loss"], {"kl_loss_type": ("k2", "mse", "k1+", "kl+", "k3+", "low_var_kl+", "abs+")},
                note="With a plus sign, the value is that of the named estimator and the gradient is that of k2.",
            ),
            Case(ZOO["k1_loss"], {"kl_loss_type": ("k1", "kl")}, note="The expected update is 0."),
        ),
        f"actor.use_kl_loss=True. {_REFERENCE}",
        coefficient="kl_loss_coef",
    ),
)  # fmt: skip

_NEMO_RL = (
    LibraryUpdate(
        "nemo_rl.distillation", sources.NEMO_RL, NEMO_RL,
        "nemo_rl/algorithms/loss/loss_functions.py: DistillationLossFn; nemo_rl/distributed/model_utils.py: "
        "get_distillation_topk_logprobs_from_logits",
        {"kl_type": "mixed", "mixed_kl_weight": 0.5, "zero_outside_topk": False, "topk_logits_k": 64},
        (
            Case(
                ZOO["top_k_mixed_kl"], {"kl_type": "mixed", "mixed_kl_weight": 0.5, "zero_outside_topk": False},
                {"topk_logits_k": "k"},
            ),
            Case(
                GIVEN_BOTH["mixed"], {"kl_type": "mixed", "zero_outside_topk": False},
                {"topk_logits_k": "k", "mixed_kl_weight": "weight"},
            ),
            Case(GIVEN_BOTH["forward"], {"kl_type": "forward", "zero_outside_topk": False}, {"topk_logits_k": "k"}),
            Case(GIVEN_BOTH["reverse"], {"kl_type": "reverse", "zero_outside_topk": False}, {"topk_logits_k": "k"}),
            Case(FORWARD_OF_S, {"kl_type": "forward", "zero_outside_topk": True}, {"topk_logits_k": "k"}),
        ),
        "Without zero_outside_topk, both policies are divided by their mass on the teacher's k actions. So the loss "
        "does not say how much mass the student should have there.",
        (
            Refusal(
                {"zero_outside_topk": True, "kl_type": ("reverse", "mixed")},
                "outside of the k actions, the teacher's log probability is set to -100.",
            ),
        ),
    ),
    LibraryUpdate(
        "nemo_rl.opd", sources.NEMO_RL, NEMO_RL,
        "nemo_rl/algorithms/advantage_estimator.py: OPDAdvantageEstimator; "
        "nemo_rl/algorithms/loss/loss_functions.py: ClippedPGLossFn",
        {"adv_estimator": "opd"},
        (Case(ZOO["k1_reward"], {"adv_estimator": "opd"}),),
        "disable_ppo_ratio=True. Several teachers are routed, one for each prompt. The gate icepop drops tokens whose "
        "probabilities differ between the engines of training and inference.",
    ),
    LibraryUpdate(
        "nemo_rl.grpo_kl", sources.NEMO_RL, NEMO_RL,
        "nemo_rl/algorithms/loss/loss_functions.py: ClippedPGLossFn; nemo_rl/algorithms/utils.py: calculate_kl",
        {
            "reference_policy_kl_penalty": 0.01, "reference_policy_kl_type": "k3",
            "kl_input_clamp_value": 20.0, "kl_output_clamp_value": 10.0,
        },
        (
            *(
                Case(
                    method, {"reference_policy_kl_type": k, "kl_input_clamp_value": 20, "kl_output_clamp_value": 10},
                    note="The probability of the sample is differentiated too, so k1 and k3 give the gradient of the "
                    "reverse KL, except where the value is clamped to +-10.",
                )
                for k, method in CLAMPED_RATIOS.items()
            ),
            *(
                Case(
                    ZOO[f"{k}_ratio"],
                    {"reference_policy_kl_type": k, "kl_input_clamp_value": None, "kl_output_clamp_value": None},
                )
                for k in ("k1", "k2", "k3")
            ),
        ),
        f"{_REFERENCE} use_kl_in_reward=False.",
        coefficient="reference_policy_kl_penalty",
    ),
)  # fmt: skip

_SLIME = (
    LibraryUpdate(
        "slime.opd", sources.SLIME, SLIME, "slime/backends/megatron_utils/loss.py: apply_opd_kl_to_advantages",
        {"opd_kl_coef": 1.0, "normalize_advantages": False},
        (Case(ZOO["k1_reward"], {"normalize_advantages": False}),),
        "use_opd, on top of an advantage that is 0 here.",
        (
            Refusal(
                {"normalize_advantages": True},
                "all advantages of a batch are shifted and divided by their standard deviation, after the sum.",
            ),
        ),
        coefficient="opd_kl_coef",
    ),
    LibraryUpdate(
        "slime.kl_loss", sources.SLIME, SLIME,
        "slime/backends/megatron_utils/loss.py: policy_loss_function; slime/utils/ppo_utils.py: compute_approx_kl",
        {"kl_loss_coef": 0.0, "kl_loss_type": "k1", "use_unbiased_kl": False},
        (
            Case(
                ZOO["k1_loss"], {"kl_loss_type": "k1", "use_unbiased_kl": False},
                note="This is the default of kl_loss_type, and its expected update is 0.",
            ),
            Case(ZOO["k2_loss"], {"kl_loss_type": "k2", "use_unbiased_kl": False}),
            Case(
                ZOO["k3_loss"], {"kl_loss_type": "k3", "use_unbiased_kl": False},
                note="Its gradient is that of the forward KL.",
            ),
            Case(
                ZOO["k3_loss_clamped"], {"kl_loss_type": "low_var_kl", "use_unbiased_kl": False},
                note="Its gradient is that of the forward KL, and 0 where the value is clamped to 10.",
            ),
            *(Case(ZOO[f"{k}_ratio"], {"kl_loss_type": k, "use_unbiased_kl": True}) for k in ("k1", "k2", "k3")),
            Case(CLAMPED_RATIOS["k3"], {"kl_loss_type": "low_var_kl", "use_unbiased_kl": True}),
        ),
        f"use_kl_loss. {_REFERENCE}",
        (Refusal({"kl_loss_coef": 0}, "it has no KL term."),),
        coefficient="kl_loss_coef",
    ),
)  # fmt: skip

_MS_SWIFT = (
    LibraryUpdate(
        "ms_swift.gkd", sources.MS_SWIFT, MS_SWIFT,
        "swift/rlhf_trainers/gkd_loss.py: jsd_loss, gkd_loss; swift/rlhf_trainers/gkd_trainer.py: GKDTrainer",
        {"beta": 0.5, "lmbda": 0.5, "temperature": 0.9, "gkd_logits_topk": None, "sft_alpha": 0.0},
        (
            Case(
                METHODS["on_policy_distill"],
                {"beta": 0, "temperature": 1, "gkd_logits_topk": None, "sft_alpha": 0},
            ),
            Case(ZOO["reverse_kl"], {"beta": 1, "temperature": 1, "gkd_logits_topk": None, "sft_alpha": 0}),
            Case(
                ZOO["gkd"], {"beta": BETWEEN_0_AND_1, "temperature": 1, "gkd_logits_topk": None, "sft_alpha": 0},
                {"beta": "beta"},
            ),
            Case(
                ZOO["jsd"], {"beta": BETWEEN_0_AND_1, "temperature": 1, "gkd_logits_topk": None, "sft_alpha": 0},
                {"beta": "beta"}, back_only=True,
            ),
            Case(
                ZOO["tempered_reverse_kl"], {"beta": 1, "gkd_logits_topk": None, "sft_alpha": 0},
                {"temperature": "temperature"},
            ),
            Case(
                SOFT_JSD, {"gkd_logits_topk": None, "sft_alpha": 0},
                {"beta": "beta", "temperature": "temperature"},
                "Unlike TRL's, its loss is taken at the temperature of the sampling, 0.9 by default, without a factor "
                "temperature^2.",
            ),
            Case(
                JSD_OF_S, {"temperature": 1, "gkd_logits_topk": SET, "sft_alpha": 0},
                {"beta": "beta", "gkd_logits_topk": "k"},
                "Both policies are divided by their mass on the teacher's k actions.",
            ),
        ),
        _DATA,
        (
            Refusal({"sft_alpha": POSITIVE}, "the likelihood of the data set is added to the loss."),
            Refusal(
                {"gkd_logits_topk": SET, "temperature": NOT_1},
                "no method has both a temperature and k actions; with temperature 1 there is one.",
            ),
        ),
        student_share="lmbda",
    ),
    LibraryUpdate(
        "ms_swift.opd_rl", sources.MS_SWIFT, MS_SWIFT,
        "swift/rl_core/advantage.py: compute_teacher_logratio, expand_advantage_to_per_token",
        {"teacher_kl_coef": 1.0},
        (Case(ZOO["k1_reward"]),),
        "GRPO with a teacher, on top of an advantage that is 0 here. It logs k3 and trains k1.",
        (Refusal({"teacher_kl_coef": 0}, "it has no term that reads the teacher."),),
        coefficient="teacher_kl_coef",
    ),
)  # fmt: skip

_TINKER = (
    LibraryUpdate(
        "tinker.on_policy", sources.TINKER, TINKER,
        "tinker_cookbook/distillation/train_on_policy.py: incorporate_kl_penalty; tinker_cookbook/rl/metrics.py: "
        "discounted_future_sum_vectorized",
        {"kl_penalty_coef": 1.0, "kl_discount_factor": 0.0},
        (
            Case(ZOO["k1_reward"], {"kl_discount_factor": 0}),
            Case(K1_RETURN, {"kl_discount_factor": 1}),
            Case(
                ZOO["k1_reward"], {"kl_discount_factor": BETWEEN_0_AND_1},
                note="Between 0 and 1 the expected update is the gradient of no loss.",
            ),
        ),
        "loss_fn='importance_sampling', without a reward of the environment. A discount of 0 means that a step is "
        "credited with its own log ratio alone.",
        (Refusal({"kl_penalty_coef": 0}, "it has no term that reads the teacher."),),
        coefficient="kl_penalty_coef",
        discount="kl_discount_factor",
    ),
    LibraryUpdate(
        "tinker.off_policy", sources.TINKER, TINKER,
        "tinker_cookbook/distillation/train_off_policy.py: _collect_topk_for_datum",
        {"n_teacher_targets": 20},
        (Case(FORWARD_ON_DATA, {}, {"n_teacher_targets": "k"}),),
        "Its episodes come from a data set; here they are the teacher's.",
    ),
    LibraryUpdate(
        "tinker.sdft", sources.TINKER, TINKER,
        "tinker_cookbook/distillation/sdft.py: build_topk_distillation_datums, compute_sdft_advantages",
        {"topk": 20},
        (
            Case(ZOO["k1_reward"], {"topk": 0}),
            Case(FORWARD_OF_S, {"topk": POSITIVE}, {"topk": "k"}),
        ),
        "The teacher is the model itself with the answer in its context. The first tokens may be left out.",
    ),
)  # fmt: skip

LIBRARY_UPDATES: dict[str, LibraryUpdate] = {
    update.key: update for group in (_TRL, _VERL, _NEMO_RL, _SLIME, _MS_SWIFT, _TINKER) for update in group
}
"""The trainers of other libraries, and the KL terms of their losses, by name."""
