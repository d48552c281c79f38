"""Figures: their numbers, their styles, and that no text is cut off."""

import dataclasses
import types

import matplotlib

matplotlib.use("Agg")

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from experiments import fig4, fig10
from jaxdistill import plotting, statistics
from jaxdistill.methods import METHODS
from jaxdistill.results.result import Result
from jaxdistill.worlds.gridworld import from_text, sample_mdps


@pytest.fixture(autouse=True)
def settings_stay():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before, "drawing changed the user's settings"


def make_result(labels=("baseline", "n_distill"), num_mdps=6, num_checkpoints=30, **changes):
    rng = np.random.default_rng(0)
    shape = (len(labels), num_mdps, num_checkpoints)
    fields = dict(
        labels=labels,
        mdp_ids=np.arange(num_mdps),
        iterations=np.linspace(1000, 30000, num_checkpoints).astype(int),
        returns=rng.normal(size=shape) + np.arange(len(labels))[:, None, None],
        lengths=10 + rng.normal(size=shape),
        final_returns=rng.normal(size=shape[:2]),
        teacher_returns=np.full(shape[:2], 7.0),
        uniform_returns=np.full(num_mdps, -2.0),
        optimal_returns=np.full(num_mdps, 9.0),
    )
    return Result(**(fields | changes))


def make_world(num_actions=4):
    """Three rows and five columns: not square, so that a swapped row and column shows."""
    text = ["S.#.a", ".b...", "#...c"]
    rewards = {"a": (10.0, True), "b": (-1.0, False), "c": (-5.0, True)}
    cells = np.array([list(row) for row in text])
    reward, terminal = np.zeros(cells.shape), np.zeros(cells.shape, bool)
    for letter, (value, ends) in rewards.items():
        reward[cells == letter], terminal[cells == letter] = value, ends
    grid = types.SimpleNamespace(wall=cells == "#", reward=reward, terminal=terminal, start=np.array([0, 0]))
    return types.SimpleNamespace(grid=grid, num_actions=num_actions)


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def assert_nothing_is_cut_off(figure):
    """Every text and legend lies inside the figure once the layout is done."""
    figure.canvas.draw()
    page = figure.bbox.padded(1.0)
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(ax.get_tightbbox()) for ax in figure.axes)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text():
            box = text.get_window_extent()
            corners = (box.x0, box.y0), (box.x1, box.y1)
            inside = all(page.contains(*corner) for corner in corners)
            # Tick labels beyond the limits of an axis exist but are not drawn.
            assert inside or not text.axes or text.get_text() in beyond_limits(text.axes), text.get_text()


def beyond_limits(ax):
    texts = []
    for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
        texts += [t.label1.get_text() for t in axis.get_major_ticks() if not low <= t.get_loc() <= high]
    return texts


# --- styles -----------------------------------------------------------------------------------------------


def test_every_method_has_its_own_style():
    assert set(plotting.STYLES) == set(fig4.KNOWN)
    styles = list(plotting.STYLES.values())
    assert len({item.marker for item in styles}) == len(styles)  # the markers distinguish the methods without colour
    assert len({item.label for item in styles}) == len(styles)
    assert len({item.color for item in styles}) >= len(styles) - 2  # petroff10 and black are eleven colours
    assert {item.color for item in styles} <= {"black", *plotting.PALETTE}
    assert ":" not in {item.linestyle for item in styles}  # dotted is for references


def test_the_methods_of_a_figure_differ_in_more_than_the_marker():
    fig8 = set(METHODS) - {"teacher_distill", "n_distill", "exp_entropy_regularised"}
    for names in (fig8, set(fig10.METHODS)):
        styles = [plotting.STYLES[name] for name in names]
        assert len({item.color for item in styles}) == len(styles)
        for i, a in enumerate(styles):
            for b in styles[:i]:
                grey = abs(np.dot(np.subtract(to_rgb(a.color), to_rgb(b.color)), [0.299, 0.587, 0.114]))
                assert grey > 0.01 or a.linestyle != b.linestyle, (a.label, b.label)


def test_methods_that_are_not_in_the_table_get_different_styles():
    styles = [plotting.method_style(f"mine_{i}", i) for i in range(20)]
    assert len({item._replace(label="") for item in styles}) == 20
    assert [item.label for item in styles[:2]] == ["mine_0", "mine_1"]
    assert plotting.method_style("td_v0", 3) is plotting.STYLES["td_v0"]


