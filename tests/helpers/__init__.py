"""What several tests share: paths, tiny models and corpora, commands, and oracles in plain PyTorch."""
