"""How the sample model, its prompts and its tasks are made; nothing in the packages imports this."""
