"""Predicts the peak memory of a training step, per GPU, from shapes alone.

With P parameters (P_t of them trained, by default all), L layers, V entries in the vocabulary, H hidden size, T tokens
in the largest micro-batch on one GPU, N GPUs, w bytes a weight and d bytes an activation, the peak is

    weights + optimizer + buffers (the table in `_states`) + the largest of five moments (in `peak_memory`)

The optimizer is AdamW: two moments in the dtype of the weights; with DeepSpeed the float32 weights as well, and
4 P_t / N of float32 gradients during its step. A reference model adds its weights again. Offloaded parts count 0.
G is all gradients if a step has several micro-batches, else 0. Between the last and the first layer activations are
freed as gradients appear, so the largest moment is at one of the two ends.

k is what a layer keeps per token until its backward pass: its input (H d bytes) with gradient checkpointing, all
that it reads then without checkpointing. c is the most that exists per token during the backward pass of one layer,
recomputation included; f is what one layer and the final norm keep. They are not derived by hand:
`redi.preflight.counting` runs the model's own code on tensors without data and adds up what is alive.

T includes the pads of padded micro-batches. docs/results.md compares the prediction with measurements on the CPU; the
figures for GPUs are not measured.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig
from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE

from redi.engine.logprobs import CPU_LOGITS, CUDA_LOGITS, CUDA_TILE
from redi.preflight.counting import Activations, Precision, with_adapters

GIB = 2**30
# Context, cuBLAS and NCCL of a process on a GPU; a round figure, not measured here.
GPU_OVERHEAD = 1.5 * GIB
DEEPSPEED_BUCKET, DEEPSPEED_LIVE = 5 * 10**8, 10**9  # DeepSpeed's defaults, in elements


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that memory and FLOPs follow from."""

    params: int  # of the complete model; a matrix shared by head and embeddings counts once
    trained: int  # those that get a gradient
    layer: int  # parameters of a layer
    layers: int
    hidden: int
    vocab: int
    attention: int  # heads times head size
    tied: bool  # whether head and embeddings share their matrix


@dataclass(frozen=True)
class Strategy:
    """How a model is spread over GPUs: `kind` is none, ddp, zero1, zero2, zero3 or fsdp2."""

    kind: str
    gpus: int
    offload_optimizer: bool = False
    offload_weights: bool = False
    on_cpu: bool = False


@dataclass(frozen=True)
class Load:
    """The largest micro-batch of a GPU."""

    tokens: int  # with pads
    scored: int  # those that go through the head
    several: bool  # whether a step has more micro-batches
    signed_sum: bool  # whether the head is `redi.engine.logprobs.SignedSum`; otherwise it is TRL's chunked kernel
    masked: int = 0  # elements of the attention mask, rows * length^2


