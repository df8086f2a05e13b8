"""What every command shares: errors, options, output folders, manifests, checkpoints, model folders and cards.

`errors`, `cli`, `files`, `manifest`, `lock`, `jsonl`, `markdown`, `recipe` and `launch` do not import torch, so a
command that needs no more refuses a mistyped option in a fraction of a second.
"""
