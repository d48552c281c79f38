"""What a result calls exact is that of a dense float64 solution, in worlds whose episodes are long."""

import warnings

import jax
import numpy as np

from jaxdistill import teachers, train
from jaxdistill.mdp import exact
from jaxdistill.theory.quality import quality
from jaxdistill.worlds.garnet import garnet

WORLDS = garnet(jax.random.key(0), 2, num_states=12, terminal_prob=0.02, termination_prob=1e-4)


def dense_returns(mdps, policies):
    """The mean returns and lengths of policies [M, S, A] from the start, [M, 2]."""
    numbers = []
    for m, policy in enumerate(np.asarray(policies, np.float64)):
        mdp = mdps[m]
        probs = np.broadcast_to(np.asarray(mdp.outcome_probs, np.float64), (*policy.shape, mdp.num_outcomes))
        policy = policy / policy.sum(-1, keepdims=True)
        weights = np.einsum("sa,sak->sk", policy, probs / probs.sum(-1, keepdims=True))
        matrix, states = np.zeros((mdp.num_states, mdp.num_states)), np.arange(mdp.num_states)[:, None]
        going_on = np.where(mdp.terminal, 0, np.float64(mdp.continue_prob))
        np.add.at(matrix, (states, np.asarray(mdp.successor)), weights * going_on)
        b = np.stack([(weights * np.asarray(mdp.reward, np.float64)).sum(1), np.ones(mdp.num_states)], axis=1)
        numbers.append(np.linalg.solve(np.eye(mdp.num_states) - matrix, b)[int(mdp.start[0])])
    return np.array(numbers)


def softmax(logits):
    weights = np.exp(np.asarray(logits, np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_numbers_of_a_result():
    mdps, teacher = WORLDS, teachers.uniform(WORLDS)

    def measure(mdps, teacher, policies):
        return {"return": exact.start_value(mdps, exact.policy_values(mdps, policies))}

    options = {"num_iterations": 3, "num_checkpoints": 1, "max_episode_steps": 50}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Some episodes are longer and are cut.
        result = train(jax.random.key(0), mdps, teacher, "teacher_distill", measure=measure, progress=False, **options)
    students = dense_returns(mdps, softmax(result.logits[0]))
    uniform = dense_returns(mdps, teacher.probs)
    for name, got, expected in (
        ("final", result.final_returns[0], students[:, 0]),
        ("curve", result.returns[0, :, -1], students[:, 0]),
        ("length", result.lengths[0, :, -1], students[:, 1]),
        ("measure", result.measurements[0, :, -1, 0], students[:, 0]),
        ("teacher", result.teacher_returns[0], uniform[:, 0]),
        ("uniform", result.uniform_returns, uniform[:, 0]),
        ("quality", quality(mdps, teacher, result.logits[0]).returns, students[:, 0]),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-8, err_msg=name)
