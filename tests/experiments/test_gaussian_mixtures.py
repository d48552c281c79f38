"""Mixtures of Gaussians against closed forms, scipy's quadrature and brute force, and the claims of Figs. 11 to 13."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from experiments import common, fig11, fig12, fig13, gaussian_mixtures
from tests.plotting import ambient

PEAKS = np.array([-1.5, -0.5, 0.5, 1.5])
UNEVEN = dict(means=[-1.0, 0.2, 2.0], scales=[0.3, 0.8, 0.5], weights=[1.0, 2.0, 5.0])


def numpy_density(mixture, x):
    arrays = (mixture.means, mixture.scales, mixture.weights)
    means, scales, weights = (np.asarray(array, np.float64) for array in arrays)
    return stats.norm.pdf(np.asarray(x)[..., None], means, scales) @ weights


def numpy_kl(p, q):
    """KL(p||q) by scipy's adaptive quadrature, on pieces that are short enough to miss no peak."""

    def integrand(x):
        a, b = numpy_density(p, x), numpy_density(q, x)
        return a * (np.log(a) - np.log(b)) if a > 1e-200 and b > 0 else 0.0

    centres = np.concatenate([p.means, q.means]).astype(float)
    edges = np.unique(np.concatenate([centres, centres - 0.5, centres + 0.5, [-6, 6]]))
    return sum(integrate.quad(integrand, a, b, limit=200)[0] for a, b in itertools.pairwise(edges))


# --- densities and KL -------------------------------------------------------------------------------------


def test_density_is_a_weighted_sum_that_integrates_to_one():
    mixture = gaussian_mixtures.mixture(**UNEVEN)
    x = np.linspace(-6, 8, 2001).reshape(3, 667)
    density = np.exp(gaussian_mixtures.log_density(mixture, jnp.asarray(x, float)))
    np.testing.assert_allclose(density, numpy_density(mixture, x), rtol=1e-4)
    assert integrate.trapezoid(density.ravel(), x.ravel()) == pytest.approx(1, abs=1e-5)
    assert gaussian_mixtures.mixture([1, 2], 0.5).weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("m", "s"), [(0.0, 0.3), (1.5, 1.0), (-2.0, 0.1), (0.4, 2.0)])
