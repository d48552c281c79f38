"""The inner loop: many lanes, one student in each, advanced together in one compiled program.

`tick` is the loop. `lanes` holds what the students carry, `rules` what a row of a student's table means, and
`schedules` the numbers that change with the iteration. `packing` lays out worlds and teachers as tables of rows.
`threefry` draws random bits, and `xla` sets the compiler options.
"""
