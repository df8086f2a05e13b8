"""What a training prints as it goes: a progress bar, and a line of aligned columns per logged step."""

import time

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

_PAIR_COLUMNS = {"LogPS chosen": "logps/chosen", "LogPS rejected": "logps/rejected", "margin": "rewards/margins"}
_TOKEN_COLUMNS = {"accuracy": "mean_token_accuracy"}


class StepLines(ProgressCallback):
    """A progress bar, and one line of aligned columns per logged step; state and trackers get all metrics.

    Replaces the progress callback of transformers. With `disable_tqdm`, the lines alone.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = self.first_step = state.global_step
        self.begun = self.logged_at = time.monotonic()
        self.num_tokens = state.num_input_tokens_seen
        self.header = ""
        if state.is_world_process_zero:
            shown = dict(disable=args.disable_tqdm, dynamic_ncols=True)
            self.training_bar = tqdm(total=state.max_steps, initial=state.global_step, **shown)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None or "loss" not in logs:
            return
        now = time.monotonic()
        seconds, self.logged_at = now - self.logged_at, now
        tokens, self.num_tokens = logs["num_tokens"] - self.num_tokens, logs["num_tokens"]
        done = state.global_step - self.first_step
        minutes, second = divmod(round((now - self.begun) / done * (state.max_steps - state.global_step)), 60)
        step = f"{state.global_step}/{state.max_steps}".rjust(2 * len(str(state.max_steps)) + 1)
        columns = {"step".rjust(len(step)): step, "loss": _number(logs["loss"])}
        titles = _PAIR_COLUMNS if any(key in logs for key in _PAIR_COLUMNS.values()) else _TOKEN_COLUMNS
        columns |= {title: _number(logs.get(key)) for title, key in titles.items()}
        columns |= {"grad norm": _number(logs.get("grad_norm")), "lr": f"{logs['learning_rate']:.1e}"}
        columns |= {"tokens/s": f"{tokens / seconds:.0f}", "left": f"{minutes // 60}:{minutes % 60:02}:{second:02}"}
        widths = [max(len(title), 7) for title in columns]
        header = "  ".join(map(str.rjust, columns, widths))
        row = "  ".join(map(str.rjust, columns.values(), widths))
        self.training_bar.write(row if header == self.header else f"{header}\n{row}")
        self.header = header

    on_prediction_step = TrainerCallback.on_prediction_step  # no second bar

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.training_bar is not None:
            titles = {"loss": "loss"} | (_PAIR_COLUMNS if "eval_logps/chosen" in metrics else _TOKEN_COLUMNS)
            shown = ", ".join(f"{title} {_number(metrics.get(f'eval_{key}'))}" for title, key in titles.items())
            self.training_bar.write(f"held out: {shown}")
            self.logged_at = time.monotonic()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.1e}"
