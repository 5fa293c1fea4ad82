"""Imported last by the server of ranks.py: collections of the processes that it forks leave alone what is there by now.

DeepSpeed collects several times for each engine, which takes half a second over all objects of torch.
"""

import gc

gc.collect()
gc.freeze()
