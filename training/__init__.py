"""Fine-tuning: a corpus in, trained weights out. Shares only artifacts on storage with `pipelines`.

The folder of a module says whether it may load torch, transformers or peft, so that imports stand at the tops of files:

    worker folders   engines, evaluation, export, fit, models, tokenizer. Their modules may load these libraries, and
                     run in Ray workers, under torchrun and in the benchmark (tests/benchmarks/gpu).
    everything else  loads none of them and imports no module of a worker folder, because the driver may be a small head
                     node and refuses a wrong config within two seconds. It calls functions of worker folders by a
                     `raymill.cluster.entry.Entry`, which is imported where it is called. The driver itself calls one of
                     them: Ray's TorchTrainer loads torch in the driver when the workers are started (190 MB).
"""
