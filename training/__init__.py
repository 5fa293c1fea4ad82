"""Fine-tuning: a corpus in, trained weights out. Shares only artifacts on storage with `pipelines`.

Every module is of one of two kinds, so that imports stand at the tops of files:

    worker modules   import torch, transformers or peft at their top. They run in Ray workers, under torchrun and in the
                     benchmark. `WORKER_MODULES` in tests/test_house_rules.py lists them.
    driver modules   never import a worker module or these libraries, because the driver may be a small head node and
                     refuses a wrong config within two seconds. They call worker functions by a `cluster.entry.Entry`,
                     which is imported where it is called.
"""
