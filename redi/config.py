"""`REDIConfig`, `PackedSFTConfig`: TRL's `DPOConfig` and `SFTConfig` with the engine's options, and REDI's."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import torch
from trl import DPOConfig, SFTConfig

from redi.losses import OBJECTIVES, Objective, Option
from redi.runs.launch import check_driver

_NO_REFERENCE = "REDI has no reference model"
_OWN_LOSS = "the loss is that of `objective`, Eq. (5) by default"

# Inherited options that REDITrainer never reads, and why. Setting one is an error instead of a silent no-op.
UNREAD_OPTIONS = {
    "beta": f"{_NO_REFERENCE}, so there is no KL strength; the weight of the negative term is `alpha`",
    "loss_type": _OWN_LOSS,
    "loss_weights": _OWN_LOSS,
    "ld_alpha": f"it belongs to LD-DPO; {_OWN_LOSS}",
    "f_divergence_type": _NO_REFERENCE,
    "f_alpha_divergence_coef": _NO_REFERENCE,
    "label_smoothing": _OWN_LOSS,
    "label_smoothing_factor": _OWN_LOSS,
    "use_weighting": f"it belongs to WPO; {_OWN_LOSS}",
    "discopop_tau": f"it belongs to DiscoPOP; {_OWN_LOSS}",
    "router_aux_loss_coef": _OWN_LOSS,
    "sync_ref_model": _NO_REFERENCE,
    "ref_model_mixup_alpha": _NO_REFERENCE,
    "ref_model_sync_steps": _NO_REFERENCE,
    "precompute_ref_log_probs": _NO_REFERENCE,
    "precompute_ref_batch_size": _NO_REFERENCE,
    "truncation_mode": "traces are cut at the end",
    "pad_token": "set the pad token of the tokenizer instead",
}


def needs_gpu(name: str, value: Any) -> str:
    """Why an option cannot be used in a run without a GPU."""
    return (
        f"{name}={value} needs a GPU, and none is used here: to train on the CPU set use_cpu: true, bf16: false and "
        "dtype: float32"
    )


def choose_device(args: DPOConfig | SFTConfig) -> None:
    """Sets `use_cpu` where there is no GPU, and `bf16=False` for the CPU, unless the user has chosen; see `cpu_note`.

    To be called before TRL sets its default, `bf16=True`, which computes three times slower on a CPU. `args.cpu_note`
    tells what was chosen, in one line.

    Raises:
        ValueError: options that need a GPU are set, `use_cpu` is not, and there is no GPU; or torch cannot use it.
    """
    args.cpu_note = ""
    launched_on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if not args.use_cpu and torch.accelerator.is_available() and not launched_on_cpu:
        return
    if not args.use_cpu and not launched_on_cpu:
        check_driver(torch.version.cuda)  # a GPU that torch cannot use
    half = re.search(r"dtype\W+(?:torch\.)?(b?float16)", str(args.model_init_kwargs))  # a mapping, or JSON of one
    for name, value in (("bf16", args.bf16), ("fp16", args.fp16), ("dtype", half and half[1])):
        if value and not args.use_cpu:
            raise ValueError(needs_gpu(name, value))
    sets_precision = args.bf16 is None and not args.fp16
    if not args.use_cpu:
        args.cpu_note = "no GPU is found: training on the CPU, in float32 (use_cpu: true, bf16: false)"
    elif sets_precision:
        args.cpu_note = "use_cpu: true trains in float32 (bf16: false)"
    args.use_cpu = True
    if sets_precision:
        args.bf16 = False


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


_MAX_TOKENS = (
    "Capacity of a packed micro-batch in tokens, which bounds the memory of a step. As many are made as are needed; "
    "by default gradient_accumulation_steps, of any size."
)
# Options that the engine does not read: it shuffles the data itself, with `seed`, and pads nothing.
_UNREAD_BY_ENGINE = ("train_sampling_strategy", "data_seed", "dataloader_drop_last")
_UNREAD_SFT = ("loss_type", "label_smoothing_factor", "average_tokens_across_devices", "shuffle_dataset")
_UNREAD_SFT += ("pad_to_multiple_of", "packing_strategy", "router_aux_loss_coef")


def _check_engine(args: DPOConfig | SFTConfig, unread: tuple[str, ...]) -> None:
    """Raises a `ValueError` if an option is not read with, or not without, `args.trains_on_traces`."""
    if args.trains_on_traces:
        defaults = {option.name: option.default for option in fields(args)}
        for name in unread:
            if (value := getattr(args, name)) != defaults[name]:
                raise ValueError(f"{name}={value!r} is read only with padding_free=False. Remove it.")
    elif args.max_tokens_per_micro_batch is not None:
        why = "without packing" if getattr(args, "packing", False) else "with padding_free=True"
        raise ValueError(f"max_tokens_per_micro_batch is read only {why}. Remove it.")


@dataclass
class PackedSFTConfig(SFTConfig):
    """Configuration of `redi.sft.PackedSFTTrainer`: [`~trl.SFTConfig`] with the engine's options.

    Setting an option that the engine does not read raises a `ValueError`.
    """

    padding_free: bool | None = _option(
        None,
        "Train on packed traces, balanced over micro-batches and ranks, instead of on padded rows. Loss and gradient "
        "are the same. Defaults to true without `packing`.",
    )
    max_tokens_per_micro_batch: int | None = _option(None, _MAX_TOKENS)

    def __post_init__(self):
        choose_device(self)
        self.padding_free = not self.packing if self.padding_free is None else self.padding_free
        _check_engine(self, _UNREAD_BY_ENGINE + _UNREAD_SFT)
        super().__post_init__()

    @property
    def trains_on_traces(self) -> bool:
        """Whether the engine trains, not TRL."""
        return bool(self.padding_free) and not self.packing


def _names(condition: Callable[[Objective], bool]) -> str:
    return " or ".join(f"objective={name!r}" for name, objective in OBJECTIVES.items() if condition(objective))


def _with_table_options(config: type) -> type:
    """Gives a class that is to be a dataclass the options of `OBJECTIVES`, and `UNREAD_OPTIONS` the default None.

    None is unset, so a set option differs from an unset one.
    """
    hints, kinds = get_type_hints(config.__base__), {}
    for objective, entry in OBJECTIVES.items():
        for name, option in entry.options.items():
            limits = "" if option.range is None else " In [{}, {}].".format(*option.range)
            default = f" Defaults to {option.default} with objective '{objective}'."
            kinds[name] = type(option.default) | None
            setattr(config, name, _option(None, option.help + limits + default))
    unread = {name: hints[name] | None for name in UNREAD_OPTIONS}
    for name in unread:
        setattr(config, name, None)
    config.__annotations__ = kinds | config.__annotations__ | unread
    return config


@dataclass
class PreparedDPOConfig(DPOConfig):
    """[`~trl.DPOConfig`], also for machines without a GPU; see `choose_device`."""

    def __post_init__(self):
        choose_device(self)
        super().__post_init__()


@dataclass
@_with_table_options
class REDIConfig(DPOConfig):
    """Configuration of [`REDITrainer`]: the options of [`~trl.DPOConfig`] that REDI reads, plus the ones below.

    The options of the objectives come from `redi.losses.OBJECTIVES`. Each option's `help` describes it.

    Setting an inherited option that REDI does not read (`UNREAD_OPTIONS`) raises a `ValueError`, even to the parent's
    default. Defaults that differ from [`~trl.DPOConfig`]: `max_length` is None (nothing is truncated), and
    `padding_free` is true if the objective is a sum over traces.
    """

    objective: str = _option("redi", f"What is minimised: {' or '.join(OBJECTIVES)}.")
    padding_free: bool | None = _option(
        None,
        "Train on packed traces, balanced over micro-batches and ranks, instead of on padded pairs. Loss and gradient "
        "are the same. Defaults to true for objectives that are sums over traces, as 'redi'; others are padded.",
    )
    max_tokens_per_micro_batch: int | None = _option(None, _MAX_TOKENS)
    collapse_guard: str = _option(
        "warn",
        "What to do when the run collapses: 'off', 'warn' once, or 'stop' with exit code 3, which saves nothing more.",
    )
    collapse_logps_drop: float = _option(
        1.0,
        "How far logps/chosen must fall below its mean over the first logged steps, in nats per token. A fall of 1 "
        "makes a correct token e times less likely. Benign quickstart runs fall by up to 0.7, a collapsing one by 2.",
    )
    collapse_grad_norm_ratio: float = _option(
        3.0,
        "Factor by which grad_norm must exceed its median over the first logged steps. Alone it means nothing: "
        "grad_norm also grows 3- to 8-fold in benign runs. But a fall of logps/chosen with a calm grad_norm is not a "
        "collapse.",
    )
    collapse_window: int = _option(
        5, "Logged steps in the reference window. A longer one is steadier, but must end before a collapse."
    )
    collapse_patience: int = _option(
        3, "Logged steps that a collapse must last, because grad_norm is that of a single step."
    )
    log_update_norm: bool = _option(
        False,
        "Log update_norm: the L2 norm of the parameter change of an optimizer step, averaged over the logged steps. "
        "Costs one copy of the trainable parameters.",
    )
    max_length: int | None = _option(
        None, "Longest trace (prompt and completion) in tokens. Longer traces are cut at the end and counted."
    )

    def __post_init__(self):
        for name, reason in UNREAD_OPTIONS.items():
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name}={value!r} is a DPO option that REDI does not read: {reason}. Remove it.")
        if self.parallelism_config is not None:
            raise ValueError("parallelism_config is not supported: a trace stays on one GPU. Remove it.")
        self._read_objective()
        _check_engine(self, _UNREAD_BY_ENGINE)
        self._check_collapse_guard()
        self._restore_parent_defaults()
        choose_device(self)
        super().__post_init__()

    def _read_objective(self) -> None:
        """Gives unset options of the objective their defaults. Raises a `ValueError` for values it does not take."""
        if self.objective not in OBJECTIVES:
            known = " or ".join(map(repr, OBJECTIVES))
            hint = "; DPO is a stage, see recipes/dpo" if self.objective == "dpo" else ""
            raise ValueError(f"objective={self.objective!r} is unknown; use {known}{hint}.")
        objective = OBJECTIVES[self.objective]
        for name in dict.fromkeys(name for entry in OBJECTIVES.values() for name in entry.options):
            self._read_option(name, objective.options.get(name))
        if self.padding_free and not objective.is_sum:
            sums = _names(lambda entry: entry.is_sum)
            raise ValueError(f"padding_free=True needs {sums}: {objective.title} is not a sum over traces. Remove it.")
        self.padding_free = objective.is_sum if self.padding_free is None else self.padding_free
        objective.negative_term(self)
        if objective.is_sum and not any(objective.weights(self)):
            values = ", ".join(f"{name}={getattr(self, name)}" for name in objective.options)
            raise ValueError(f"with {values} both sides have weight 0, and nothing is trained.")

    def _read_option(self, name: str, option: Option | None) -> None:
        """Checks an option of some objective, or sets it; `option` is None if the run's objective does not read it."""
        value = getattr(self, name)
        if option is None and value is not None:
            readers = _names(lambda entry: name in entry.options)
            raise ValueError(
                f"{name}={value} is not read with objective={self.objective!r}, only with {readers}. Remove it."
            )
        if option is not None and value is None:
            setattr(self, name, option.default)
        elif option is not None and option.range and not option.range[0] <= value <= option.range[1]:
            limits = "[{}, {}]".format(*option.range)
            raise ValueError(f"{name}={value} is outside {limits}; the default is {option.default}.")

    @property
    def trains_on_traces(self) -> bool:
        """Whether the engine trains, on traces, and not on padded pairs."""
        return bool(self.padding_free)

    @property
    def leaves_out_negatives(self) -> bool:
        """Whether negatives have weight 0, so that the engine does not compute them."""
        return self.trains_on_traces and OBJECTIVES[self.objective].weights(self)[1] == 0

    def _check_collapse_guard(self) -> None:
        if self.collapse_guard == "False":  # YAML reads a bare `off` as false
            self.collapse_guard = "off"
        if self.collapse_guard not in ("off", "warn", "stop"):
            raise ValueError(f"collapse_guard={self.collapse_guard!r} is unknown; use 'off', 'warn' or 'stop'.")
        for name in ("collapse_logps_drop", "collapse_grad_norm_ratio", "collapse_window", "collapse_patience"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")

    def _restore_parent_defaults(self) -> None:
        """Gives the unread options the values that `DPOTrainer.__init__` expects, since it does read them."""
        for parent in fields(DPOConfig):
            if parent.name in UNREAD_OPTIONS:
                factory = parent.default_factory
                setattr(self, parent.name, factory() if callable(factory) else parent.default)
        # With this flag DPOTrainer loads no reference model. REDITrainer makes the precomputation itself a no-op.
        self.precompute_ref_log_probs = True