def test_other_methods_do_not_take_the_colour_of_a_known_one_in_the_figure():
    labels = ["mine", "on_policy_distill", *(f"mine_{i}" for i in range(12)), "entropy_regularised", "td_v0"]
    styles = [plotting.method_style(*pair) for pair in zip(labels, plotting.palette_indices(labels), strict=True)]
    known = {plotting.STYLES[label].color for label in labels if label in plotting.STYLES}
    assert all(item.color not in known for label, item in zip(labels, styles, strict=True) if "mine" in label)
    assert len({item._replace(label="") for item in styles}) == len(labels)


# --- curves -----------------------------------------------------------------------------------------------


def test_curves_are_means_with_their_bands():
    returns = np.random.default_rng(1).normal(size=(9, 5))
    returns[0, 2] = np.nan
    _, ax = plt.subplots()
    line = plotting.plot_curves(ax, np.arange(5), returns, "td_vpi")
    expected = statistics.mean_interval(returns)
    np.testing.assert_allclose(line.get_ydata(), expected.estimate)
    np.testing.assert_allclose(line.get_ydata()[2], returns[1:, 2].mean())
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    for x in range(5):
        heights = corners[corners[:, 0] == x, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [expected.low[x], expected.high[x]])
    expected_style = plotting.STYLES["td_vpi"]
    assert line.get_color() == expected_style.color and line.get_marker() == expected_style.marker
    assert line.get_label() == expected_style.label


@pytest.mark.parametrize("num_mdps", [1, 2, 7, 8])
def test_a_panel_says_that_its_curves_have_no_band(num_mdps):
    """Once for all its curves, together with the students that are left out; not without the wish for a band."""
    returns = np.random.default_rng(num_mdps).normal(size=(num_mdps, 5))
    _, (ax, without) = plt.subplots(1, 2)
    for _ in range(2):
        plotting.plot_curves(ax, np.arange(5), returns)
        plotting.plot_curves(without, np.arange(5), returns, band=False)
    assert len(ax.collections) == (2 if num_mdps == 8 else 0)
    no_band = ["no band: it needs 8 different values"] if 1 < num_mdps < 8 else []
    assert [text.get_text() for text in ax.texts] == no_band and not without.texts
    plotting.plot_curves(ax, np.arange(5), np.full((2, 5), np.nan), band=False)
    assert ax.texts[0].get_text().splitlines()[-1] == f"2 of {2 * num_mdps * (num_mdps > 1) + 2} students left out"


def test_curves_take_labels_options_and_single_lines():
    _, ax = plt.subplots()
    iterations = np.arange(5)
    line = plotting.plot_curves(ax, iterations, np.arange(5.0), "mine", label="Mine", index=2, linewidth=3)
    assert line.get_label() == "Mine" and line.get_linewidth() == 3
    assert line.get_color() == plotting.PALETTE[2]
    plotting.plot_curves(ax, iterations, np.ones((4, 5)), band=False)
    assert not ax.collections  # neither one curve nor band=False has a band
    for wrong in (np.ones((5, 4)), np.ones((2, 4, 5)), np.ones(4)):
        with pytest.raises(ValueError, match=r"returns has shape .*, expected \(MDPs, 5\)"):
            plotting.plot_curves(ax, iterations, wrong)


@pytest.mark.parametrize("num_checkpoints", [1, 2, 5, 7, 100])
def test_every_curve_shows_its_marker(num_checkpoints):
    _, ax = plt.subplots()
    for method in plotting.STYLES:
        line = plotting.plot_curves(ax, np.arange(num_checkpoints), np.ones((2, num_checkpoints)), method)
        first, _ = line.get_markevery()
        assert first < num_checkpoints


