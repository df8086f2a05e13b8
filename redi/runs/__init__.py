"""What every command shares: errors, options, output folders, manifests, checkpoints, model folders and cards.

`errors`, `cli`, `files` and `manifest` do not import torch, so a mistyped option is refused in a fraction of a second.
"""
