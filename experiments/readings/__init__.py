"""Readings of the paper: one level for each choice that its text leaves open or that its curves contradict.

`factors` lists the choices and their levels. `curves` trains the curves of Figs. 4 and 5 under many readings at once.
`worlds` chooses few worlds that stand for many. `surrogate` predicts the curves of readings that were not trained.
`scores` compares readings with the paper's points. `predictions` runs the figures that no reading was fitted to.
`pages` makes the tables and the figure of `experiments.calibration`.
"""
