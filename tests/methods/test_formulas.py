"""Every formula equals the code: read from its plain text by an independent reader, and compared with the functions."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import METHODS, ZOO, Method, plus_reward
from jaxdistill.methods import formulas, loss_gradient, make_step
from jaxdistill.methods.combinators import NO_LOSS, Objective, negated, sampled, top_k, total
from jaxdistill.methods.expressions import PI, STUDENT, Number, Symbol, log
from jaxdistill.methods.method_formulas import method_formula
from jaxdistill.methods.policy_sums import definitions, kl, taken
from jaxdistill.methods.registry import sources_of
from jaxdistill.theory.precision import float64
from tests.methods.formula_reader import Scene, evaluate

KNOWN = {**METHODS, **ZOO, "n_distill_r": plus_reward("n_distill")}
NUM_ACTIONS = 5
VALUES = {  # of each number, besides its default; every one is in its domain
    "alpha": [0.05, 0.9],
    "beta": [0.1, 0.9],
    "clip": [0.01, 0.5],
    "entropy": [0.0, 0.7],
    "epsilon": [1e-3, 1.0],
    "floor": [0.0],
    "half": [0.2],
    "k": [1, 3, 5, 9],
    "kl": [2.0],
    "power": [0.1, 0.9],
    "scale": [0.5, 2.0],
    "skew": [0.01, 0.8],
    "temperature": [0.5, 5.0],
    "threshold": [0.2, 1.4, 9.0],
    "weight": [0.1, 1.0],
}
ENDS = {"gkd": [{"beta": 0.0}, {"beta": 1.0}]}
SHARP = 3.0  # the scale of the logits of a step, so that the clamps of k3 are reached in some of them


def variants(name):
    """The method with its numbers as they are, and with each of them changed."""
    params = KNOWN[name].params
    changed = [{number: value} for number in params for value in VALUES[number]] + ENDS.get(name, [])
    return [dict(params), *({**params, **change} for change in changed)]


@dataclasses.dataclass
class Case:
    """Two steps that follow each other, as the code and as the reader see them."""

    logits: np.ndarray
    steps: list
    scene: Scene


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def scene_of(logits, frozen, step, params):
    names = {"reward": "r_t", "discount": "gamma", "teacher_value": "V_pi(s_t)", "student_value": "V_theta(s_t)"}
    numbers = {text: float(step[name]) for name, text in names.items()} | params
    teacher, other = step["teacher_probs"], step["other_probs"][0]
    rows = {"pi": teacher, "ref": other, "pi_2": other}
    policies, held = ({**rows, "pi_theta": softmax(x)} for x in (logits, frozen))
    return Scene(numbers, policies, held, int(step["action"]), int(params.get("k", 0)))


def case_of(params, seed):
    """Two random steps; the teacher's probabilities are far above the floor, which is 0."""
    rng = np.random.default_rng(seed)
    fields = []
    for i in range(2):
        scale = SHARP if seed % 2 else 1.0
        fields.append(
            dict(
                student_logits=rng.normal(size=NUM_ACTIONS) * scale,
                teacher_probs=softmax(rng.normal(size=NUM_ACTIONS) * scale),
                other_probs=rng.dirichlet(np.ones(NUM_ACTIONS), 1),
                action=(seed + i) % NUM_ACTIONS,
                reward=rng.normal(),
                discount=0.9,
                student_value=rng.normal(),
                teacher_value=rng.normal(),
            )
        )
    fields[0]["next_teacher_value"] = fields[1]["teacher_value"]
    numbers = {name: jnp.asarray(value, float) for name, value in params.items()}
    steps = [
        make_step(**{k: jnp.asarray(v) for k, v in f.items()}, probability_floor=0.0, params=numbers) for f in fields
    ]
    scene, later = (scene_of(f["student_logits"], f["student_logits"], f, params) for f in fields)
    return Case(fields[0]["student_logits"], steps, dataclasses.replace(scene, later=later))


def moved(case, action, by):
    """The scene in which one live logit is changed; what is frozen stays."""
    logits = case.logits.copy()
    logits[action] += by
    policies = {**case.scene.policies, "pi_theta": softmax(logits)}
    return dataclasses.replace(case.scene, policies=policies)


