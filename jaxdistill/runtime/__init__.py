"""What long work on real machines needs, and checks of arguments.

`checkpoints` saves and resumes a training. `processes` divides the students of one training among processes and gathers
their results. `progress` shows how far the work is. `files` writes files completely or not at all and locks folders.
`checks` validates arguments, and `optional` imports packages that jaxdistill does not depend on. `streams` turns random
keys of every kind into Threefry keys and draws from them. `surroundings` tells what else decides the numbers of a run.
"""
