"""Which student runs in which lane, and when.

`task` describes the students that one program trains, and `loops` chooses the loop that trains them: XLA's, or a
kernel. `block` fills lanes with students, `group` advances blocks together, and `pool` runs groups on every device.
`chunks` chooses how long a call of the engine runs, and `forecast` estimates the time left.
"""
