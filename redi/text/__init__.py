"""What a row becomes, for training and for evaluation: messages, chat templates, prompts and tokens."""
