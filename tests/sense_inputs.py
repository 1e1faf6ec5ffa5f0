"""Rows of words in their contexts, and models for them, for the tests of the task."""

from __future__ import annotations

import numpy as np

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.models.build import build_task_model
from bertwright.tasks.senses import Senses
from tiny import tiny_encoder, tiny_tokenizer

TASK, NEAREST = Senses(), Senses(how="nearest")
KNOWING, NEAREST_KNOWING = Senses(inventory=True), Senses(how="nearest", inventory=True)
FILLERS = "the a is was very really not always".split()
BANKS = [
    {"text": "the zebra and dog", "start": 4, "end": 9, "label": "animal"},
    {"text": "a dog is not a car", "start": 2, "end": 5, "label": "animal"},
    {"text": "cat", "start": 0, "end": 3, "label": "word"},
    {"text": "the cat", "start": 4, "end": 7, "label": "animal"},
]
PAIRS = [
    {
        **{"text": "the zebra and dog", "start": 4, "end": 9},
        **{"text_b": "a zoo", "start_b": 2, "end_b": 5, "label": "F"},
    },
    {
        **{"text": "a dog", "start": 2, "end": 5},
        **{"text_b": "the dog was a good dog", "start_b": 4, "end_b": 7, "label": "T"},
    },
    {
        **{"text": "a car", "start": 2, "end": 5},
        **{"text_b": "xyz", "start_b": 0, "end_b": 3, "label": "F"},
    },
]


def encoded_as(task, rows, max_length=48, **options):
    loaded = load_rows(rows, schema=task.schema, **options)
    return tokenise(loaded, tiny_tokenizer("bert"), encoder=task.encoder, max_length=max_length)


def model_for(task, labels, config=None, family="bert"):
    encoder, tokenizer = tiny_encoder(family)
    return build_task_model(
        encoder,
        task=task.spec,
        labels=labels,
        tokenizer=tokenizer,
        max_length=48,
        config=config,
        outputs=task.outputs(labels),
    )


def unit(vector):
    return vector / np.linalg.norm(vector)


def outputs_of(encoded, vectors):
    """Return outputs that are a vector at the pieces of each feature's word, noise elsewhere."""
    rng = np.random.default_rng(0)
    fields = encoded.inputs().fields
    outputs = []
    for feature, vector in enumerate(vectors):
        output = rng.normal(size=(int(encoded.lengths[feature]), len(vector))).astype(np.float32)
        for name in ("pieces", "pieces_b"):
            if name in fields:
                output[fields[name][feature]] = vector
        outputs.append(output)
    return outputs