def test_kl_of_two_gaussians_has_a_closed_form(m, s):
    p, q = gaussian_mixtures.mixture(m, s), gaussian_mixtures.mixture(0.4, 0.7)
    exact = np.log(0.7 / s) + (s**2 + (m - 0.4) ** 2) / (2 * 0.7**2) - 0.5
    assert float(gaussian_mixtures.kl_divergence(p=p, q=q)) == pytest.approx(exact, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("direction", gaussian_mixtures.DIRECTIONS)
def test_kl_of_mixtures_is_the_integral(direction):
    target, fit = gaussian_mixtures.mixture(PEAKS, 0.2), gaussian_mixtures.mixture(**UNEVEN)
    p, q = (target, fit) if direction == "forward" else (fit, target)
    assert float(gaussian_mixtures.divergence(direction, target, fit)) == pytest.approx(numpy_kl(p, q), rel=1e-4)


def test_the_mass_of_a_wide_fit_counts():
    """The KL of a Gaussian grows without bound with its width, also where it is wider than any grid over the target."""
    target = gaussian_mixtures.mixture(PEAKS, 0.1)
    kls = [
        float(gaussian_mixtures.divergence("reverse", target, gaussian_mixtures.mixture(0.0, s)))
        for s in (1.0, 10.0, 100.0)
    ]
    assert kls == sorted(kls) and kls[-1] > 1e5


# --- fits against brute force -----------------------------------------------------------------------------

fit = functools.partial(gaussian_mixtures.fit, jax.random.key(1), num_restarts=16, num_steps=300, learning_rate=0.1)


@functools.partial(jax.jit, static_argnames="direction")
def brute_force(target, grid, direction):
    """KL of one Gaussian at every (mean, scale) of the grid [N, 2]."""

    def kl(point):
        gaussian = gaussian_mixtures.Mixture(point[:1], point[1:], jnp.ones(1))
        return gaussian_mixtures.divergence(direction, target, gaussian, nodes_per_scale=16)

    return jax.lax.map(kl, grid, batch_size=256)


@pytest.mark.parametrize("direction", gaussian_mixtures.DIRECTIONS)
@pytest.mark.parametrize(
    "target", [(PEAKS, 0.1), ([-0.7, 0.8, 0.8, 0.3], [0.3, 0.5, 0.2, 0.1])], ids=["peaks", "uneven"]
)
def test_the_fit_of_one_gaussian_is_that_of_brute_force(direction, target):
    target = gaussian_mixtures.mixture(*target)
    means, scales = jnp.linspace(-2, 2, 161), jnp.exp(jnp.linspace(np.log(0.05), np.log(2.0), 121))
    grid = jnp.stack(jnp.meshgrid(means, scales, indexing="ij"), -1).reshape(-1, 2)
    kls = brute_force(target, grid, direction)
    best = fit(target, 1, direction, free=("means", "scales"))
    lowest = float(kls.min())
    assert lowest - 5e-3 < float(best.kl) < lowest + 1e-3  # between the points of the grid it may be a little lower
    equal = grid[kls < lowest + 1e-3]  # all peaks are equally good
    fitted = jnp.array([best.best.means[0], best.best.scales[0]])
    assert float(jnp.abs(equal - fitted).max(axis=1).min()) < 0.05
    if direction == "forward":  # the moments are the closed form for a single Gaussian
        mean = float(target.weights @ target.means)
        variance = float(target.weights @ (target.scales**2 + (target.means - mean) ** 2))
        np.testing.assert_allclose(fitted, [mean, np.sqrt(variance)], atol=5e-3)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of the smoke runs of Figs. 11 to 13."""
    outdir = tmp_path_factory.mktemp("mixtures")
    for module in (fig11, fig12, fig13):
        module.work(settings(module, outdir))
    return outdir


def settings(module, outdir, **changes):
    name = module.__name__.rpartition(".")[2]
    return module.Settings(**(module.SMOKE | {"out": str(outdir / name)} | changes))


def parts(module, outdir):
    name = module.__name__.rpartition(".")[2]
    arrays = {}
    for path in (outdir / name).glob("*.npz"):
        with np.load(path) as file:
            arrays[path.stem] = dict(file)
    return arrays


def test_the_fit_of_two_means_is_that_of_brute_force(smoke):
    """Fig. 12's second column is at most half a step away from a minimum of Fig. 13's grid, and as low."""
    fits, tables = parts(fig12, smoke), parts(fig13, smoke)
    for direction, number in (("forward", 2), ("reverse", 12)):
        grid = tables[direction]["grid"]
        minima = fig13.minima(tables[direction])
        assert len(minima) == number
        means = fits[direction]["means"][1, :2]
        assert np.abs(minima - means).max(axis=1).min() <= 0.5 * (grid[1] - grid[0])
        assert fits[direction]["kl"][1] == pytest.approx(tables[direction]["kl"].min(), abs=2e-3)


def test_the_landscape_is_the_kl():
    target, first, second = gaussian_mixtures.mixture(PEAKS, 0.1), [-1.5, 0.3], [1.0, 0.5, -0.2]
    for direction in gaussian_mixtures.DIRECTIONS:
        table = gaussian_mixtures.landscape(target, first, second, 0.1, direction)
        assert table.shape == (2, 3)
        pair = gaussian_mixtures.mixture([first[1], second[2]], 0.1)
        assert float(table[1, 2]) == pytest.approx(
            float(gaussian_mixtures.divergence(direction, target, pair)), rel=1e-5
        )


def test_local_minima_by_hand():
    table = [[0, 5, 5, 1], [5, 4, 5, 5], [5, 5, 5, 3], [2, 5, 3, 2]]
    assert np.argwhere(gaussian_mixtures.local_minima(table)).tolist() == [[0, 0], [0, 3], [3, 0], [3, 3]]


# --- what the figures claim -------------------------------------------------------------------------------


def test_figure_11_matches_the_closed_form(smoke):
    data = parts(fig11, smoke)["minimisers"]
    np.testing.assert_allclose(data["forward"], data["policies"], atol=1e-3)
    dirac = np.eye(data["policies"].shape[1])[data["policies"].argmax(axis=1)]
    np.testing.assert_allclose(data["reverse"], dirac, atol=1e-3)
    assert all("agrees" in line for line in fig11.report(data))
    wrong = data | {"forward": data["reverse"]}
    assert sum("NOT CONVERGED" in line for line in fig11.report(wrong)) == len(data["policies"])


def test_figure_11_divides_the_mass_between_equal_maxima(tmp_path):
    data = fig11.run(fig11.Settings(out=str(tmp_path), policies=["0.4 0.4 0.2"]))
    np.testing.assert_allclose(data["reverse"], [[0.5, 0.5, 0]], atol=1e-3)
    np.testing.assert_allclose(fig11.closed_form(data["policies"])["reverse"], [[0.5, 0.5, 0]])


def test_figure_12_seeks_means_above_and_modes_below(smoke):
    data = parts(fig12, smoke)
    forward, reverse = data["forward"], data["reverse"]
    assert forward["means"][0, 0] == pytest.approx(0, abs=0.01)  # between all peaks
    np.testing.assert_allclose(forward["means"][1, :2], [-1, 1], atol=0.01)  # each between two peaks
    for i in range(4):
        nearest = np.abs(reverse["means"][i, : i + 1, None] - PEAKS)
        assert nearest.min(axis=1).max() < 0.01
        assert len(set(nearest.argmin(axis=1))) == i + 1  # each Gaussian has a peak of its own
        assert reverse["kl"][i] == pytest.approx(np.log(4 / (i + 1)), abs=1e-3)
    for fits in (forward, reverse):  # four Gaussians fit the mixture exactly
        np.testing.assert_allclose(fits["means"][3], PEAKS, atol=0.01)
        assert abs(fits["kl"][3]) < 1e-4
        assert np.isfinite(fits["kls"]).all() and (fits["kls"].min(axis=1) == fits["kl"]).all()
        assert ((fits["reached"] >= 1) & (fits["reached"] <= 16)).all()
        assert (np.diff(fits["kl"]) < 0).all()


def test_figure_13_has_the_minima_of_the_paper(smoke):
    data = parts(fig13, smoke)
    assert {tuple(np.round(pair, 2)) for pair in fig13.minima(data["forward"])} == {(-1, 1), (1, -1)}
    pairs = {(a, b) for a in PEAKS for b in PEAKS if a != b}
    assert {tuple(np.round(pair, 2)) for pair in fig13.minima(data["reverse"])} == pairs
    for part in data.values():
        assert np.isfinite(part["kl"]).all() and part["kl"].min() > -1e-5
        np.testing.assert_allclose(part["kl"], part["kl"].T, rtol=1e-3, atol=1e-3)
        kept = fig13.ends(part)
        assert len(kept) and fig13.distance(kept, fig13.minima(part)) < 0.05  # the descent agrees with brute force
        assert part["fitted_kl"].min() > part["kl"].min() - 0.01


@pytest.mark.parametrize("module", [fig11, fig12, fig13])
def test_the_second_call_draws_without_running(module, smoke, monkeypatch):
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, "run", lambda *_: pytest.fail("ran again"))
    again = functools.partial(module.work, settings(module, smoke))
    ambient.assert_drawn_again(smoke / name / f"{name}.png", again, monkeypatch)
    assert (smoke / name / f"{name}.png").stat().st_size > 10_000
    assert (smoke / name / f"{name}.pdf").stat().st_size > 10_000


@pytest.mark.parametrize("module", [fig11, fig12, fig13])
def test_nothing_is_cut_off(module, smoke):
    data = parts(module, smoke)
    if module is fig11:
        data = data["minimisers"]
    figure = module.plot(settings(module, smoke), data)
    figure.canvas.draw()
    drawn, page = figure.get_tightbbox(), figure.bbox_inches.padded(0.01)
    assert page.contains(drawn.x0, drawn.y0) and page.contains(drawn.x1, drawn.y1)


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (fig11, {"policies": ["0.5 x"]}, "numbers separated by spaces"),
        (fig11, {"policies": ["0.5 0.6"]}, "sum to 1"),
        (fig11, {"policies": ["1 0"]}, "positive probabilities"),
        (fig11, {"policies": ["0.5 0.5", "0.2 0.3 0.5"]}, "same number of actions"),
        (fig11, {"policies": []}, "at least one policy"),
        (fig11, {"num_steps": 0}, "--num_steps"),
        (fig12, {"means": ["0", "x"]}, "--means must be numbers"),
        (fig12, {"scale": 0.0}, "scales must be finite and positive"),
        (fig12, {"weights": ["1"]}, "got shapes"),
        (fig12, {"weights": ["1", "1", "-1", "1"]}, "weights must be finite and positive"),
        (fig12, {"free": ["variances"]}, "means, scales, weights"),
        (fig12, {"max_components": 0}, "--max_components"),
        (fig12, {"num_restarts": 0}, "--num_restarts"),
        (fig13, {"learning_rate": float("nan")}, "--learning_rate"),
        (fig13, {"grid_size": 2}, "--grid_size"),
        (fig13, {"grid_reach": -1.0}, "--grid_reach"),
    ],
)
def test_bad_settings(module, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as info:
        module.work(settings(module, tmp_path, **changes))
    assert "\n" not in str(info.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "sideways"}, "forward, reverse"),
        ({"free": ()}, "Nothing is free"),
        ({"free": ("modes",), "scale": 0.1}, "means, scales, weights"),
        ({"free": ("means",)}, "positive scale exactly where"),
        ({"scale": 0.1}, "positive scale exactly where"),
        ({"free": ("means",), "scale": -1.0}, "positive scale exactly where"),
        ({"num_components": 0}, "at least 1"),
    ],
)
def test_fit_refuses(changes, message):
    arguments = dict(target=gaussian_mixtures.mixture(PEAKS, 0.1), num_components=2, direction="forward") | changes
    with pytest.raises(ValueError, match=message):
        gaussian_mixtures.fit(jax.random.key(0), **arguments)


def test_flags_of_lists_are_numbers():
    line = ["fig12", "--smoke", "--means=-1,0.5", "--weights=1,3", "--scale=0.2"]
    parsed = common.parse(fig12.Settings, "fig12", fig12.SMOKE, line)
    mixture = parsed.mixture()
    np.testing.assert_allclose(mixture.means, [-1, 0.5])
    np.testing.assert_allclose(mixture.weights, [0.25, 0.75])
    assert parsed.num_restarts == fig12.SMOKE["num_restarts"]
