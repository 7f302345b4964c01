"""The experiments as YAML files, and what runs them: `read_recipe` and `run_recipe`."""
