"""How time and memory of a bake-off grow with its runs and its documents."""