def test_a_result_draws_itself():
    result = make_result()
    figure = result.plot(title="Worlds")
    (ax,) = figure.axes
    assert ax.get_xlabel() == "Iterations (episodes)" and ax.get_title() == "Worlds"
    assert ax.get_ylabel() == "Return per episode\n(undiscounted, sampled)"
    assert legend_texts(figure) == ["Baseline", "N-distill", "Teacher", "Uniform policy"]
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["N-distill"].get_ydata(), result.returns[1].mean(0))
    np.testing.assert_array_equal(lines["N-distill"].get_xdata(), result.iterations)
    assert set(lines["Teacher"].get_ydata()) == {7.0} and set(lines["Uniform policy"].get_ydata()) == {-2.0}
    assert lines["Teacher"].get_linestyle() == ":"
    figure.canvas.draw()
    assert "10k" in [tick.get_text() for tick in ax.get_xticklabels()]
    assert_nothing_is_cut_off(figure)


def test_a_result_draws_the_given_methods_and_references():
    result = make_result(teacher_returns=[[7.0] * 6, [5.0] * 6])
    figure = result.plot(labels=["n_distill", "baseline"], references=["optimal", "teacher"], band=False)
    assert legend_texts(figure) == [
        "N-distill", "Baseline", "Optimal policy", "Teacher of N-distill", "Teacher of Baseline",
    ]  # fmt: skip
    teachers = {line.get_label(): line for line in figure.axes[0].get_lines() if "Teacher" in line.get_label()}
    assert set(teachers["Teacher of N-distill"].get_ydata()) == {5.0}
    lengths = result.plot(quantity="lengths")
    assert lengths.axes[0].get_ylabel() == "Episode length (steps, sampled)"
    assert legend_texts(lengths) == ["Baseline", "N-distill"]
    without = make_result(teacher_returns=np.full((2, 6), np.nan))
    assert "Teacher" not in legend_texts(without.plot())
    _, axes = plt.subplots(1, 2)
    assert result.plot(axes[1]) is axes[1].figure
    assert axes[1].lines and not axes[0].lines and not axes[1].figure.legends


def test_a_picture_says_which_curves_are_exact():
    """In the label of the axis if all are alike, and in the legend if they are not."""
    mixed = make_result(curve_kind=("exact", "sampled"))
    figure = mixed.plot(references=[])
    assert legend_texts(figure) == ["Baseline (exact)", "N-distill (sampled)"]
    assert figure.axes[0].get_ylabel() == "Return per episode\n(undiscounted)"
    alone = mixed.plot(labels=["baseline"], references=[])
    assert legend_texts(alone) == ["Baseline"]
    assert alone.axes[0].get_ylabel() == "Return per episode\n(undiscounted, exact)"


def test_a_measure_is_drawn_with_its_name_and_unit():
    result = make_result()
    values = np.random.default_rng(0).normal(size=(*result.returns.shape, 2))
    names = {"names": ("forward_kl:teacher", "mine"), "known": {"forward_kl:teacher": "forward_kl:teacher"}}
    result = dataclasses.replace(
        result, measurements=values, measure_names=names["names"], settings={"measures": names["known"]}
    )
    ax = result.plot(measure="forward_kl:teacher").axes[0]
    assert ax.get_ylabel() == "Forward KL along the teacher's\ntrajectories (nats per step,\nexact)"
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {"Baseline", "N-distill"}  # no reference policies
    np.testing.assert_allclose(lines["N-distill"].get_ydata(), values[1, ..., 0].mean(0))
    assert result.plot(measure="mine").axes[0].get_ylabel() == "Mine"
    values[:, :, :-1, 1] = np.nan
    with pytest.raises(ValueError, match="known of the final students alone"):
        result.plot(measure="mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(measure="forward_kl"), "no measure 'forward_kl' in this result; it has none"),
        (dict(labels=["sgd"]), "no method 'sgd' in this result; it has baseline, n_distill"),
        (dict(quantity="regret"), "Unknown quantity 'regret'; the quantities are returns, lengths"),
        (
            dict(references=["expert"]),
            "Unknown reference 'expert'; the references are teacher, uniform, optimal",
        ),
    ],
)
def test_a_result_refuses_unknown_labels_quantities_and_references(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_result().plot(**arguments)


def test_a_figure_of_panels_has_one_legend_and_nothing_cut_off():
    result = make_result(labels=tuple(plotting.STYLES))
    figure, axes = plotting.new_figure(2, 4)
    assert axes.shape == (2, 4)
    for ax in axes.flat:
        result.plot(ax, title="TD(1) student, 25 % teacher noise")
    plotting.add_legend(figure)
    texts = legend_texts(figure)
    assert texts == [item.label for item in plotting.STYLES.values()] + ["Teacher", "Uniform policy"]
    assert_nothing_is_cut_off(figure)
    assert axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[0, 3])


