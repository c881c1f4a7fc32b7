"""A checkpoint of Google's BERT, written by TensorFlow itself, from the weights of a case.

    python tests/reference/tensorflow_bert.py     # rewrites formats/bert-tensorflow: tensorflow-cpu 2.15, safetensors

`bert_config.json`, `bert_model.ckpt.index` and `.data-*` are as in https://github.com/google-research/bert, with optimizer
state and the step beside the weights; the weights are those of `cases/bert-pretraining`, under the names of that code
and with its matrices `[in, out]`.
"""

import json
import re
import shutil
from pathlib import Path

import tensorflow as tf
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
CASE = HERE / "cases" / "bert-pretraining"
OUT = HERE / "formats" / "bert-tensorflow"


def variable(name, value):
    """The name in Google's code, and the value as it has it."""
    path = re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/")
    if path.endswith("_embeddings/weight"):
        return path.removesuffix("/weight"), value
    if path.endswith("LayerNorm/weight"):
        return path.removesuffix("weight") + "gamma", value
    if path.endswith("LayerNorm/bias"):
        return path.removesuffix("bias") + "beta", value
    if path == "cls/predictions/bias":
        return "cls/predictions/output_bias", value
    if path.startswith("cls/seq_relationship/"):
        return path.replace("/weight", "/output_weights").replace("/bias", "/output_bias"), value
    if path.endswith("/weight"):
        return path.removesuffix("weight") + "kernel", value.T
    return path, value


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    weights = dict(variable(*item) for item in load_file(CASE / "model.safetensors").items())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in weights.items():
            tf.compat.v1.get_variable(name, initializer=value)
        tf.compat.v1.get_variable("bert/pooler/dense/bias/adam_m", initializer=weights["bert/pooler/dense/bias"])
        tf.compat.v1.get_variable("global_step", initializer=tf.constant(7, tf.int64))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(OUT / "bert_model.ckpt"), write_meta_graph=False, write_state=False)
    config = json.loads((CASE / "config.json").read_text())
    keys = [
        "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
        "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "type_vocab_size",
        "vocab_size",
    ]  # fmt: skip
    (OUT / "bert_config.json").write_text(json.dumps({key: config[key] for key in keys}, indent=2) + "\n")


if __name__ == "__main__":
    main()
