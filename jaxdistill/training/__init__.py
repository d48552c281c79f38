"""One way to train students and to collect them.

`config` says how students are trained, and `presets` has two readings of what the paper leaves open. `tasks` groups
students by compiled program, and `run` trains them to the end.
`train` is the public entry, `measuring` reads what it is asked to measure, `recorder` collects its curves and students,
`diagnosis` finds the likely cause of a divergence, and `sampling` draws single updates.
"""