# --- grid worlds ------------------------------------------------------------------------------------------


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0


def cell_pixels(figure, image, row, col, reach=0.5):
    """The pixels of one cell: the middle of it, `reach` cells to each side."""
    transform = figure.axes[0].transData
    (x0, y0), (x1, y1) = transform.transform([(col - reach, row + reach), (col + reach, row - reach)])
    height = image.shape[0]
    return image[round(height - y1) : round(height - y0), round(x0) : round(x1)]


def test_grid_has_the_colours_of_figure_7():
    world = make_world()
    figure = plotting.draw_grid(world)
    image = pixels(figure)
    for row in range(3):
        for col in range(5):
            corner = cell_pixels(figure, image, row - 0.3, col - 0.3, 0.1).mean((0, 1))  # beside the number
            red, green, blue = corner
            if world.grid.wall[row, col]:
                assert corner.max() < 0.05
            elif (row, col) == (0, 0):
                assert blue > 0.7 and red < 0.4
            elif world.grid.terminal[row, col]:
                assert green > 0.7 > red
            else:
                assert corner.min() > 0.95
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(4, 0): "10", (1, 1): "−1", (4, 2): "−5"}
    assert_nothing_is_cut_off(figure)


def test_sampled_and_written_worlds_are_drawn():
    mdps = sample_mdps(jax.random.key(0), 2, num_rows=6, num_cols=9, p_plus10=0.1)
    grid = jax.tree.map(np.asarray, mdps[1].grid)
    figure = plotting.draw_grid(mdps[1], title="World 1")
    ax = figure.axes[0]
    drawn = {(patch.get_y() + 0.5, patch.get_x() + 0.5): to_rgb(patch.get_facecolor()) for patch in ax.patches}
    assert {cell for cell, color in drawn.items() if color == (0, 0, 0)} == set(map(tuple, np.argwhere(grid.wall)))
    assert len(drawn) == grid.wall.sum() + grid.terminal.sum() + 1
    assert {text.get_text() for text in ax.texts} == {f"{r:g}".replace("-", "−") for r in grid.reward.flat if r}
    assert_nothing_is_cut_off(figure)
    with pytest.raises(ValueError, match="draw_grid draws one MDP"):
        plotting.draw_grid(mdps)
    small = plotting.draw_grid(from_text(["S#", ".+"]), values=np.arange(4.0), policy=np.full((4, 4), 0.25))
    assert [text.get_text() for text in small.axes[0].texts] == ["10"]
    assert_nothing_is_cut_off(small)


@pytest.mark.parametrize("arrows", [False, True])
@pytest.mark.parametrize("inches", [None, 2.0, 8.0])
def test_numbers_fit_their_cells(arrows, inches):
    world = make_world()
    world.grid.reward[1, 2], world.grid.reward[2, 2] = -0.125, -10
    policy = np.full((15, 4), 0.25) if arrows else None
    ax = None if inches is None else plt.subplots(figsize=(inches, inches))[1]
    figure = plotting.draw_grid(world, ax, policy)
    figure.canvas.draw()
    ax = figure.axes[0]
    assert len(ax.texts) == 5
    for text in ax.texts:
        box = text.get_window_extent().transformed(ax.transData.inverted())
        col, row = np.round(np.add(text.get_position(), 0.0 if text.get_ha() == "center" else 0.01))
        assert col - 0.55 < box.x0 and box.x1 < col + 0.55
        assert row - 0.55 < min(box.y0, box.y1) and max(box.y0, box.y1) < row + 0.55


@pytest.mark.parametrize(("action", "direction"), list(enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)])))
def test_arrows_point_where_the_action_goes(action, direction):
    world = make_world()
    figure = plotting.draw_grid(world, policy=np.eye(4)[np.full(15, action)])
    image = pixels(figure)
    dx, dy = direction
    ahead = cell_pixels(figure, image, 1 + 0.25 * dy, 3 + 0.25 * dx, 0.2)
    behind = cell_pixels(figure, image, 1 - 0.25 * dy, 3 - 0.25 * dx, 0.2)
    assert ahead.min() < 0.3 and behind.mean() > 0.9


