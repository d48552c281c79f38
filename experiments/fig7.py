"""Figure 7: a sampled grid world, drawn as in the paper, and the optimal policy in it.

fig7_world: walls black, the start blue, terminals green, rewards as numbers. fig7: the same, the optimal policy as
arrows, its value in every state, and how often an episode of it visits each state.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxdistill
from experiments import common
from jaxdistill import plotting, teachers
from jaxdistill.mdp import exact
from jaxdistill.worlds.gridworld import Grid, grid_to_mdp

_GRID = ("wall", "reward", "terminal", "start")
POLICIES = ("optimal", "adversarial", "uniform")


@dataclasses.dataclass
class Settings(common.Output, common.Worlds):
    """The flags of this figure."""

    num_mdps: int = common.option(1, "sampled worlds, of which one is drawn")
    world: int = common.option(
        0, "number of the drawn world, from 0; the other experiments have it too, with this seed and these sizes"
    )
    seed: int = common.option(0, "seed of the worlds")
    policy: str = common.option("optimal", "policy to draw: optimal, adversarial or uniform")
    discount: float = common.option(0.99, "discount of the values, and of the return that the policy optimises")


SMOKE = {"num_rows": 10, "num_cols": 10}


def check(settings: Settings) -> None:
    """Validates the settings; raises ValueError with one line."""
    common.known("policy", [settings.policy], POLICIES)
    if not 0 <= settings.world < settings.num_mdps:
        raise ValueError(
            f"--world must be from 0 to {settings.num_mdps - 1}; got {settings.world}. Raise --num_mdps for more."
        )
    if not 0 <= settings.discount <= 1:
        raise ValueError(f"--discount must be in [0, 1]; got {settings.discount}.")
    settings.grid_config()


def compute(settings: Settings) -> dict[str, np.ndarray]:
    """The grid of the world, and the policy [S, A] with its values [S], its visits [S] and its return."""
    mdps = jaxdistill.sample_mdps(common.keys(settings.seed).worlds, settings.num_mdps, settings.grid_config())
    mdp = mdps[settings.world]
    teacher = getattr(teachers, settings.policy)(mdp, discount=settings.discount)
    policy_return = exact.start_value(mdp, exact.policy_values(mdp, teacher.probs))
    arrays = {name: getattr(mdp.grid, name) for name in _GRID}
    arrays |= {"policy": teacher.probs, "values": teacher.values, "visits": exact.occupancy(mdp, teacher.probs)}
    return {name: np.asarray(value) for name, value in (arrays | {"return": policy_return}).items()}


def world_of(settings: Settings, data: dict[str, np.ndarray]) -> jaxdistill.MDP:
    """The world made from its saved grid."""
    grid = Grid(**{name: jnp.asarray(data[name]) for name in _GRID})
    return grid_to_mdp(grid, settings.grid_config())


def plot(settings: Settings, data: dict[str, np.ndarray]) -> Any:
    """Draws the world, and in it the policy, its values and its visits."""
    mdp = world_of(settings, data)
    figure, axes = plotting.new_figure(2, 2, size=(11.5, 10.0))
    name = settings.policy.capitalize()
    plotting.draw_grid(mdp, axes[0, 0], title="World")
    plotting.draw_grid(mdp, axes[0, 1], policy=data["policy"], title=f"{name} policy (return {data['return']:.2f})")
    plotting.draw_grid(mdp, axes[1, 0], values=data["values"], title=f"Discounted value of the {name.lower()} policy")
    plotting.draw_grid(mdp, axes[1, 1], visits=data["visits"], title=f"Visits of the {name.lower()} policy")
    return figure


def work(settings: Settings) -> None:
    """Computes the world and the policy, unless an earlier call has, and draws both figures."""
    check(settings)
    outdir = common.prepare_outdir(settings)
    data = common.run_parts(settings, outdir, {"world": lambda: compute(settings)})["world"]
    common.deliver(plotting.draw_grid(world_of(settings, data)), outdir, "fig7_world")
    common.deliver(plot(settings, data), outdir, "fig7")


if __name__ == "__main__":
    common.main(Settings, "fig7", SMOKE, work)
