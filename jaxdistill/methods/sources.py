"""The papers and libraries that methods come from, with their addresses."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Source:
    """A paper, or a library whose code computes an update.

    Attributes:
      name: the short name of a paper with its authors and year, or the name of a library.
      url: the address of the paper or of the library's repository.
      kind: "paper" or "library".
      place: where in it, such as "Theorem 2" or the name of a function; "" for all of it.
    """

    name: str
    url: str
    kind: Literal["paper", "library"]
    place: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.place}" if self.place else self.name

    def at(self, place: str) -> "Source":
        """The same source with a place in it."""
        return dataclasses.replace(self, place=place)


def _arxiv(name: str, number: str) -> Source:
    return Source(name, f"https://arxiv.org/abs/{number}", "paper")


def _github(name: str, repository: str) -> Source:
    return Source(name, f"https://github.com/{repository}", "library")


ACTOR_MIMIC = _arxiv("Actor-Mimic, Parisotto et al. 2015", "1511.06342")
AGGREVATED = _arxiv("AggreVaTeD, Sun et al. 2017", "1703.01030")
CZARNECKI = _arxiv("Czarnecki et al. 2019", "1902.02186")
DAGGER = _arxiv("DAgger, Ross et al. 2011", "1011.0686")
DEEPSEEK = _arxiv("DeepSeek-V3.2", "2512.02556")
DISTILLM = _arxiv("DistiLLM, Ko et al. 2024", "2402.03898")
DISTRAL = _arxiv("Distral, Teh et al. 2017", "1707.04175")
EOPD = _arxiv("EOPD, arXiv 2603.07079", "2603.07079")
EXOPD = _arxiv("G-OPD / ExOPD, arXiv 2602.12125", "2602.12125")
GAMMA_OPD = _arxiv("gamma-OPD, arXiv 2609.16937", "2609.16937")
GKD = _arxiv("GKD, Agarwal et al. 2023", "2306.13649")
GRPO = _arxiv("GRPO, Shao et al. 2024", "2402.03300")
HINTON = _arxiv("Hinton et al. 2015", "1503.02531")
KICKSTARTING = _arxiv("Kickstarting, Schmitt et al. 2018", "1803.03835")
MINILLM = _arxiv("MiniLLM, Gu et al. 2023", "2306.08543")
MOPD = _arxiv("MOPD, arXiv 2606.30406", "2606.30406")
POWER_OPD = _arxiv("PowerOPD, arXiv 2606.17199", "2606.17199")
RETHINKING = _arxiv("Rethinking OPD, arXiv 2604.13016", "2604.13016")
SCHULMAN = Source("Schulman 2020", "http://joschu.net/blog/kl-approx.html", "paper")
THINKING_MACHINES = Source(
    "Thinking Machines 2025", "https://thinkingmachines.ai/blog/on-policy-distillation/", "paper"
)
TOP_D = _arxiv("TOP-D, arXiv 2607.04751", "2607.04751")
VOPD = _arxiv("vOPD, arXiv 2605.07865", "2605.07865")

IMITATION = _github("imitation", "HumanCompatibleAI/imitation")
MILES = _github("miles", "radixark/miles")
MS_SWIFT = _github("ms-swift", "modelscope/ms-swift")
NEMO_RL = _github("NeMo-RL", "NVIDIA-NeMo/RL")
OPENCLAW_RL = _github("OpenClaw-RL", "Gen-Verse/OpenClaw-RL")
OPSD = _github("OPSD", "siyan-zhao/OPSD")
PRIME_RL = _github("prime-rl", "PrimeIntellect-ai/prime-rl")
RETHINKING_OPD = _github("Rethinking-OPD", "Thinking-Space/Rethinking-OPD")
RLAX = _github("rlax", "google-deepmind/rlax")
SLIME = _github("slime", "THUDM/slime")
TINKER = _github("Tinker", "thinking-machines-lab/tinker-cookbook")
TORCHRL = _github("torchrl", "pytorch/rl")
TRL = _github("TRL", "huggingface/trl")
TUNIX = _github("tunix", "google/tunix")
VERL = _github("verl", "verl-project/verl")

PAPER_METHODS: dict[str, tuple[Source, ...]] = {
    "on_policy_distill": (CZARNECKI, GKD.at("beta 0, lambda 1"), ACTOR_MIMIC.at("policy regression")),
    "on_policy_distill_r": (CZARNECKI, KICKSTARTING.at("weight 1")),
    "kl_regularised": (CZARNECKI, MINILLM.at("discount 1")),
    "td_vpi": (CZARNECKI.at("Proposition 3"), AGGREVATED),
    "td_v0": (CZARNECKI.at("Proposition 3"),),
    "teacher_v_reward": (CZARNECKI.at("Proposition 4"),),
    "n_distill": (CZARNECKI.at("Theorem 2"),),
    "on_policy_distill_r_vcond": (CZARNECKI.at("Proposition 2"),),
}
"""The sources of methods of `METHODS`; those of all others are Czarnecki et al. alone."""
