"""Domains of numbers: every number of every method has one, and what is outside is refused at every door."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from jaxdistill import METHODS, ZOO, Method, check_method, expected_update, flows, stack, train
from jaxdistill.cli.main import main
from jaxdistill.methods import Domain, check_functions, combinators, reads
from jaxdistill.methods import step_functions as fns
from tests import small

KNOWN = {**METHODS, **ZOO}
NUMBERS = [(name, param) for name, method in KNOWN.items() for param in method.params]


def outside(domain):
    """Numbers that a domain leaves out, one of each kind."""
    numbers = [np.nan, np.inf, -np.inf, 1e39, "1", [0.5, None]]
    if np.isfinite(domain.least):
        below = [domain.least - 0.3, -1e30, np.nextafter(domain.least, -1)]
        numbers += below + [domain.least, 1e-40 + domain.least] * (domain.open in ("least", "both"))
    if np.isfinite(domain.most):
        above = [domain.most + 0.5, 1e30, np.nextafter(domain.most, np.inf)]
        numbers += above + [domain.most, domain.most - 1e-9] * (domain.open in ("most", "both"))
    return numbers + [1.5, 2.001] * domain.whole


def inside(domain):
    if domain.whole:
        return [1, 2.0, np.int32(4), 100, np.array([1, 7])]
    least, most = max(domain.least, -5), min(domain.most, 5)
    ends = [x for x, end in ((least, "least"), (most, "most")) if domain.open not in (end, "both")]
    return [*ends, least + 1e-6, most - 1e-6, np.float32(least + most) / 2, np.array([0.25, 0.5])]


def refused(make, *words):
    """The error of one line, which holds these words."""
    with pytest.raises(ValueError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_every_number_of_every_method_has_a_domain_that_holds_its_value():
    assert len(NUMBERS) == 43
    for name, method in KNOWN.items():
        assert set(method.domains) == set(method.params), name


@pytest.mark.parametrize(("name", "param"), NUMBERS)
def test_a_number_outside_its_domain_is_refused_where_the_method_is_made(name, param):
    """The message names the method, the number and what it must be; numbers inside are taken."""
    method, domain = KNOWN[name], KNOWN[name].domains[param]
    for number in outside(domain):
        for value in (number, np.array([method.params[param], number], object if isinstance(number, list) else None)):
            refused(lambda v=value: dataclasses.replace(method, params={**method.params, param: v}), name, "must be")
    refused(lambda: dataclasses.replace(method, params={**method.params, param: -1e39}), name)
    for number in outside(domain)[6:]:
        refused(
            lambda v=number: dataclasses.replace(method, params={**method.params, param: v}),
            f"Method '{name}': {param} must be {domain}; got {number!r}", domain.note,
        )  # fmt: skip
    for number in inside(domain):
        changed = dataclasses.replace(method, params={**method.params, param: number})
        assert pickle.loads(pickle.dumps(changed)) == changed


def stack_of_one(teacher):
    return jax.tree.map(lambda x: np.asarray(x)[None], teacher)


DOORS = {
    "train": lambda m, mdp, teacher: train(jax.random.key(0), mdp, teacher, m, num_iterations=1, progress=False),
    "expected_update": lambda m, mdp, teacher: expected_update(mdp, teacher, m, np.zeros((4, 3))),
    "check_method": lambda m, mdp, teacher: check_method(m, mdps=stack([mdp]), teacher=stack_of_one(teacher)),
    "flow": lambda m, mdp, teacher: flows.flow(mdp, teacher, m, num_steps=1, num_records=1),
}


@pytest.mark.parametrize("door", DOORS)
def test_numbers_that_were_changed_or_left_out_later_are_refused_at_every_door(door):
    """A mapping can be changed after the method was made, and a method can be made without its numbers."""
    mdp = small.random_mdp(0)
    teacher = small.random_teacher(mdp, 0)
    for name, param in NUMBERS:
        method = dataclasses.replace(KNOWN[name], params=dict(KNOWN[name].params))
        method.params[param] = np.float64(-1e6 if np.isfinite(method.domains[param].least) else np.inf)
        refused(lambda m=method: DOORS[door](m, mdp, teacher), f"Method '{name}': {param} must be")
        method = dataclasses.replace(method, params={k: v for k, v in KNOWN[name].params.items() if k != param})
        refused(lambda m=method: DOORS[door](m, mdp, teacher), f"reads the number '{param}'", "not in its params")


def test_ends_where_nothing_is_trained_point_to_what_to_use_instead():
    def changed(name, **params):
        return lambda: dataclasses.replace(ZOO[name], params={**ZOO[name].params, **params})

    for beta in (0, 1):
        refused(changed("jsd", beta=beta), "the gradient vanishes; use gkd or jsd_normalised, whose limits are the KLs")
        assert changed("gkd", beta=beta)() and changed("jsd_normalised", beta=beta)()
    refused(changed("top_d", alpha=1.0), "1 is the objective k1_reward")
    refused(changed("skew_forward_kl", skew=1), "At 1 the gradient vanishes")
    refused(changed("jsd", beta=1 - 1e-12), "beta must be in [1e-06, 0.999999]; got 0.999999999999.")
    refused(changed("top_d", alpha=1e-12), "alpha must be in [1e-06, 0.999999]; got 1e-12")
    for beta in (1e-30, 1e-7, 1 - 1e-7):
        refused(changed("gkd", beta=beta), "beta must be 0, 1 or in [1e-06, 0.999999]; got", "the scale jumps there")
    refused(changed("exopd", floor=1 - 1e-12), "got 0.999999999999, which is outside in float32")


# --- Methods of one's own -----------------------------------------------------------------------------------------


def test_domains_follow_the_functions_through_combinators():
    """A method of parts has the domains of its parts; of a number that two parts read, what both accept."""
    warm = combinators.total(combinators.tempered(combinators.clipped(fns.FORWARD_KL)))
    reward = combinators.negated(combinators.weighted(fns.k1, "clip"))
    method = Method("warm", loss=warm, reward=reward, params={"temperature": 2.0, "clip": 0.5})
    assert method.domains == {"temperature": Domain(1e-3, 1e3), "clip": Domain(0, open="least")}
    renamed = combinators.total(combinators.numbered(lambda rows, x: rows.log_ratio * x, "x"))
    assert Method("m", renamed, params={"x": 1e30}).domains == {}

    @reads(tau=Domain(0, 2, "most", note="At 2 it is something else."), temperature=Domain(1, 3))
    def mine(step):
        return step.params["tau"] * warm(step)

    both = Method("mine", loss=combinators.added(mine, warm), params={"tau": 1.0, "temperature": 2.0, "clip": 1.0})
    assert both.domains["temperature"] == Domain(1, 3)
    refused(
        lambda: dataclasses.replace(both, params={"tau": 2}),
        "Method 'mine': tau must be in [0, 2); got 2. At 2 it is something else.",
    )


DOMAINS = {
    "finite": Domain(),
    "> 0": Domain(0, open="least"),
    ">= -1": Domain(-1),
    "< 3": Domain(most=3, open="most"),
    "<= 3": Domain(most=3),
    "in [0, 1]": Domain(0, 1),
    "0, 1 or in [0.25, 0.75]": Domain(0, 1, gap=0.25),
    "in (0, 1]": Domain(0, 1, "least"),
    "a whole number >= 1": Domain(1, whole=True),
    "a whole number in [1, 5)": Domain(1, 5, "most", whole=True),
    "a whole number": Domain(whole=True),
}


@pytest.mark.parametrize("text", DOMAINS)
def test_a_domain_in_words_and_its_intersections(text):
    domain, numbers = DOMAINS[text], [-2, -1, -0.5, 0, 0.5, 1, 2, 3, 4.5, 5, 6]
    assert str(domain) == text

    def holds(domain, number):
        try:
            domain.check("x", number)
        except ValueError:
            return False
        return True

    for other in DOMAINS.values():
        for number in numbers:
            assert holds(domain & other, number) == (holds(domain, number) and holds(other, number)), (other, number)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Domain(1, 0), "A Domain needs least <= most; got 1 and 0"),
        (lambda: Domain(0, 1, open="left"), "open of a Domain must be '', 'least', 'most' or 'both'; got 'left'"),
        (lambda: Domain("0"), "must hold real numbers"),
        (lambda: combinators.clamped(fns.k1), "without them it does nothing"),
        (lambda: combinators.clamped(fns.k1, 1, 0), "clamped needs least <= most; got 1 and 0"),
        (lambda: combinators.clamped(fns.k1, np.nan), "clamped needs least <= most; got nan"),
        (lambda: combinators.clamped(fns.k1, "0"), "must hold real numbers"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    refused(make, message)


def test_a_traced_number_is_not_checked():
    jax.jit(lambda beta: dataclasses.replace(ZOO["jsd"], params={"beta": beta}).params["beta"])(0.0)


# --- In words -----------------------------------------------------------------------------------------------------


def test_the_command_line_lists_the_domains(capsys):
    for name in ("jsd", "eopd", "exopd"):
        assert main(["methods", name]) == 0
        text = capsys.readouterr().out
        for param, domain in ZOO[name].domains.items():
            assert f"{param} = {ZOO[name].params[param]:g}, {domain}" in text
            assert domain.note in text


def test_a_number_that_is_misspelt_is_refused():
    """A number that the functions do not read, and whose name is almost that of one which they read."""
    method = dataclasses.replace(ZOO["gkd"], params={"beta": 0.5, "betta": 0.9})
    with pytest.raises(ValueError, match="does not read the number 'betta'; did you mean 'beta'"):
        check_functions(method, 3)
    check_functions(dataclasses.replace(ZOO["gkd"], params={"beta": 0.5, "temperature": 0.9}), 3)