def test_arrows_are_as_long_as_the_move_is_probable_and_a_dot_is_doing_nothing():
    world = make_world(num_actions=7)
    policy = np.zeros((15, 7))
    policy[:, 0], policy[:, 3], policy[:, 5] = 0.5, 0.25, 0.25
    figure = plotting.draw_grid(world, policy=policy)
    arrows = [c for c in figure.axes[0].collections if type(c).__name__ == "Quiver"]
    left, right, up, down = arrows
    assert left.N == down.N == 11 and right.N == up.N == 0  # neither walls nor terminals
    np.testing.assert_allclose(left.U, 2 * -down.V)
    assert (3, 1) in zip(left.X, left.Y, strict=True) and (4, 0) not in zip(left.X, left.Y, strict=True)
    dots = [p for p in figure.axes[0].patches if type(p).__name__ == "Circle"]
    assert len(dots) == 11 and dots[0].radius == pytest.approx(0.15)


@pytest.mark.parametrize("name", ["values", "visits"])
def test_heat_maps_colour_the_free_cells(name):
    world = make_world()
    heat = np.arange(15.0)
    figure = plotting.draw_grid(world, **{name: heat})
    ax, bar = figure.axes
    mesh = ax.collections[0].get_array()
    np.testing.assert_array_equal(mesh.mask.reshape(3, 5), world.grid.wall | world.grid.terminal)
    np.testing.assert_array_equal(mesh.data.reshape(3, 5), heat.reshape(3, 5))
    label = bar.get_xlabel() or bar.get_ylabel()
    assert label == {"values": "Value (return)", "visits": "Expected visits per episode"}[name]
    image = pixels(figure)
    low = cell_pixels(figure, image, 0, 1, 0.2).mean((0, 1))
    high = cell_pixels(figure, image, 2, 3, 0.2).mean((0, 1))
    assert low @ [0.299, 0.587, 0.114] > high @ [0.299, 0.587, 0.114] + 0.1  # darker is more, in grey as well
    assert_nothing_is_cut_off(figure)


def test_draw_grid_refuses_what_it_cannot_draw():
    world = make_world()
    stack = make_world()
    stack.grid = types.SimpleNamespace(**{k: np.stack([v] * 2) for k, v in vars(stack.grid).items()})
    for arguments, message in [
        (dict(mdp=stack), "draw_grid draws one MDP, got a stack of"),
        (dict(mdp=types.SimpleNamespace(grid=None)), "mdp.grid is None"),
        (dict(mdp=world, policy=np.ones((15, 5))), r"policy has shape \(15, 5\), expected \(15, 4\)"),
        (dict(mdp=world, values=np.ones(14)), r"values has shape \(14,\), expected \(15,\)"),
        (dict(mdp=world, visits=np.ones((3, 5))), r"visits has shape \(3, 5\), expected \(15,\)"),
        (dict(mdp=world, visits=np.ones(15), values=np.ones(15)), "values or visits, not both"),
    ]:
        with pytest.raises(ValueError, match=message) as info:
            plotting.draw_grid(**arguments)
        assert "\n" not in str(info.value)
    assert not plt.get_fignums()


# --- files ------------------------------------------------------------------------------------------------


def test_figures_are_saved_as_png_and_pdf_with_the_same_bytes_each_time(tmp_path):
    figures = [make_result().plot() for _ in range(2)]
    first = plotting.save_figure(figures[0], tmp_path / "fig8.draft")
    second = plotting.save_figure(figures[1], str(tmp_path / "again"))
    assert [path.name for path in first] == ["fig8.draft.png", "fig8.draft.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[1].read_bytes().startswith(b"%PDF") and b"CreationDate" not in first[1].read_bytes()
    image = plt.imread(first[0])
    assert image.shape[1] > 150 * figures[0].get_figwidth() * 0.9
    assert image[:, [0, -1], :3].min() == 1 and image[[0, -1], :, :3].min() == 1  # a white margin: nothing cut
    with pytest.raises(OSError, match="missing"):
        plotting.save_figure(figures[0], tmp_path / "missing" / "fig8")
