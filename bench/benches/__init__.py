"""One file a bench, each with ``run(options) -> Report``; its docstring is what ``--help`` says of it."""
