"""What a training job would waste, found before it costs a GPU hour: options, data, tokens, memory, hours, disk."""
