"""Small MDPs, teachers and students with nothing symmetric about them, for tests against exact answers."""

import jax.numpy as jnp
import numpy as np

from jaxdistill import MDP, Teacher


def random_mdp(
    seed: int, *, num_states=4, num_actions=3, num_outcomes=3, aliased=False, by_state=False, starts=1
) -> MDP:
    """A random MDP with terminals, self-loops (so that states are revisited) and ties between rewards."""
    rng = np.random.default_rng(seed)
    successor = rng.integers(num_states, size=(num_states, num_outcomes))
    successor[:, -1] = np.arange(num_states)  # stay
    terminal = rng.random((num_states, num_outcomes)) < 0.25
    terminal[0] = False
    lead = (num_states, num_actions) if by_state else (num_actions,)
    observation = np.arange(num_states) // 2 if aliased else np.arange(num_states)
    return MDP.from_arrays(
        successor,
        np.round(rng.normal(size=(num_states, num_outcomes)), 1),
        terminal,
        rng.dirichlet(np.ones(num_outcomes), lead),
        continue_prob=0.8,
        start=np.arange(starts),
        start_probs=rng.dirichlet(np.ones(starts)),
        observation=observation,
        id=seed,
    )


def random_teacher(mdp: MDP, seed: int, *, deterministic_rows: int = 0) -> Teacher:
    """A random teacher, its values arbitrary numbers: identities must not rest on V_pi being right."""
    rng = np.random.default_rng(seed + 1000)
    probs = rng.dirichlet(np.ones(mdp.num_actions), mdp.num_states)
    probs[:deterministic_rows] = np.eye(mdp.num_actions)[0]
    values = rng.normal(size=mdp.num_states)
    return Teacher(probs=jnp.asarray(probs), values=jnp.asarray(values), scores=jnp.asarray(probs))


def random_student(mdp: MDP, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 2000)
    logits = rng.normal(size=(mdp.num_observations, mdp.num_actions)).astype(np.float32)
    return logits, rng.normal(size=mdp.num_observations).astype(np.float32)
