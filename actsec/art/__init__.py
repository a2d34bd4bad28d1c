"""The Adversarial Robustness Toolbox behind a bridge: its attacks by name, judged like any other."""
