"""Operators for Ray Data: what `curate` does to documents, as callables over the batches of any Dataset.

    dataset.map_batches(raymill.data.Rules(packs=["c4"]), batch_format="pyarrow")
    raymill.data.deduplicate(dataset, scratch="s3://bucket/scratch", threshold=0.8)

The guide is pipelines/ray_data/README.md.
"""

from raymill.pipelines.ray_data.deduplicate import deduplicate
from raymill.pipelines.ray_data.operators import Language, Normalize, PersonalData, Rules, Signature

__all__ = ["Language", "Normalize", "PersonalData", "Rules", "Signature", "deduplicate"]