def shape_of(config: PreTrainedConfig, lora: Any = None) -> ModelShape:
    """Sizes of the model that a configuration describes, counted on one without data."""
    with torch.device("meta"):
        model = with_adapters(AutoModelForCausalLM.from_config(config), lora)
    text, parameters = config.get_text_config(), list(model.parameters())
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 0)
    heads = getattr(text, "num_attention_heads", 0)  # without attention: Mamba
    head_size = getattr(getattr(layers[0], "self_attn", None), "head_dim", None)
    return ModelShape(
        params=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        layer=sum(p.numel() for p in layers[0].parameters()),
        layers=len(layers),
        hidden=text.hidden_size,
        vocab=head.shape[0],
        attention=heads * (head_size or text.hidden_size // max(1, heads)),
        tied=head is embeddings,
    )


def peak_memory(
    shape: ModelShape,
    counts: Activations,
    precision: Precision,
    strategy: Strategy,
    load: Load,
    reference: bool = False,
) -> dict[str, float]:
    """Bytes at the peak, by purpose: weights, reference, optimizer, buffers, overhead, and the gradients, activations,
    head and optimizer step of the largest moment."""
    parts = _states(shape, precision, strategy, load.several)
    if reference:
        parts["reference"] = parts["weights"]
    tokens, gradients = load.tokens, parts["gradients"]
    before = gradients if load.several else 0  # of the micro-batches before
    kept = (shape.layers - 1) * counts.kept  # per token, by all layers but one
    copies = 1 if counts.checkpointing else shape.layers
    mask = load.masked * (1 + precision.compute.itemsize * copies)
    zero = strategy.kind.startswith("zero")
    matrix = shape.vocab * shape.hidden * (shape.trained == shape.params)  # elements of the head's gradient
    head = matrix * (2 if zero else precision.weights.itemsize)
    step = 4 * shape.trained / strategy.gpus if zero and not strategy.offload_optimizer else 0
    first = _head(shape, precision, strategy, load, matrix)
    moments = [
        (before, tokens * (counts.forward + kept) + mask, first, 0),  # G + T (f + (L - 1) k): the head
        (before, tokens * (kept + counts.peak) + mask, head, 0),  # G + T ((L - 1) k + c): the last layer
        (gradients, tokens * counts.peak, head * shape.tied, 0),  # the first: a tied head's gradient is kept till then
        (gradients, 0, head * (1 + shape.tied), 0),  # the embeddings, whose gradient is as large as the head's
        (gradients, 0, 0, step),  # the optimizer's
    ]
    names = ("gradients", "activations", "head", "optimizer step")
    parts |= dict(zip(names, max(moments, key=sum), strict=True))
    parts["overhead"] = 0 if strategy.on_cpu else GPU_OVERHEAD
    return parts


def _states(shape: ModelShape, precision: Precision, strategy: Strategy, several: bool) -> dict[str, float]:
    """Bytes that do not depend on the micro-batch; buffers are for communication, with ZeRO-3 and FSDP2 gathered."""
    w, p, t, n = precision.weights.itemsize, shape.params, shape.trained, strategy.gpus
    bucket, gathered = 2 * min(t, DEEPSPEED_BUCKET), 2 * min(p, DEEPSPEED_LIVE) + 2 * min(p, DEEPSPEED_BUCKET)
    weights, gradients, optimizer, buffers = {
        "none": (w * p, w * t, 2 * w * t, 0),
        "ddp": (w * p, w * t, 2 * w * t, w * t),
        "zero1": (2 * p, 2 * t, 12 * t / n, bucket),
        "zero2": (2 * p, 2 * t / n, 12 * t / n, bucket),
        "zero3": (2 * p / n, 2 * t / n, 12 * t / n, gathered),
        # Gradients are not reduced before the last micro-batch.
        "fsdp2": (4 * p / n, 4 * t / n + 2 * t * several, 8 * t / n, 2 * (shape.vocab * shape.hidden + shape.layer)),
    }[strategy.kind]
    return {
        "weights": 0 if strategy.offload_weights else weights,
        "gradients": gradients,
        "optimizer": 0 if strategy.offload_optimizer else optimizer,
        "buffers": buffers,
    }


def _head(shape: ModelShape, precision: Precision, strategy: Strategy, load: Load, trained: int) -> float:
    """Bytes that the LM head adds at its worst moment; `trained` is the number of its parameters with a gradient.

    Both kernels hold the scored hidden states, their gradient, the matrix' gradient in float32 (in half precision also
    one product that is added to it), and a copy of the matrix if it is computed in another dtype. `SignedSum` holds a
    block of logits in float32, and in half precision two more of that kind. TRL's kernel holds a tile of logits; on
    the CPU, without the Triton kernel that works in place, 7 more in float32 and a mask.
    """
    d, on_cpu = precision.compute.itemsize, strategy.on_cpu
    half = d < 4
    gradient = trained * (4 + d * half)
    if load.signed_sum:
        copied = shape.vocab * shape.hidden * d * (precision.compute != precision.weights)
        rows = min(load.scored, max(1, (CPU_LOGITS if on_cpu else CUDA_LOGITS) // shape.vocab))
        logits = rows * shape.vocab * (8 if half else 4)
        return load.scored * shape.hidden * 2 * d + gradient + copied + logits
    scored = load.tokens if on_cpu else load.scored
    tile = min(scored, TOKEN_CHUNK_SIZE) * min(shape.vocab, CUDA_TILE)
    return scored * shape.hidden * (2 * d + 4) + gradient + tile * (d + 29 * on_cpu)
