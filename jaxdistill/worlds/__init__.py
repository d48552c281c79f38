"""Where worlds come from.

`gridworld` defines grid worlds and builds their MDPs, from text too. `grid_sampling` samples them as in App. A.2.
`corridor` builds the chain MDPs of Figs. 6 and 9, `garnet` random MDPs without structure, and `gymnasium` reads
environments that have a transition table.
"""
