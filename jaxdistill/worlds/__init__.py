"""Where worlds come from: grid worlds, chains, random MDPs, texts and environments of Gymnasium.

`grid` defines the cells of grid worlds, their kinds and their numbering as states, and the options of sampled worlds.
`grid_mdp` builds the MDP of a grid. `grid_sampling` samples grid worlds as in App. A.2. `gridworld` builds grid worlds
from text and gives the public names of the three modules before. `corridor` builds the chain MDPs of Figs. 6 and 9.
`garnet` samples random MDPs without structure. `features` says which rows of a student's tables a state adds up, so
that students generalise. `gymnasium` builds the MDPs of environments that publish their transition table. `texts` reads
texts as sequences of symbols, and `grammar` writes sentences of a small grammar. `language_world` builds the worlds in
which a policy is a language model of a text, and trees of all prefixes.
"""

from jaxdistill.worlds import texts
from jaxdistill.worlds.language_world import Language, language, token_tree

__all__ = ["Language", "language", "texts", "token_tree"]