def read_gradient(text, lines, case, width=1e-5):
    """The central differences of a formula as it is read."""
    ends = [[evaluate(text, lines, moved(case, a, side * width)) for side in (1, -1)] for a in range(NUM_ACTIONS)]
    return np.array([(high - low) / (2 * width) for high, low in ends])


@pytest.mark.parametrize("name", KNOWN)
def test_the_formula_is_what_the_functions_compute(name):
    method, formula = KNOWN[name], method_formula(KNOWN[name])
    equations, lines = dict(formula.lines()), formula.definitions()
    assert ("l_t" in equations, "rhat_t" in equations) == (method.loss is not None, method.has_return)
    with float64():
        for params in variants(name):
            for seed in range(2):
                case = case_of(params, seed)
                now, later = case.steps
                if method.loss is not None:
                    assert evaluate(equations["l_t"], lines, case.scene) == pytest.approx(
                        float(method.loss(now)), rel=1e-9, abs=1e-12
                    )
                    if seed == 0 or params == method.params:
                        slope = loss_gradient(method.loss, now)
                        np.testing.assert_allclose(read_gradient(equations["l_t"], lines, case), slope, 1e-6, 1e-7)
                if method.has_return:
                    parts = [(method.reward, now), (method.next_reward, later)]
                    expected = sum(float(fn(step)) for fn, step in parts if fn is not None)
                    assert evaluate(equations["rhat_t"], lines, case.scene) == pytest.approx(
                        expected, rel=1e-9, abs=1e-12
                    )


@pytest.mark.parametrize("name", [name for name, method in ZOO.items() if method.gradient_of != NO_LOSS])
def test_the_formula_of_a_claim_is_the_claimed_loss(name):
    """Up to 1e-6, because a formula shows seven digits of the constants of `forward_kl_flat`."""
    for claimed in (ZOO[name].state_loss, ZOO[name].total_loss):
        if claimed is None:
            continue
        formula = formulas.formula_of(claimed)
        with float64():
            for params in variants(name):
                for seed in range(2):
                    case = case_of(params, seed)
                    value = evaluate(formula.text, definitions(formula), case.scene)
                    assert value == pytest.approx(float(claimed(case.steps[0])), rel=1e-6, abs=1e-9)


def test_the_reader_tells_formulas_apart():
    """Signs, the order of policies, indices, steps, stopped gradients and sets change what is read."""
    case = case_of({"k": 2}, 0)
    p, q, a = case.scene.policies["pi"], case.scene.policies["pi_theta"], case.scene.action
    lines = definitions(formulas.formula_of(ZOO["reverse_kl"].loss), formulas.formula_of(ZOO["top_k_opd"].loss))
    expected = {
        "1 - 2 - 3": -4,
        "-2^2 / 8 + 1": 0.5,
        "(1 - 2) 3 / 6": -0.5,
        "pi(a_t)": p[a],
        "KL(pi||pi_theta)": np.sum(p * np.log(p / q)),
        "KL(pi_theta||pi)": np.sum(q * np.log(q / p)),
        "sum_{a in S} pi(a)": p[np.argsort(-q)[:2]].sum(),
        "|S| - 1[pi(a_t) > 2]": 2,
        "log pi(a_{t+1})": np.log(case.scene.later.policies["pi"][case.scene.later.action]),
        "max(min(r_t, 0), -9)": max(min(case.scene.numbers["r_t"], 0), -9),
        "1 if r_t = 99, 2 otherwise": 2,
    }
    for text, value in expected.items():
        assert evaluate(text, lines, case.scene) == pytest.approx(value), text
    assert np.abs(read_gradient("sg[log pi_theta(a_t)]", [], case)).max() == 0
    assert np.abs(read_gradient("log pi_theta(a_t)", [], case)).max() > 0.1


# --- How formulas are written -------------------------------------------------------------------------------------


