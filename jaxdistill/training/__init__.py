"""One way to train students and to collect them.

`config` says how students are trained, and `presets` has two readings of what the paper leaves open. `tasks` groups
students by compiled program, and `run` trains them in this process. `shards` cuts a training for an executor.
`train` is the public entry, and `sweep` trains all combinations of some numbers. `measuring` reads what is to be
measured, `recorder` collects curves and students, and `live` reports numbers while a training runs. `first_updates`
measures how large the steps of the methods are, `diagnosis` finds the likely cause of a divergence, and `sampling`
draws single updates.
"""
