"""Sentence embeddings: models without a head, the loss over a batch, and the metrics of retrieval. Run by hand: see common.py.

    python embeddings.py           # rewrites cases/*-embedding
    python embeddings.py losses    # needs sentence-transformers; rewrites embeddings.json and metrics/retrieval.json
"""

import json
import random
import sys
from pathlib import Path

import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    LongformerConfig,
    LongformerModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    XLNetConfig,
    XLNetModel,
)

import albert
import bert
import common
import deberta_v2
import distilbert
import electra
import gpt2
import llama
import longformer
import modernbert
import roberta
import xlnet

HERE = Path(__file__).resolve().parent
SCORES = torch.tensor([0.9, -0.2, 0.4])
MODES = dict(mean="mean_tokens", cls="cls_token", lasttoken="lasttoken")


def pooled(states, mask, pooling):
    """[S, longest, width] to [S, width]; padding is on the right."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "lasttoken":
        return states[torch.arange(len(states)), mask.sum(1) - 1]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def pairs(batch, pooling, normalize, **options):
    """Sequences 2i and 2i + 1 are a pair. Logits are the embeddings [S, width]; the loss is that of CosineSimilarityLoss."""

    def run(model, dtype):
        array = common.arrays(batch, **options)
        found = pooled(model(**array).last_hidden_state, array["attention_mask"], pooling)
        found = torch.nn.functional.normalize(found) if normalize else found
        cosines = torch.cosine_similarity(found[0::2], found[1::2])
        return [found], torch.nn.functional.mse_loss(cosines, SCORES.to(dtype))

    return batch | {"labels": SCORES, "widths": torch.full((len(SCORES),), 2)}, run


def without_pooler(cls):
    """The class without the layer that nothing uses, under the same name."""
    return type(cls.__name__, (cls,), {"__init__": lambda self, config: cls.__init__(self, config, add_pooling_layer=False)})


def case(name, cls, config, batch, pooling, normalize=False, tiny=("key.bias",), seed=1, scale=0.2, exact="eager", **options):
    name = f"{name}-embedding"
    common.case(name, cls(config), *pairs(batch, pooling, normalize, **options), tiny=tiny, seed=seed, scale=scale, exact=exact)
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        dict(idx=i, name=str(i), path=path, type=f"sentence_transformers.models.{kind}") for i, (path, kind) in enumerate(zip(paths, kinds))
    ]
    folder = common.CASES / name
    (folder / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{MODES[pooling]}": True}) + "\n")


def cases():
    batch = common.sequences(bert.LENGTHS, bert.VOCAB, 1)
    case("bert", without_pooler(BertModel), BertConfig(**bert.SMALL), batch, "mean", normalize=True)
    case("roberta", without_pooler(RobertaModel), RobertaConfig(**roberta.SMALL), batch, "cls", pad_id=1)
    case("camembert", without_pooler(CamembertModel), CamembertConfig(**roberta.SMALL), batch, "mean", pad_id=1)
    config = DistilBertConfig(**distilbert.SMALL)
    case("distilbert", DistilBertModel, config, batch, "mean", tiny=distilbert.KEYS, segments=False)
    case("albert", without_pooler(AlbertModel), AlbertConfig(**albert.SMALL), batch, "mean")
    case("electra", ElectraModel, ElectraConfig(**electra.SMALL), batch, "cls", normalize=True)
    config = ModernBertConfig(**modernbert.PLAIN)
    case("modernbert", ModernBertModel, config, batch, "mean", exact="sdpa", segments=False)
    case("deberta-v2", DebertaV2Model, DebertaV2Config(**deberta_v2.V3), batch, "cls", tiny=deberta_v2.TINY)
    torch.nn.functional.softmax = longformer.own_softmax(torch.nn.functional.softmax)
    config = LongformerConfig(**longformer.NARROW)
    texts = common.sequences(longformer.LENGTHS, longformer.VOCAB, 1)
    case("longformer", without_pooler(LongformerModel), config, texts, "mean", normalize=True, pad_id=1)
    case("xlnet", XLNetModel, XLNetConfig(**xlnet.SMALL), xlnet.texts(1), "mean", seed=2)
    case("gpt2", GPT2Model, GPT2Config(**gpt2.SMALL), batch, "lasttoken", segments=False)
    biased = dict(tiny=("k_proj.bias",), exact="sdpa", segments=False)
    case("llama", LlamaModel, LlamaConfig(**llama.SMALL), batch, "mean", **biased)
    case("qwen3", Qwen3Model, Qwen3Config(**llama.SMALL, head_dim=6), batch, "lasttoken", normalize=True, seed=2, **biased)


def losses():
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    found = []
    for seed, (n, negatives, scale) in enumerate([(5, 0, 20.0), (4, 2, 20.0), (3, 1, 2.5), (2, 0, 50.0)]):
        generator = torch.Generator().manual_seed(seed)
        columns = [torch.randn(n, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2 + negatives)]
        # The model is not used where embeddings are given.
        loss = MultipleNegativesRankingLoss(model=None, scale=scale).compute_loss_from_embeddings(columns, labels=None)
        loss.backward()
        others = columns[1:]
        case = dict(scale=scale, loss=loss.item(), texts=columns[0].tolist(), texts_grad=columns[0].grad.tolist())
        found.append(case | dict(others=torch.cat(others).tolist(), others_grad=torch.cat([x.grad for x in others]).tolist()))
    lines = ",\n  ".join(json.dumps(case) for case in found)
    (HERE / "embeddings.json").write_text('{\n "in_batch": [\n  ' + lines + "\n ]\n}\n")

    rng = random.Random(1)
    rankings = []
    for queries in (1, 5, 40):
        places = [sorted(rng.sample(range(12), rng.randint(0, 3))) for _ in range(queries)]
        extra = [rng.randint(0 if own else 1, 12) for own in places]
        relevant = {f"q{i}": {f"d{p}" for p in own} | {f"missing{j}" for j in range(more)} for i, (own, more) in enumerate(zip(places, extra))}
        evaluator = InformationRetrievalEvaluator(
            {query: query for query in relevant}, {f"d{p}": "" for p in range(12)}, relevant,
            accuracy_at_k=[1], precision_recall_at_k=[1, 5, 10], mrr_at_k=[10], ndcg_at_k=[10], map_at_k=[10],
        )  # fmt: skip
        ranking = [dict(corpus_id=f"d{p}", score=1 - p / 12) for p in range(12)]
        scores = evaluator.compute_metrics([ranking for _ in relevant])
        metrics = {"accuracy@1": scores["accuracy@k"][1], "mrr@10": scores["mrr@k"][10], "ndcg@10": scores["ndcg@k"][10]}
        metrics |= {f"recall@{k}": scores["recall@k"][k] for k in (1, 5, 10)}
        shown = [[p for p in own if p < 10] for own in places]
        rankings.append(dict(places=shown, relevant=[len(docs) for docs in relevant.values()]) | {k: float(v) for k, v in metrics.items()})
    lines = ",\n  ".join(json.dumps(case) for case in rankings)
    (HERE / "metrics" / "retrieval.json").write_text('{\n "rankings": [\n  ' + lines + "\n ]\n}\n")


if __name__ == "__main__":
    losses() if sys.argv[1:] == ["losses"] else cases()