def test_formulas_as_text_and_as_latex():
    beta = Symbol("beta")
    expected = {
        kl(PI, STUDENT) / 2: ("pi log(pi / pi_theta) / 2", r"\frac{\pi \, \log \frac{\pi}{\pi_\theta}}{2}"),
        taken(-log(PI / STUDENT)): ("-log(pi(a_t) / pi_theta(a_t))", r"-\log \frac{\pi(a_t)}{\pi_\theta(a_t)}"),
        (1 - beta) * beta**2: ("(1 - beta) beta^2", r"(1 - \beta) \, \beta^{2}"),
        0 - (beta - 1): ("1 - beta", r"1 - \beta"),
        beta - (1 - beta): ("2 beta - 1", None),
        2 - (beta + 1) / beta / 3: ("2 - ((beta + 1) / beta) / 3", r"2 - \frac{\frac{\beta + 1}{\beta}}{3}"),
        1 * beta + 0: ("beta", r"\beta"),
        0 - (-beta) * Number(-2): ("beta (-2)", None),
    }
    for formula, (text, latex) in expected.items():
        assert formula.text == text and latex in (None, formula.latex)


def test_a_formula_follows_from_how_a_function_is_composed():
    """Also for a composition that no objective uses, and none follows where a part has no formula."""
    composed = negated(total(top_k(total_of_k2, "student", renormalise="both")))
    assert composed.formula.text == "-sum_{a in S} (log(pi_theta_S(a) / pi_S(a)))^2 / 2"
    assert negated(lambda step: step.reward).formula is None
    with pytest.raises(formulas.WithoutFormula):
        formulas.formula_of(negated(lambda step: step.reward))


@formulas.states(log(STUDENT / PI) ** 2 / 2)
def total_of_k2(rows, params):
    return rows.log_ratio**2 / 2


def bonus(step):
    """A bonus of one.

    It is always the same.
    """
    return jnp.ones_like(step.reward)


def test_a_function_without_a_formula_is_written_as_its_docstring():
    formula = method_formula(Method("bonus", reward=bonus, next_reward=sampled(total_of_k2)))
    rhat = "A bonus of one + (log(pi_theta(a_{t+1}) / pi(a_{t+1})))^2 / 2"
    assert formula["rhat_t"].text == rhat
    assert formula["g"].text == "-E_pi_theta sum_t Rhat_t grad log pi_theta(a_t)"


def test_returns():
    """What the method fixes is in its formula."""
    returns = {
        "k1_reward": "rhat_t",
        "gamma_opd": "sum_{i>=t} 0.92^(i-t) rhat_i",
        "k1_return": "sum_{i>=t} rhat_i",
        "kl_regularised": "sum_{i>=t} gamma^(i-t) rhat_i - V_theta(s_t)",
        "td_v0": "rhat_t",
        "td_vpi": "rhat_t + gamma V_pi(s_{t+1})",
    }
    assert {name: method_formula(KNOWN[name])["Rhat_t"].text for name in returns} == returns
    gradients = {
        "teacher_distill": "E_pi sum_t grad l_t",
        "n_distill": "E_pi_theta sum_t (grad l_t - Rhat_t grad log pi_theta(a_t))",
        "gkd": "E_q sum_t grad l_t",
    }
    assert {name: method_formula(KNOWN[name])["g"].text for name in gradients} == gradients


def test_every_method_has_sources_with_addresses():
    for name, method in {**METHODS, **ZOO}.items():
        assert sources_of(name), name
        assert all(
            re.fullmatch(r"https?://\S+", source.url) and source.kind in ("paper", "library")
            for source in sources_of(name)
        )
        assert not isinstance(method, Objective) or method.source == "; ".join(map(str, method.sources))
    assert sources_of("n_distill_r") == sources_of("n_distill")
    assert sources_of(Method("unknown", reward=bonus)) == ()


def test_formulas_in_latex_are_complete():
    """Braces are closed, and every command is one that LaTeX or amsmath has."""
    known = {"pi", "theta", "log", "frac", "text", "sum", "mathbb", "alpha", "beta", "gamma", "epsilon", "nabla", "min"}
    known |= {"max", "exp", "sqrt", "in", "geq", "quad", ",", "|"}
    for name, method in KNOWN.items():
        formula = method_formula(method)
        claims = [getattr(method, name, None) for name in ("state_loss", "total_loss")]
        claimed = [formulas.formula_of(claim) for claim in claims if claim is not None]
        texts = [part for line in formula.lines(latex=True) for part in line] + formula.definitions(latex=True)
        texts += [claim.latex for claim in claimed] + definitions(*claimed, latex=True)
        for text in texts:
            assert text.count("{") == text.count("}"), f"{name}: {text}"
            assert set(re.findall(r"\\([A-Za-z]+|.)", text)) <= known, f"{name}: {text}"
